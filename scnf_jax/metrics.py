"""What is measured."""

import math
from typing import TypeVar

import jax
import numpy as np

Number = TypeVar("Number", float, np.ndarray, jax.Array)


def bits_per_dim(log_prob: Number, num_dims: int, num_levels: int | None) -> Number:
    r"""Log-likelihoods of objects as bits per dimension.

    .. math:: \log_2 L - \frac{\log p(x)}{D \log 2}

    for ``D`` dequantised pixels of ``L`` grey levels, scaled to [0, 1); without the
    first term for vectors, where the figure is a differential entropy and may be negative.

    Args:
      log_prob: ``log p(x)`` in nats, one or an array.
      num_dims: D.
      num_levels: L, or None for vectors.

    Returns:
      Bits per dimension, shaped like ``log_prob``.

    Example:
      >>> bits_per_dim(0.0, num_dims=784, num_levels=256)
      8.0
    """
    return math.log2(num_levels or 1) - log_prob / (num_dims * math.log(2.0))


def log_posterior_of(log_joint: np.ndarray) -> np.ndarray:
    r"""``log p(y|x)`` of ``log p(x, y)``, also far out, where these are large and nearly equal.

    .. math:: \log p(y = k|x) = \log p(x, y = k) - \mathrm{logsumexp}_y \log p(x, y)

    Args:
      log_joint: ``[N, K]``.

    Returns:
      ``[N, K]``; of each row the probabilities add up to 1. NaN where ``p(x)`` underflows under
      every class, as :func:`jax.nn.log_softmax` has it.

    Example:
      >>> np.exp(log_posterior_of(np.array([[-1e20, -1e20], [-np.inf, -np.inf]]))).tolist()
      [[0.5, 0.5], [nan, nan]]
    """
    with np.errstate(invalid="ignore"):  # -inf - -inf
        # The largest goes first: what others add to it is lost in the digits of a large number.
        relative = log_joint - np.max(log_joint, -1, keepdims=True)
    return relative - np.log(np.sum(np.exp(relative), -1, keepdims=True))


def is_right(log_posterior: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the most likely label is the true one.

    Args:
      log_posterior: ``[N, K]``; a row with one that is not a number is wrong.
      labels: ``[N]``, all known.

    Returns:
      bool ``[N]``.
    """
    return (np.argmax(log_posterior, -1) == labels) & ~np.isnan(log_posterior).any(-1)


def error_percent(log_posterior: np.ndarray, labels: np.ndarray) -> float:
    """Share of objects whose most likely label is wrong, in percent.

    Args:
      log_posterior: ``[N, K]``; a row with one that is not a number counts as wrong.
      labels: ``[N]``, all known.

    Returns:
      0 to 100.
    """
    return 100.0 * (1.0 - float(is_right(log_posterior, labels).mean()))


def margins(log_posterior: np.ndarray) -> np.ndarray:
    """How sure a model is of the most likely label: ``log p(k1|x) - log p(k2|x)``, in nats.

    ``k1`` and ``k2`` are the two most likely labels. It still tells objects apart where their
    probabilities are 1 and 0 in floating point.

    Args:
      log_posterior: ``log p(y|x) [N, K]``, K at least 2.

    Returns:
      ``[N]``, at least 0.

    Raises:
      ValueError: where there is one label alone.

    Example:
      >>> margins(np.log([[0.9, 0.1], [0.5, 0.5]])).round(3).tolist()
      [2.197, 0.0]
    """
    if log_posterior.shape[-1] < 2:
        raise ValueError("margins: expected at least two labels to tell apart, got one")
    second, first = np.partition(log_posterior, -2, -1)[:, -2:].T
    return first - second

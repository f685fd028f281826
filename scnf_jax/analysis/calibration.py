"""How far a posterior can be believed."""

from typing import NamedTuple

import numpy as np

from scnf_jax.metrics import is_right, margins


class Reliability(NamedTuple):
    """Objects by the confidence of their predicted label.

    Attributes:
      edges: of the bins ``[B + 1]``, from 0 to 1.
      counts: objects in each bin ``[B]``.
      confidence: mean confidence in each ``[B]``, NaN where empty.
      accuracy: share of right labels in each ``[B]``, NaN where empty.
      ece: expected calibration error, in 0..1.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def reliability(log_posterior: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    r"""Reliability diagram and expected calibration error.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Args:
      log_posterior: ``log p(y|x) [N, K]``; a row with one that is not a number is wrong, with
        no confidence.
      labels: ``[N]``, all known.
      bins: B, of equal width.

    Returns:
      The bins and the error.

    References:
      Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2,
      https://arxiv.org/abs/1706.04599

    Example:
      >>> posterior = np.log([[0.9, 0.1], [0.9, 0.1]])
      >>> round(reliability(posterior, np.array([0, 1])).ece, 6)
      0.4
    """
    confidence = np.nan_to_num(np.exp(np.max(log_posterior.astype(np.float64), -1)))
    right = is_right(log_posterior, labels)
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, confidence, bins) / count
        accuracy = np.bincount(index, right, bins) / count
    gaps = np.where(count > 0, np.abs(accuracy - mean_confidence), 0.0)
    return Reliability(
        edges, count, mean_confidence, accuracy, float(np.sum(count * gaps) / len(labels))
    )


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts ``[K, K]``: row the true label, column the predicted one.

    Args:
      predicted: ``[N]``; objects with -1 are left out.
      labels: ``[N]``, all known.
      num_classes: K.

    Returns:
      int64 ``[K, K]``.

    Example:
      >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
      array([[1, 1],
             [0, 1]])
    """
    pairs = (num_classes * labels.astype(np.int64) + predicted)[predicted >= 0]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def error_at_coverage(
    log_posterior: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Error where the model answers on its most certain objects alone.

    Objects are taken by falling certainty, the difference of the two largest
    log-posteriors: a flow's largest probability is 1 to the last digit for most objects.

    Args:
      log_posterior: ``[N, K]``; a row with one that is not a number is wrong, and comes last.
      labels: ``[N]``, all known.

    Returns:
      Coverage ``[N]`` in (0, 1] and the error in percent ``[N]`` on that share.

    References:
      Geifman, El-Yaniv 2017, "Selective Classification for Deep Neural Networks",
      section 2, https://arxiv.org/abs/1705.08500
    """
    margin = margins(log_posterior) if log_posterior.shape[-1] > 1 else log_posterior[:, 0]
    order = np.argsort(-margin, kind="stable")  # what is not a number comes last
    wrong = ~is_right(log_posterior, labels)[order]
    taken = np.arange(1, len(labels) + 1)
    return taken / len(labels), 100.0 * np.cumsum(wrong) / taken

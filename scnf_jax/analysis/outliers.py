"""Scores that tell foreign objects from those a model was trained on."""

from collections.abc import Callable

import numpy as np

from scnf_jax.inference import Scores

SCORES = ("log_prob", "typicality", "entropy")


def outlier_scores(scores: Scores, train_log_prob: np.ndarray) -> dict[str, np.ndarray]:
    """Three scores, each larger for objects that are more likely foreign.

    ``log_prob`` is ``-log p(x)``; ``typicality`` is ``|log p(x) - mean|``, the distance
    to the mean log-density of train objects; ``entropy`` is that of the posterior. Where a
    score is no number, as where every ``log p(x, y)`` overflows, it is infinite.

    Args:
      scores: of the objects, of a model with a density.
      train_log_prob: ``log p(x)`` of train objects ``[M]``.

    Returns:
      By the names in :data:`SCORES`, each ``[N]``.

    References:
      Nalisnick et al. 2019, "Detecting Out-of-Distribution Inputs to Deep Generative
      Models Using Typicality", section 3, https://arxiv.org/abs/1906.02994
    """
    log_prob = np.asarray(scores.log_prob, np.float64)
    usual = np.mean(train_log_prob[np.isfinite(train_log_prob)])
    values = (-log_prob, np.abs(log_prob - usual), scores.entropy)
    return dict(zip(SCORES, map(_foreign_where_nan, values), strict=True))


def _foreign_where_nan(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), np.inf, scores)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that a foreign object scores higher than one of the model's own.

    Args:
      inside: scores of objects like those of training ``[N]``.
      outside: scores of foreign objects ``[M]``.

    Returns:
      0 to 1; 0.5 is chance. Ties count a half; infinite scores are ordered as such.

    Example:
      >>> auroc(np.array([0.0, 1.0]), np.array([2.0, 0.5]))
      0.75
    """
    from scipy.stats import rankdata

    ranks = rankdata(_foreign_where_nan(np.concatenate([inside, outside])))[len(inside) :]
    pairs = ranks.sum() - len(outside) * (len(outside) + 1) / 2
    return float(pairs / (len(inside) * len(outside)))


def _noise(x: np.ndarray, num_levels: int) -> np.ndarray:
    deviation = 0.2 * (num_levels - 1)
    return x + deviation * np.random.RandomState(0).standard_normal(x.shape)


def _blur(x: np.ndarray, num_levels: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    del num_levels
    return gaussian_filter(x, (0, 1.0, 1.0, 0))


def _rotation(x: np.ndarray, num_levels: int) -> np.ndarray:
    del num_levels
    return np.rot90(x, axes=(1, 2))


def _inversion(x: np.ndarray, num_levels: int) -> np.ndarray:
    return num_levels - 1 - x


def _constant(x: np.ndarray, num_levels: int) -> np.ndarray:
    del num_levels
    return np.zeros_like(x)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "rotation": _rotation,
    "inversion": _inversion,
    "black": _constant,
}


def corrupt(x: np.ndarray, name: str, num_levels: int) -> np.ndarray:
    """Images spoilt in one way.

    Args:
      x: grey levels ``[N, H, W, C]``.
      name: ``noise`` (normal, a fifth of the range), ``blur`` (Gaussian, one pixel),
        ``rotation`` (a quarter turn; square images), ``inversion``, or ``black``.
      num_levels: grey levels of a pixel.

    Returns:
      uint8, shaped like ``x``.
    """
    spoilt = CORRUPTIONS[name](x.astype(np.float64), num_levels)
    return np.clip(np.round(spoilt), 0, num_levels - 1).astype(np.uint8)

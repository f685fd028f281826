"""Two-dimensional pictures of representations."""

from collections.abc import Callable

import numpy as np


def _pca(z: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(2, random_state=seed).fit_transform(z)


def _tsne(z: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    few = PCA(min(50, *z.shape), random_state=seed).fit_transform(z)
    perplexity = min(30.0, (len(z) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(few)


EMBEDDINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"PCA": _pca, "t-SNE": _tsne}


def embed(z: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Places representations in the plane.

    Args:
      z: ``[N, D]``; every column is standardised first.
      method: ``PCA``, fast and linear, or ``t-SNE``, on the first 50 principal components.
      seed: of the method.

    Returns:
      ``[N, 2]``.

    References:
      van der Maaten, Hinton 2008, "Visualizing Data using t-SNE"
    """
    deviation = z.std(0)
    standard = (z - z.mean(0)) / np.where(deviation > 1e-6, deviation, 1.0)
    return EMBEDDINGS[method](standard, seed)

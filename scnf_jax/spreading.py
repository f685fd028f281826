"""Labels spread from few objects to all, along a graph of their nearest neighbours."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from scipy.sparse import csr_matrix, diags

from scnf_jax.data import TrainObjects, take
from scnf_jax.data.batches import joined, slices

Array = jax.Array
_BLOCK = 1000
_ENTRIES = 2**26  # of distances at a time
_DIRECTIONS = 8
_CELLS = 7  # an axis
_SMOOTHING = 0.7  # pixels
_SCALE_OF = 7  # the neighbour whose distance is an object's scale
_SMALL = 1e-6


@partial(jax.jit, static_argnames="num_levels")
def gradient_histograms(images: Array, num_levels: int = 256) -> Array:
    r"""In which directions grey levels change in each part of an image, its slant removed.

    The image is moved so that its centre of mass is in the middle and sheared so that rows and
    columns of its mass are uncorrelated. Then every pixel's gradient votes for the two nearest of
    8 directions, by its magnitude; votes are averaged over smooth windows around 7 x 7 points (as
    many as the image is large, if that is smaller), and the square roots of all are scaled to
    length 1.

    Args:
      images: grey levels ``[N, H, W, C]``; channels are averaged.
      num_levels: how many there are.

    Returns:
      float32 ``[N, D]``, rows of length 1; of 0 where an image is 0 everywhere.

    References:
      Dalal, Triggs 2005, "Histograms of Oriented Gradients for Human Detection", section 6;
      LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section
      III.A (deslanted images)

    Example:
      >>> gradient_histograms(jnp.ones((2, 28, 28, 1)).at[:, 5:20, 9].set(200)).shape
      (2, 392)
    """
    height, width = images.shape[1:3]
    planes = images.astype(jnp.float32).mean(-1) / num_levels
    planes = jax.vmap(_without_slant)(planes)
    smooth = (_windows(height, height, _SMOOTHING), _windows(width, width, _SMOOTHING))
    planes = jnp.einsum("ri,nij,cj->nrc", smooth[0], planes, smooth[1])
    down, right = jnp.gradient(planes, axis=(1, 2))
    votes = _votes(down, right) * jnp.hypot(down, right)[..., None]
    rows, columns = min(height, _CELLS), min(width, _CELLS)
    cells = (
        _windows(rows, height, height / rows / 2),
        _windows(columns, width, width / columns / 2),
    )
    found = jnp.sqrt(jnp.einsum("ri,nijk,cj->nrck", cells[0], votes, cells[1]))
    found = found.reshape(len(found), -1)
    return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), _SMALL)


def _votes(down: Array, right: Array) -> Array:
    """Of directions ``[...]`` for the two nearest of 8: ``[..., 8]``, with sum 1."""
    turn = jnp.arctan2(down, right) / (2 * jnp.pi) * _DIRECTIONS
    apart = (turn[..., None] - jnp.arange(_DIRECTIONS)) % _DIRECTIONS
    return jnp.maximum(0.0, 1.0 - jnp.minimum(apart, _DIRECTIONS - apart))


def _windows(num: int, size: int, deviation: float) -> Array:
    """Gaussian weights ``[num, size]`` of pixels around ``num`` points at equal distances."""
    points = (jnp.arange(num) + 0.5) * size / num - 0.5
    weights = jnp.exp(-((points[:, None] - jnp.arange(size)) ** 2) / (2 * deviation**2))
    return weights / (deviation * np.sqrt(2 * np.pi))


def _without_slant(plane: Array) -> Array:
    """A plane ``[H, W]`` moved to its centre of mass, with upright axes; 0 comes in."""
    height, width = plane.shape
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    mass = plane / jnp.maximum(plane.sum(), _SMALL)
    centre = (mass * rows).sum(), (mass * columns).sum()
    down, right = rows - centre[0], columns - centre[1]
    slant = (mass * down * right).sum() / ((mass * down**2).sum() + _SMALL)
    down, right = rows - (height - 1) / 2, columns - (width - 1) / 2
    return map_coordinates(plane, [down + centre[0], slant * down + right + centre[1]], order=1)


def nearest_neighbours(z: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other objects of each object.

    Args:
      z: features ``[N, D]``.
      num: of neighbours, below N.

    Returns:
      Row numbers ``[N, num]``, the nearest first, and squared Euclidean distances, as many.
    """
    points = jnp.asarray(z, jnp.float32)
    lengths = (points**2).sum(-1)
    size = max(min(_BLOCK, _ENTRIES // len(points)), 1)
    parts = slices(len(points), size)
    rows, distances = joined([_nearest(points, lengths, points[p], p.start, num) for p in parts])
    return rows, distances


@partial(jax.jit, static_argnames="num")
def _nearest(
    points: Array, lengths: Array, block: Array, start: int, num: int
) -> tuple[Array, Array]:
    """Those of a block of the points, whose first has number ``start``."""
    own = jnp.arange(len(block))
    closeness = 2 * block @ points.T - (block**2).sum(-1)[:, None] - lengths
    values, rows = jax.lax.top_k(closeness.at[own, start + own].set(-jnp.inf), num)
    return rows, jnp.maximum(-values, 0.0)


def neighbour_graph(z: np.ndarray, num_neighbours: int = 8) -> csr_matrix:
    r"""A graph of nearest neighbours, each distance measured by what is usual there.

    Objects i and j, one of which is among the nearest of the other, are joined by

    .. math:: W_{ij} = \exp(-|z_i - z_j|^2 / (s_i s_j))

    with :math:`s_i` the distance of object i to its 7th neighbour, or to its last.

    Args:
      z: features ``[N, D]``, of at least two objects.
      num_neighbours: of each object; with fewer other objects, all of them.

    Returns:
      :math:`S = D^{-1/2} W D^{-1/2}`, float64 ``[N, N]``, D the row sums of W.

    References:
      Zelnik-Manor, Perona 2004, "Self-Tuning Spectral Clustering", section 2 (the scales)
    """
    size, num = len(z), min(num_neighbours, len(z) - 1)
    rows, distances = nearest_neighbours(z, num)
    scale = np.sqrt(distances[:, min(_SCALE_OF, num) - 1])
    scales = np.maximum(scale[:, None] * scale[rows], np.finfo(np.float32).tiny)
    weights = np.exp(-distances.astype(np.float64) / scales)
    starts = np.arange(0, size * num + 1, num)
    graph = csr_matrix((weights.ravel(), rows.ravel(), starts), (size, size))
    graph = graph.maximum(graph.T)
    degrees = np.maximum(np.asarray(graph.sum(1)).ravel(), np.finfo(np.float32).tiny)
    root = diags(1 / np.sqrt(degrees))
    return root @ graph @ root


def spread_labels(
    graph: csr_matrix, belief: np.ndarray, alpha: float = 0.99, tolerance: float = 0.02
) -> np.ndarray:
    r"""Label spreading: what is believed of some objects, along a graph.

    With beliefs Y, labels F are iterated from Y on by :math:`F \leftarrow \alpha S F +
    (1 - \alpha) Y`, and then scaled to sum 1.

    Args:
      graph: S, as of :func:`neighbour_graph`.
      belief: probabilities of the classes ``[N, K]``: 1 for a known label, all 0 where nothing is
        known.
      alpha: share of its neighbours in the labels of an object, above 0 and below 1.
      tolerance: the iteration ends when the share of its start in the labels is below.

    Returns:
      ``log p(y|x)``, float64 ``[N, K]``; NaN where no belief reaches an object.

    References:
      Zhou et al. 2003, "Learning with Local and Global Consistency", section 2

    Example:
      >>> z = np.array([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
      >>> belief = np.zeros((6, 2))
      >>> belief[0, 0] = belief[5, 1] = 1.0
      >>> spread_labels(neighbour_graph(z, 2), belief).argmax(-1)
      array([0, 0, 0, 1, 1, 1])
    """
    found = belief
    for _ in range(math.ceil(math.log(tolerance) / math.log(alpha))):
        found = alpha * (graph @ found) + (1 - alpha) * belief
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(found / found.sum(-1, keepdims=True))


def features(x: TrainObjects, num_levels: int | None) -> np.ndarray:
    """What objects as stored are compared by: ``[N, D]``.

    Of images their :func:`gradient_histograms`; of vectors (``num_levels`` None) themselves.
    """
    if num_levels is None:
        return take(x, slice(None))
    parts = [take(x, part) for part in slices(x.shape[0], _BLOCK)]
    return joined([np.asarray(gradient_histograms(part, num_levels)) for part in parts])

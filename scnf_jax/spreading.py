"""Labels spread from few objects to all, along a graph of their nearest neighbours."""

import math
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from scnf_jax.data import TrainObjects, take
from scnf_jax.data.batches import joined, slices

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Array = jax.Array
_BLOCK = 1000
_ENTRIES = 2**26  # of distances at a time
_DIRECTIONS = 8
_CELLS = 7  # an axis
_SMALLEST = 28  # pixels
_SMOOTHING = 0.7  # pixels
_CANDIDATES = 30  # by histograms, of which those nearest by deformation are taken
_PAIRS = 480  # at a time, few enough for the cache of a CPU
_REACH = 2  # pixels
_SCALE_OF = 7  # the neighbour half of whose distance is an object's scale
_SMALL = 1e-6


@partial(jax.jit, static_argnames="num_levels")
def upright_planes(images: Array, num_levels: int = 256) -> Array:
    """Images moved to the middle, sheared upright, and a little smoothed.

    Those of less than 28 pixels are enlarged to it first, since what follows interpolates. The
    centre of mass goes to the middle, and the shear is that for which rows and columns of the mass
    are uncorrelated; 0 comes in. The window that smooths is Gaussian, of 0.7 pixels.

    Args:
      images: grey levels ``[N, H, W, C]``; channels are averaged.
      num_levels: how many there are.

    Returns:
      float32 ``[N, max(H, 28), max(W, 28)]``, from 0 to about 1.

    References:
      LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section
      III.A (deslanted images)
    """
    height, width = (max(size, _SMALLEST) for size in images.shape[1:3])
    planes = images.astype(jnp.float32).mean(-1) / num_levels
    planes = jnp.maximum(jax.image.resize(planes, (len(planes), height, width), "cubic"), 0.0)
    planes = jax.vmap(_without_slant)(planes)
    smooth = (_windows(height, height, _SMOOTHING), _windows(width, width, _SMOOTHING))
    return jnp.einsum("ri,nij,cj->nrc", smooth[0], planes, smooth[1])


@partial(jax.jit, static_argnames="num_levels")
def gradient_histograms(images: Array, num_levels: int = 256) -> Array:
    r"""In which directions grey levels change in each part of an image, its slant removed.

    In :func:`upright_planes` every pixel's gradient votes for the two nearest of 8 directions, by
    its magnitude; votes are averaged over smooth windows around 7 x 7 points, and the square roots
    of all are scaled to length 1.

    Args:
      images: see :func:`upright_planes`.
      num_levels: see :func:`upright_planes`.

    Returns:
      float32 ``[N, D]``, rows of length 1; of 0 where an image is 0 everywhere.

    References:
      Dalal, Triggs 2005, "Histograms of Oriented Gradients for Human Detection", section 6

    Example:
      >>> gradient_histograms(jnp.ones((2, 28, 28, 1)).at[:, 5:20, 9].set(200)).shape
      (2, 392)
    """
    planes = upright_planes(images, num_levels)
    height, width = planes.shape[1:]
    down, right = jnp.gradient(planes, axis=(1, 2))
    votes = _votes(down, right) * jnp.hypot(down, right)[..., None]
    cells = [_windows(_CELLS, size, size / _CELLS / 2) for size in (height, width)]
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


@jax.jit
def deformation_distances(planes: Array, others: Array) -> Array:
    r"""What differs between two images when every pixel may look for its like nearby.

    .. math:: d(a, b) = \sum_p \min_{|u| \le 2} \sum_{|v| \le 1}
        |\nabla a(p + v) - \nabla b(p + u + v)|^2

    over pixels p, with u and v whole pixels in both directions; outside of an image its gradient
    is 0.

    Args:
      planes: a, ``[N, H, W]``, as of :func:`upright_planes`.
      others: b, one for each.

    Returns:
      ``[N]``; d(a, b) and d(b, a) may differ.

    References:
      Keysers, Deselaers, Gollan, Ney 2007, "Deformation Models for Image Recognition" (the image
      distortion model, of gradients, with a context of 3 x 3 pixels)

    Example:
      >>> image = jnp.zeros((1, 9, 9)).at[:, 3:5, 4].set(1.0)
      >>> moved, gone = jnp.roll(image, 2, axis=1), jnp.zeros_like(image)
      >>> [float(deformation_distances(image, other)[0]) for other in (moved, gone)]
      [0.0, 18.0]
    """
    context = ((1, 1), (1, 1), (0, 0))
    side = 2 * _REACH + 1
    # Pairs are last, so that they lie side by side in memory.
    ours, theirs = (
        jnp.gradient(jnp.moveaxis(each, 0, -1), axis=(0, 1)) for each in (planes, others)
    )
    theirs = [jnp.pad(each, ((_REACH, _REACH), (_REACH, _REACH), (0, 0))) for each in theirs]

    def least(shift: Array, found: Array) -> Array:
        corner = (shift // side, shift % side, 0)
        down, right = (
            own - jax.lax.dynamic_slice(other, corner, own.shape)
            for own, other in zip(ours, theirs, strict=True)
        )
        apart = jnp.pad(down**2 + right**2, context)
        apart = apart[:-2] + apart[1:-1] + apart[2:]
        return jnp.minimum(found, apart[:, :-2] + apart[:, 1:-1] + apart[:, 2:])

    start = jnp.full_like(ours[0], jnp.inf)
    return jax.lax.fori_loop(0, side**2, least, start).sum((0, 1))


def nearest_points(z: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other points of each point.

    Args:
      z: ``[N, D]``.
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


def nearest_images(
    images: TrainObjects, num: int, num_levels: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other images of each image.

    Those with the least :func:`deformation_distances` of the 30 whose :func:`gradient_histograms`
    are nearest. Planes and histograms of all images are held in memory, 3 and 1.6 kB for one of
    28 x 28 pixels.

    Args:
      images: grey levels ``[N, H, W, C]``.
      num: of neighbours, below N and at most 30.
      num_levels: how many grey levels there are.

    Returns:
      Row numbers ``[N, num]``, the nearest first, and distances, as many.
    """
    size = images.shape[0]
    candidates, _ = nearest_points(histograms(images, num_levels), min(_CANDIDATES, size - 1))
    stored = (take(images, part) for part in slices(size, _BLOCK))
    planes = jnp.concatenate([upright_planes(part, num_levels) for part in stored])
    parts = slices(size, max(_PAIRS // candidates.shape[1], 1))
    distances = joined([_of_candidates(planes, planes[p], candidates[p]) for p in parts])
    order = np.argsort(distances, -1, kind="stable")[:, :num]
    return np.take_along_axis(candidates, order, -1), np.take_along_axis(distances, order, -1)


@jax.jit
def _of_candidates(planes: Array, block: Array, candidates: Array) -> Array:
    num = candidates.shape[1]
    others = planes[candidates.ravel()]
    return deformation_distances(jnp.repeat(block, num, 0), others).reshape(-1, num)


def nearest_objects(
    x: TrainObjects, num_levels: int | None, num: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Of objects as stored the nearest others: of images, or (``num_levels`` None) of vectors.

    Args:
      x: ``[N, ...]``, at least two.
      num_levels: of images.
      num: of neighbours; with fewer other objects, all of them.

    Returns:
      See :func:`nearest_points` and :func:`nearest_images`.
    """
    num = min(num, x.shape[0] - 1)
    if num_levels is None:
        return nearest_points(take(x, slice(None)), num)
    return nearest_images(x, num, num_levels)


def neighbour_graph(rows: np.ndarray, distances: np.ndarray) -> "csr_matrix":
    r"""A graph of nearest neighbours, each distance measured by what is usual there.

    Objects i and j, one of which is among the nearest of the other, are joined by

    .. math:: W_{ij} = \exp(-d_{ij}^2 / (s_i s_j))

    with :math:`s_i` half of the distance of object i to its 7th neighbour, or to its last.

    Args:
      rows: of the nearest other objects of each, ``[N, num]``, the nearest first.
      distances: :math:`d_{ij}^2`, as many.

    Returns:
      :math:`S = D^{-1/2} W D^{-1/2}`, float64 ``[N, N]``, D the row sums of W.

    References:
      Zelnik-Manor, Perona 2004, "Self-Tuning Spectral Clustering", section 2 (the scales)
    """
    from scipy.sparse import csr_matrix, diags

    size, num = rows.shape
    scale = np.sqrt(distances[:, min(_SCALE_OF, num) - 1]) / 2
    scales = np.maximum(scale[:, None] * scale[rows], np.finfo(np.float32).tiny)
    weights = np.exp(-distances.astype(np.float64) / scales)
    starts = np.arange(0, size * num + 1, num)
    graph = csr_matrix((weights.ravel(), rows.ravel(), starts), (size, size))
    graph = graph.maximum(graph.T)
    degrees = np.maximum(np.asarray(graph.sum(1)).ravel(), np.finfo(np.float32).tiny)
    root = diags(1 / np.sqrt(degrees))
    return root @ graph @ root


def spread_labels(
    graph: "csr_matrix", belief: np.ndarray, alpha: float = 0.99, tolerance: float = 0.02
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
      >>> spread_labels(neighbour_graph(*nearest_points(z, 2)), belief).argmax(-1)
      array([0, 0, 0, 1, 1, 1])
    """
    found = belief
    for _ in range(math.ceil(math.log(tolerance) / math.log(alpha))):
        found = alpha * (graph @ found) + (1 - alpha) * belief
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(found / found.sum(-1, keepdims=True))


def histograms(images: TrainObjects, num_levels: int = 256) -> np.ndarray:
    """The :func:`gradient_histograms` of images as stored, some at a time: ``[N, D]``."""
    parts = [take(images, part) for part in slices(images.shape[0], _BLOCK)]
    return joined([np.asarray(gradient_histograms(part, num_levels)) for part in parts])

"""Monotone rational-quadratic spline couplings."""

import math

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import Array, Bijector, Conditioner
from scnf_jax.bijectors.coupling import Split, Transform, coupling
from scnf_jax.options import check_above_zero

_MIN_BIN = 1e-3
_MIN_SLOPE = 1e-3
_UNIT_SLOPE = math.log(math.expm1(1.0 - _MIN_SLOPE))


def _knots(raw: Array, bound: float) -> tuple[Array, Array]:
    """Bin sizes ``[..., K]`` and edges ``[..., K + 1]`` from -bound to bound."""
    num_bins = raw.shape[-1]
    share = _MIN_BIN + (1.0 - _MIN_BIN * num_bins) * jax.nn.softmax(raw, -1)
    sizes = 2.0 * bound * share
    inner = jnp.cumsum(sizes, -1)[..., :-1] - bound
    ends = jnp.full((*raw.shape[:-1], 1), bound, raw.dtype)
    edges = jnp.concatenate([-ends, inner, ends], -1)
    return jnp.diff(edges, axis=-1), edges


def spline_transform(num_bins: int, bound: float) -> Transform:
    """The elementwise map of :func:`spline_coupling`."""

    def bins(theta: Array, value: Array, by_height: bool) -> tuple[Array, ...]:
        """The bin of every value: (x0, width, y0, height, slope left, slope right)."""
        theta = jnp.moveaxis(theta, -2, -1)
        widths, x_edges = _knots(theta[..., :num_bins], bound)
        heights, y_edges = _knots(theta[..., num_bins : 2 * num_bins], bound)
        slopes = _MIN_SLOPE + jax.nn.softplus(theta[..., 2 * num_bins :] + _UNIT_SLOPE)
        one = jnp.ones((*slopes.shape[:-1], 1), slopes.dtype)
        edges = y_edges if by_height else x_edges
        index = jnp.sum(value[..., None] >= edges[..., 1:-1], -1, keepdims=True)

        def pick(table: Array) -> Array:
            table = jnp.broadcast_to(table, (*index.shape[:-1], table.shape[-1]))
            return jnp.take_along_axis(table, index, -1)[..., 0]

        return (
            pick(x_edges[..., :-1]),
            pick(widths),
            pick(y_edges[..., :-1]),
            pick(heights),
            pick(jnp.concatenate([one, slopes], -1)),
            pick(jnp.concatenate([slopes, one], -1)),
        )

    def log_slope(t: Array, secant: Array, left: Array, right: Array) -> Array:
        mix = t * (1.0 - t)
        numerator = right * t**2 + 2.0 * secant * mix + left * (1.0 - t) ** 2
        denominator = secant + (left + right - 2.0 * secant) * mix
        return 2.0 * jnp.log(secant) + jnp.log(numerator) - 2.0 * jnp.log(denominator)

    def forward(theta: Array, x: Array) -> tuple[Array, Array]:
        # Clip first, so that the branch which `where` drops is finite and has finite gradients.
        inside = jnp.abs(x) < bound
        clipped = jnp.where(inside, x, 0.0)
        x0, width, y0, height, left, right = bins(theta, clipped, by_height=False)
        secant = height / width
        t = (clipped - x0) / width
        mix = t * (1.0 - t)
        z = y0 + height * (secant * t**2 + left * mix) / (
            secant + (left + right - 2.0 * secant) * mix
        )
        return jnp.where(inside, z, x), jnp.where(inside, log_slope(t, secant, left, right), 0.0)

    def inverse(theta: Array, z: Array) -> tuple[Array, Array]:
        inside = jnp.abs(z) < bound
        clipped = jnp.where(inside, z, 0.0)
        x0, width, y0, height, left, right = bins(theta, clipped, by_height=True)
        secant = height / width
        rise = clipped - y0
        curvature = left + right - 2.0 * secant
        a = height * (secant - left) + rise * curvature
        b = height * left - rise * curvature
        c = -secant * rise
        # Rounding can push the discriminant of a touching root slightly below 0.
        root = jnp.sqrt(jnp.maximum(b**2 - 4.0 * a * c, 1e-30))
        t = 2.0 * c / (-b - root)
        # At a knot `clip` would be at a tie, and pass half of the gradient.
        t = jnp.where(t < 0.0, 0.0, jnp.where(t > 1.0, 1.0, t))
        x = t * width + x0
        return jnp.where(inside, x, z), jnp.where(inside, -log_slope(t, secant, left, right), 0.0)

    return Transform("spline_coupling", 3 * num_bins - 1, forward, inverse)


def spline_coupling(
    conditioner: Conditioner,
    num_bins: int = 8,
    bound: float = 5.0,
    split: Split = "channels",
    swap: bool = False,
) -> Bijector:
    r"""Maps one part by monotone rational-quadratic splines, given the other.

    On ``[-bound, bound]`` every element goes through a spline of ``num_bins`` pieces,

    .. math::
        z = y_k + h_k \frac{\sigma_k t^2 + \delta_k t (1-t)}
            {\sigma_k + (\delta_k + \delta_{k+1} - 2 \sigma_k)\, t (1-t)},
        \qquad t = \frac{x - x_k}{w_k},\ \sigma_k = \frac{h_k}{w_k},

    outside of it through the identity; the slope is continuous, 1 at the ends. The
    inverse solves a quadratic equation. Zero parameters are the identity.

    Args:
      conditioner: returns ``3 num_bins - 1`` channels for every mapped one: widths,
        heights, inner slopes.
      num_bins: pieces of the spline, at least 2.
      bound: half the width of the interval that is mapped.
      split: see :func:`~scnf_jax.bijectors.coupling.coupling`.
      swap: see :func:`~scnf_jax.bijectors.coupling.coupling`.

    Returns:
      A bijector; see :func:`~scnf_jax.bijectors.coupling.coupling`.

    Raises:
      ValueError: if ``num_bins < 2``, or ``bound`` is not positive and finite; else as the
        coupling.

    References:
      Durkan et al. 2019, "Neural Spline Flows", section 3.1,
      https://arxiv.org/abs/1906.04032
    """
    if not 2 <= num_bins < 1.0 / _MIN_BIN:
        raise ValueError(f"spline_coupling: expected 2 <= num_bins < 1000, got {num_bins}")
    check_above_zero("spline_coupling: bound", bound)
    return coupling(spline_transform(num_bins, bound), conditioner, split, swap)

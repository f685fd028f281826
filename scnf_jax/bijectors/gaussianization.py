"""Marginal Gaussianization: every pixel's histogram, mapped to a standard normal."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jax.typing import DTypeLike

from scnf_jax.bijectors.base import Array, Bijector, Event, Params, check_shape, sum_event
from scnf_jax.options import check_above_zero


def marginal_gaussianization(num_bins: int = 256, prior_count: float = 100.0) -> Bijector:
    r"""Maps every element of objects on [0, 1) by its own distribution to a normal one.

    The density of element ``d`` is constant within each of ``B`` bins of equal width, with
    probabilities ``p_d = softmax(logits_d)``. With its distribution function

    .. math::
        F_d(x) = \sum_{j < v} p_{dj} + (B x - v)\, p_{dv}, \qquad v = \lfloor B x \rfloor,

    .. math::
        z = \Phi^{-1}(F_d(x)), \qquad
        \log \frac{dz}{dx} = \log B + \log p_{dv} + \frac{z^2 + \log 2 \pi}{2}

    For grey levels with uniform noise the bins are the levels: if the elements were independent,
    the density under a normal ``z`` would be exact, also where a level is as frequent as the
    background of scans. What follows has to learn how elements depend on each other alone, while
    after a :func:`logit` it starts by learning the levels.

    ``init`` counts the bins of every element in its batch, and adds ``prior_count`` objects
    with the levels of all elements together, so that no bin is empty.

    Further out than ``z_max = -Phi^{-1}(eps)``, with the machine's ``eps`` (5.2 in float32), the
    quantile is continued by its tangent. So every real ``z`` has an ``x`` of its own, slightly
    outside of [0, 1) where ``z`` is far out, and both directions give that pair one density.

    Args:
      num_bins: B, at least 2; that of the grey levels.
      prior_count: how many objects what all elements have in common counts as.

    Returns:
      An elementwise bijector with params ``logits [*event, B]``.

    Raises:
      ValueError: for fewer bins than 2, or a prior count that is not positive and finite.

    References:
      Laparra, Camps-Valls, Malo 2011, "Iterative Gaussianization: from ICA to Random
      Rotations", section II, https://arxiv.org/abs/1602.00229; Meng, Song, Song, Ermon 2020,
      "Gaussianization Flows", section 3, https://arxiv.org/abs/2003.01941
    """
    if num_bins < 2:
        raise ValueError(f"marginal_gaussianization: expected at least 2 bins, got {num_bins}")
    check_above_zero("marginal_gaussianization: prior_count", prior_count)

    def bin_of(x: Array) -> Array:
        bins = jnp.clip(jnp.floor(num_bins * jax.lax.stop_gradient(x)), 0, num_bins - 1)
        return bins.astype(jnp.int32)

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        del key, context
        event = x.shape[1:]
        bins = bin_of(x).reshape(x.shape[0], -1)
        element = jnp.arange(bins.shape[1])
        counts = jnp.zeros((bins.shape[1], num_bins), x.dtype).at[element, bins].add(1.0)
        total = jnp.sum(counts, 0) + 1.0
        logits = jnp.log(counts + prior_count * total / jnp.sum(total))
        return {"logits": logits.reshape(*event, num_bins)}

    def forward(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
        del context
        check_shape("marginal_gaussianization", params["logits"].shape[:-1], x)
        number = bin_of(x)
        below, log_prob, above = _at(_tables(params["logits"]), number)
        inside = num_bins * x - number
        prob = jnp.exp(log_prob)
        z = _normal_quantile(below + inside * prob, above + (1.0 - inside) * prob)
        return z, sum_event(math.log(num_bins) + log_prob + _minus_log_normal(z))

    def inverse(params: Params, z: Event, context: Array | None = None) -> tuple[Event, Array]:
        del context
        check_shape("marginal_gaussianization", params["logits"].shape[:-1], z)
        tables = below, _, above = _tables(params["logits"])
        lower, upper = _normal_cdf(z), _normal_cdf(-z)
        left = lower < upper  # counted from the nearer end, where numbers are finer
        passed = jnp.where(
            left[..., None],
            lower[..., None] >= below[..., 1:],
            upper[..., None] <= above[..., :-1],
        )
        number = jnp.sum(passed, -1, dtype=jnp.int32)
        start, log_prob, end = _at(tables, number)
        prob = jnp.exp(log_prob)
        inside = jnp.where(left, (lower - start) / prob, 1.0 - (upper - end) / prob)
        x = (number + inside) / num_bins
        return x, -sum_event(math.log(num_bins) + log_prob + _minus_log_normal(z))

    return Bijector(init, forward, inverse)


def _tables(logits: Array) -> tuple[Array, Array, Array]:
    """Of every bin: the probability below it, the log of its own, the probability above it."""
    log_prob = jax.nn.log_softmax(logits, -1)
    prob = jnp.exp(log_prob)
    # Sums over the others alone: beside a frequent bin its own part would be lost in rounding.
    none = jnp.zeros_like(prob[..., :1])
    below = jnp.concatenate([none, jnp.cumsum(prob[..., :-1], -1)], -1)
    above = jnp.concatenate([jnp.cumsum(prob[..., :0:-1], -1)[..., ::-1], none], -1)
    return below, log_prob, above


def _at(tables: tuple[Array, Array, Array], number: Array) -> tuple[Array, Array, Array]:
    """The tables' entries ``[batch, *event]`` at the elements' bins ``[batch, *event]``."""
    stacked = jnp.stack(tables, -1)
    flat = stacked.reshape(-1, *stacked.shape[-2:])
    rows = number.reshape(number.shape[0], -1)
    found = flat[jnp.arange(flat.shape[0]), rows]
    below, log_prob, above = (found[..., i].reshape(number.shape) for i in range(3))
    return below, log_prob, above


def _outermost(dtype: DTypeLike) -> tuple[Array, Array]:
    """``eps`` and ``z_max``, where the tangents begin."""
    smallest = jnp.asarray(jnp.finfo(dtype).eps, dtype)
    return smallest, -ndtri(smallest)


def _minus_log_normal(z: Array) -> Array:
    """``-log dF/dz`` of :func:`_normal_cdf`; a constant on the tangents."""
    _, z_max = _outermost(z.dtype)
    return 0.5 * (jnp.minimum(jnp.abs(z), z_max) ** 2 + math.log(2 * math.pi))


def _normal_cdf(z: Array) -> Array:
    """``Phi(z)``; below ``-z_max`` its tangent there, which is negative from some point on."""
    smallest, z_max = _outermost(z.dtype)
    tangent = smallest + (z + z_max) * jnp.exp(-_minus_log_normal(z_max))
    return jnp.where(z < -z_max, tangent, ndtr(z))


@jax.custom_jvp
def _normal_quantile(lower: Array, upper: Array) -> Array:
    """``z`` with ``F(z) = lower = 1 - upper``, from the smaller of the two."""
    smallest, z_max = _outermost(lower.dtype)
    nearer = jnp.minimum(lower, upper)
    tangent = (nearer - smallest) * jnp.exp(_minus_log_normal(z_max)) - z_max
    z = jnp.where(nearer < smallest, tangent, ndtri(jnp.maximum(nearer, smallest)))
    return jnp.where(lower < upper, z, -z)


@_normal_quantile.defjvp
def _normal_quantile_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    z = _normal_quantile(*primals)
    # Also of the nearer end: at the other one 1 - F is lost in the rounding of F.
    tangent = jnp.where(primals[0] < primals[1], tangents[0], -tangents[1])
    return z, tangent * jnp.exp(_minus_log_normal(z))

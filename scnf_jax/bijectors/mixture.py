"""Couplings by the distribution function of a mixture of logistics."""

import jax
import jax.numpy as jnp
import numpy as np

from scnf_jax.bijectors.base import Array, Bijector, Conditioner
from scnf_jax.bijectors.coupling import Split, Transform, coupling

_MAX_LOG_SCALE = 5.0
_BISECTIONS = 60


def _bounded(raw: Array) -> Array:
    return _MAX_LOG_SCALE * jnp.tanh(raw / _MAX_LOG_SCALE)


def mixture_transform(num_components: int) -> Transform:
    """The elementwise map of :func:`mixture_coupling`."""
    spread = np.linspace(-1.0, 1.0, num_components) if num_components > 1 else np.zeros(1)
    offsets = tuple(float(offset) for offset in spread)

    def unpack(theta: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Log-weights, means, log-scales ``[..., K, C]``; outer log-scale, shift ``[..., C]``."""
        weights, means, scales = jnp.split(theta[..., 2:, :], 3, axis=-2)
        means = means + jnp.array(offsets, theta.dtype)[:, None]
        log_weights = jax.nn.log_softmax(weights, -2)
        return log_weights, means, _bounded(scales), _bounded(theta[..., 0, :]), theta[..., 1, :]

    def logit_cdf(x: Array, log_weights: Array, means: Array, scales: Array) -> tuple[Array, Array]:
        """``logit F(x)`` and the log of its derivative, ``F`` the mixture's CDF."""
        u = (x[..., None, :] - means) * jnp.exp(-scales)
        log_left, log_right = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
        log_cdf = jax.nn.logsumexp(log_weights + log_left, -2)
        log_survival = jax.nn.logsumexp(log_weights + log_right, -2)
        log_pdf = jax.nn.logsumexp(log_weights + log_left + log_right - scales, -2)
        return log_cdf - log_survival, log_pdf - log_cdf - log_survival

    def forward(theta: Array, x: Array) -> tuple[Array, Array]:
        log_weights, means, scales, outer, shift = unpack(theta)
        y, log_slope = logit_cdf(x, log_weights, means, scales)
        return y * jnp.exp(outer) + shift, log_slope + outer

    def inverse(theta: Array, z: Array) -> tuple[Array, Array]:
        log_weights, means, scales, outer, shift = unpack(theta)
        y = (z - shift) * jnp.exp(-outer)
        # At the lowest (highest) component's own solution, F is at most (least) sigmoid(y).
        solutions = means + y[..., None, :] * jnp.exp(scales)
        bracket = (jnp.min(solutions, -2), jnp.max(solutions, -2))

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = 0.5 * (low + high)
            below = logit_cdf(middle, log_weights, means, scales)[0] < y
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        frozen = jax.lax.stop_gradient
        low, high = jax.lax.fori_loop(
            0, _BISECTIONS, lambda i, b: jax.tree.map(frozen, halve(i, b)), frozen(bracket)
        )
        # Newton steps polish the bisection's fixed result, and carry the derivatives (implicit
        # differentiation): one has the exact first ones, two the second ones, too.
        x = frozen(0.5 * (low + high))
        for _ in range(2):
            value, log_slope = logit_cdf(x, log_weights, means, scales)
            x = x - (value - y) * jnp.exp(-log_slope)
        return x, -logit_cdf(x, log_weights, means, scales)[1] - outer

    return Transform("mixture_coupling", 2 + 3 * num_components, forward, inverse)


def mixture_coupling(
    conditioner: Conditioner,
    num_components: int = 4,
    split: Split = "channels",
    swap: bool = False,
) -> Bijector:
    r"""Maps one part by the CDF of a mixture of logistics, given the other.

    .. math::
        z = e^{a}\, \mathrm{logit}\Big(\sum_k \pi_k\, \sigma\big(\tfrac{x - \mu_k}{e^{s_k}}
        \big)\Big) + b

    The inverse is found by bisection inside an exact bracket, then two Newton steps,
    through which its first and second derivatives are exact. The means start spread over
    [-1, 1], so that components differ from the first step on; the map then starts near, not
    at, the identity. ``a`` and ``s`` are bounded by 5 in absolute value.

    Args:
      conditioner: returns ``2 + 3 num_components`` channels for every mapped one:
        ``a``, ``b``, weights, means, log-scales.
      num_components: logistics in each mixture, at least 1.
      split: see :func:`~scnf_jax.bijectors.coupling.coupling`.
      swap: see :func:`~scnf_jax.bijectors.coupling.coupling`.

    Returns:
      A bijector; see :func:`~scnf_jax.bijectors.coupling.coupling`.

    Raises:
      ValueError: if ``num_components < 1``; else as the coupling.

    References:
      Ho et al. 2019, "Flow++", section 3.2, https://arxiv.org/abs/1902.00275
    """
    if num_components < 1:
        raise ValueError(f"mixture_coupling: expected num_components >= 1, got {num_components}")
    return coupling(mixture_transform(num_components), conditioner, split, swap)

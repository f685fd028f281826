"""Activation normalisation: a learned affine map per channel, initialised on data."""

import jax.numpy as jnp

from scnf_jax.bijectors.base import (
    Array,
    Bijector,
    Event,
    Params,
    check_channels,
    check_event,
    positions,
)
from scnf_jax.options import check_range


def channel_moments(x: Array, epsilon: float = 1e-6) -> tuple[Array, Array]:
    """Mean and scale of every channel over all other axes.

    Args:
      x: ``[batch, ..., C]``.
      epsilon: added to the deviation.

    Returns:
      ``mean [C]`` and ``scale [C]``, the unbiased standard deviation plus ``epsilon``;
      1 for a channel whose deviation is below 1e-4, so that a constant channel (the
      border of scans, say) is only centred and does not start with a huge slope.
    """
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    mean = jnp.mean(x, axes)
    variance = jnp.sum((x - mean) ** 2, axes) / max(count - 1, 1)
    deviation = jnp.sqrt(variance)
    return mean, jnp.where(deviation > 1e-4, deviation + epsilon, 1.0)


def actnorm(epsilon: float = 1e-6) -> Bijector:
    r"""Normalises every channel; its first batch fixes where it starts.

    .. math::
        z = (x - b) \, e^{l}, \qquad x = z \, e^{-l} + b, \qquad
        \log\left|\det \frac{\partial z}{\partial x}\right| = P \sum_c l_c

    with ``P`` positions (``H * W`` of an image). ``init`` sets ``b`` to the mean and
    ``exp(l)`` to one over the deviation of each channel of the batch it is given,
    see :func:`channel_moments`.

    Args:
      epsilon: added to the deviation at initialisation.

    Returns:
      A bijector on ``[batch, ..., C]`` with params ``bias [C]`` and ``log_scale [C]``.

    Raises:
      ValueError: if ``epsilon`` is negative or not finite; by ``init``, for a batch of no objects;
        at trace time, for another number of channels than ``init`` saw.

    References:
      Kingma, Dhariwal 2018, "Glow", section 3.1, https://arxiv.org/abs/1807.03039
    """
    check_range("actnorm: epsilon", epsilon, 0.0)

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        del key, context
        check_event("actnorm", x.shape[0] > 0, "[batch, ..., C] with objects to start from", x)
        mean, scale = channel_moments(x, epsilon)
        return {"bias": mean, "log_scale": -jnp.log(scale)}

    def forward(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
        del context
        check_channels("actnorm", params["bias"].shape[-1], x)
        log_det = positions(x) * jnp.sum(params["log_scale"])
        z = (x - params["bias"]) * jnp.exp(params["log_scale"])
        return z, jnp.broadcast_to(log_det, x.shape[:1])

    def inverse(params: Params, z: Event, context: Array | None = None) -> tuple[Event, Array]:
        del context
        check_channels("actnorm", params["bias"].shape[-1], z)
        log_det = -positions(z) * jnp.sum(params["log_scale"])
        x = z * jnp.exp(-params["log_scale"]) + params["bias"]
        return x, jnp.broadcast_to(log_det, z.shape[:1])

    return Bijector(init, forward, inverse)

"""Coupling layers: one part passes and, through a network, decides how the rest is mapped."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import (
    Array,
    Bijector,
    Conditioner,
    Event,
    MapFn,
    Params,
    check_event,
    sum_event,
)
from scnf_jax.options import check_above_zero, check_range

Split = Literal["channels", "checkerboard"]
Scale = Literal["sigmoid", "exp"]
_LOWEST_LOGIT = -15.0


class Transform(NamedTuple):
    """An elementwise monotone map whose parameters come from a conditioner.

    Attributes:
      name: of the coupling, for error messages.
      num_params: parameters per transformed element, ``P``.
      forward: ``(theta [..., P, C], x [..., C]) -> (z, log|dz/dx|)``, both like ``x``.
      inverse: ``(theta, z) -> (x, log|dx/dz|)``.
    """

    name: str
    num_params: int
    forward: Callable[[Array, Array], tuple[Array, Array]]
    inverse: Callable[[Array, Array], tuple[Array, Array]]


def coupling(
    transform: Transform,
    conditioner: Conditioner,
    split: Split = "channels",
    swap: bool = False,
) -> Bijector:
    r"""Maps one part of the input elementwise, given the other part and the context.

    .. math::
        z_a = x_a, \qquad z_b = T(x_b;\ \theta(x_a, c)), \qquad
        \log|\det| = \sum_i \log |T'(x_{b,i};\ \theta_i)|

    Args:
      transform: the elementwise map ``T`` with ``P`` parameters an element.
      conditioner: computes ``theta``. With ``split="channels"`` it sees the passing
        channels and must return ``P * C_b`` channels; with ``"checkerboard"`` it sees
        the whole image with the mapped positions set to 0 and must return ``P * C``.
        Channel ``p * C + c`` is parameter ``p`` of channel ``c``.
      split: ``channels``: the first ``C // 2`` channels pass. ``checkerboard``: of
        ``[batch, H, W, C]``, the positions with odd ``row + column`` pass.
      swap: the other part passes.

    Returns:
      A bijector whose params are the conditioner's.

    Raises:
      ValueError: if ``split`` is unknown; at trace time, where the event has fewer
        than two channels (or is no image), or the conditioner returns another shape
        or number of channels.

    References:
      Dinh, Sohl-Dickstein, Bengio 2017, "Density estimation using Real NVP", sections
      3.2-3.4, https://arxiv.org/abs/1605.08803; Atanov et al. 2019, section 2
      (conditional coupling layers), https://arxiv.org/abs/1905.00505
    """
    if split not in ("channels", "checkerboard"):
        raise ValueError(
            f"{transform.name}: expected split 'channels' or 'checkerboard', got {split!r}"
        )

    def parameters(params: Params, seen: Array, mapped: Array, context: Array | None) -> Array:
        theta = conditioner.apply(params, seen, context)
        *places, channels = mapped.shape
        *given, outputs = theta.shape
        if len(given) != len(places) or any(
            size not in (1, place) for size, place in zip(given, places, strict=True)
        ):
            raise ValueError(
                f"{transform.name}: expected the conditioner's output of shape "
                f"{(*places, transform.num_params * channels)}, or with 1 for an axis along which "
                f"it is the same, got {theta.shape}"
            )
        if outputs != transform.num_params * channels:
            raise ValueError(
                f"{transform.name}: expected {transform.num_params * channels} output channels "
                f"of the conditioner ({transform.num_params} for each of {channels} mapped "
                f"channels), got {outputs}: set the size of its last layer"
            )
        theta = jnp.broadcast_to(theta, (*places, outputs))
        theta = theta.reshape(*places, transform.num_params, channels)
        return theta.astype(mapped.dtype)

    halves = _ChannelHalves(swap, transform.name)
    mask = _checkerboard(swap, transform.name)

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        seen = halves.cut(x)[0] if split == "channels" else x * mask(x)
        return conditioner.init(key, seen, context)

    def direction(apply: Callable[[Array, Array], tuple[Array, Array]]) -> MapFn:
        def channels(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
            passing, mapped = halves.cut(x)
            theta = parameters(params, passing, mapped, context)
            mapped, log_slope = apply(theta, mapped)
            return halves.join(passing, mapped), sum_event(log_slope)

        def board(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
            passing = mask(x)
            theta = parameters(params, x * passing, x, context)
            mapped, log_slope = apply(theta, x)
            z = jnp.where(passing, x, mapped)
            return z, sum_event(jnp.where(passing, 0.0, log_slope))

        return channels if split == "channels" else board

    # Under jit of its own a map is traced once, however many calls of a program make use of it:
    # `chain` and `repeat` call it at every level of their `init`, a loss for every view.
    return Bijector(
        init, jax.jit(direction(transform.forward)), jax.jit(direction(transform.inverse))
    )


class _ChannelHalves(NamedTuple):
    """Cuts channels into (passing, mapped) and joins them again."""

    swap: bool
    name: str

    def cut(self, x: Array) -> tuple[Array, Array]:
        check_event(self.name, x.ndim >= 2 and x.shape[-1] >= 2, "[..., C] with C >= 2", x)
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        return (second, first) if self.swap else (first, second)

    def join(self, passing: Array, mapped: Array) -> Array:
        parts = (mapped, passing) if self.swap else (passing, mapped)
        return jnp.concatenate(parts, -1)


def _checkerboard(swap: bool, name: str) -> Callable[[Array], Array]:
    """Makes ``x -> mask [1, H, W, 1]``, True where a position passes."""

    def mask(x: Array) -> Array:
        check_event(name, x.ndim == 4, "[batch, H, W, C]", x)
        rows = jnp.arange(x.shape[1])[:, None, None]
        columns = jnp.arange(x.shape[2])[None, :, None]
        return ((rows + columns) % 2 == (0 if swap else 1))[None]

    return mask


def affine_coupling(
    conditioner: Conditioner,
    split: Split = "channels",
    swap: bool = False,
    scale: Scale = "sigmoid",
    shift_first: bool = False,
    epsilon: float = 0.0,
    max_log_scale: float = 5.0,
) -> Bijector:
    r"""Scales and shifts one part, given the other.

    .. math::
        z_b = x_b\, s + t \quad\text{or, with shift\_first,}\quad z_b = (x_b + t)\, s

    with ``(r, t)`` from the conditioner and ``s = sigmoid(r + 2) + epsilon`` (the
    authors' code; the logit is kept above -15) or ``s = exp(m tanh(r / m))`` (the
    poster's ``exp(r)``, bounded by ``m = max_log_scale``), so that inputs far out stay
    finite in both directions.

    Args:
      conditioner: returns 2 channels for every mapped one, first all ``r``, then all ``t``.
      split: see :func:`coupling`.
      swap: see :func:`coupling`.
      scale: ``sigmoid`` or ``exp``.
      shift_first: whether the shift comes before the scale.
      epsilon: added to the sigmoid.
      max_log_scale: bound ``m`` of ``exp``.

    Returns:
      A bijector; see :func:`coupling`.

    Raises:
      ValueError: if ``scale`` is unknown, ``epsilon`` negative or ``max_log_scale`` not positive,
        or one of them not finite; else as :func:`coupling`.
    """
    if scale not in ("sigmoid", "exp"):
        raise ValueError(f"affine_coupling: expected scale 'sigmoid' or 'exp', got {scale!r}")
    check_range("affine_coupling: epsilon", epsilon, 0.0)
    check_above_zero("affine_coupling: max_log_scale", max_log_scale)

    def log_scale(raw: Array) -> Array:
        if scale == "exp":
            return max_log_scale * jnp.tanh(raw / max_log_scale)
        raw = jnp.maximum(raw + 2.0, _LOWEST_LOGIT)
        return jnp.log(jax.nn.sigmoid(raw) + epsilon) if epsilon else jax.nn.log_sigmoid(raw)

    def forward(theta: Array, x: Array) -> tuple[Array, Array]:
        log_s, shift = log_scale(theta[..., 0, :]), theta[..., 1, :]
        s = jnp.exp(log_s)
        z = (x + shift) * s if shift_first else x * s + shift
        return z, jnp.broadcast_to(log_s, z.shape)

    def inverse(theta: Array, z: Array) -> tuple[Array, Array]:
        log_s, shift = log_scale(theta[..., 0, :]), theta[..., 1, :]
        inverse_s = jnp.exp(-log_s)
        x = z * inverse_s - shift if shift_first else (z - shift) * inverse_s
        return x, jnp.broadcast_to(-log_s, x.shape)

    transform = Transform("affine_coupling", 2, forward, inverse)
    return coupling(transform, conditioner, split, swap)


def additive_coupling(
    conditioner: Conditioner, split: Split = "channels", swap: bool = False
) -> Bijector:
    """Shifts one part, given the other: ``z_b = x_b + t(x_a, c)``, with log-det 0.

    Args:
      conditioner: returns 1 channel for every mapped one.
      split: see :func:`coupling`.
      swap: see :func:`coupling`.

    Returns:
      A bijector; see :func:`coupling`, also for what is raised.

    References:
      Dinh, Krueger, Bengio 2015, "NICE", section 3.2, https://arxiv.org/abs/1410.8516
    """

    def forward(theta: Array, x: Array) -> tuple[Array, Array]:
        z = x + theta[..., 0, :]
        return z, jnp.zeros_like(z)

    def inverse(theta: Array, z: Array) -> tuple[Array, Array]:
        x = z - theta[..., 0, :]
        return x, jnp.zeros_like(x)

    transform = Transform("additive_coupling", 1, forward, inverse)
    return coupling(transform, conditioner, split, swap)

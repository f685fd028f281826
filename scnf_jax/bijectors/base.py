"""The contract of a bijector: three pure functions in a named tuple.

Every bijector of this package is made by a lowercase factory that closes over
static settings and returns a :class:`Bijector`. Arrays live only in ``params``.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Params = Any
"""A pytree of dicts with string keys and tuples; every leaf is trainable."""
Event = Any
"""One array ``[batch, *event]``, or a tuple of such (the latents of ``multiscale``)."""


class InitFn(Protocol):
    """``init(key, x, context=None) -> params``; looks at ``x`` where a layer is data-dependent."""

    def __call__(self, key: Array, x: Event, /, context: Array | None = None) -> Params:
        """Makes parameters for objects like ``x``."""


class MapFn(Protocol):
    """One direction of a bijector: ``(params, x, context=None) -> (y, log_det)``.

    ``x`` is ``[batch, *event]``. ``context`` is None, ``[batch, C]``, or ``[1, C]``
    where one context serves the whole batch. ``log_det`` is ``[batch]``, in nats:
    the log absolute determinant of the Jacobian of the direction taken.
    """

    def __call__(
        self, params: Params, x: Event, /, context: Array | None = None
    ) -> tuple[Event, Array]:
        """Maps ``x``, and says by how much volume changes."""


class Bijector(NamedTuple):
    r"""An invertible map between data ``x`` and latent ``z``.

    .. math:: \log p(x) = \log p(z) + \log\left|\det \frac{\partial z}{\partial x}\right|

    Attributes:
      init: ``(key, x, context=None) -> params``.
      forward: ``(params, x, context=None) -> (z, log_det)``, data to latent.
      inverse: ``(params, z, context=None) -> (x, log_det)``, latent to data; its
        ``log_det`` is minus that of ``forward`` at the same point.
    """

    init: InitFn
    forward: MapFn
    inverse: MapFn


class Conditioner(Protocol):
    """What computes a coupling's parameters: any object with these two methods.

    Flax Linen modules fit as they are. ``x`` is ``[batch, *event]``; the result has
    the same leading axes, or 1 for one along which it is the same, and the number of channels
    that the coupling asks for.
    """

    def init(self, key: Array, x: Array, context: Array | None = None, /) -> Params:
        """Makes parameters for inputs like ``x`` and ``context``."""

    def apply(self, params: Params, x: Array, context: Array | None = None, /) -> Any:
        """Computes ``[batch, ..., outputs]``."""


def no_params(key: Array, x: Event, context: Array | None = None) -> Params:
    """The ``init`` of a bijector without parameters."""
    del key, x, context
    return {}


def zero_log_det(x: Array) -> Array:
    """Zeros ``[batch]`` in the dtype of ``x``: the log-det of a volume-preserving map."""
    return sum_event(jnp.zeros_like(x))  # split over devices as x is


def sum_event(x: Array) -> Array:
    """Sums every axis but the first: ``[batch, *event] -> [batch]``."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def positions(x: Array) -> int:
    """How many positions share one channel vector: ``H * W`` for ``[batch, H, W, C]``."""
    count = 1
    for size in x.shape[1:-1]:
        count *= size
    return count


def check_event(layer: str, ok: bool, expected: str, x: Array) -> None:
    """Raises at trace time where the shape of ``x`` does not fit.

    Raises:
      ValueError: unless ``ok``; names the layer, what it expected and what it got.
    """
    if not ok:
        raise ValueError(f"{layer}: expected x of shape {expected}, got {tuple(x.shape)}")


def check_shape(layer: str, event: Sequence[int], x: Array) -> None:
    """Raises ValueError unless ``x`` is ``[batch, *event]``; see :func:`check_event`."""
    expected = ", ".join(["batch", *map(str, event)])
    check_event(layer, x.shape[1:] == tuple(event), f"[{expected}]", x)


def check_channels(layer: str, channels: int, x: Array) -> None:
    """Raises ValueError unless ``x`` has so many channels; see :func:`check_event`."""
    check_event(layer, x.shape[-1] == channels, f"[batch, ..., {channels}]", x)


def elementwise(
    forward: Callable[[Array], tuple[Array, Array]],
    inverse: Callable[[Array], tuple[Array, Array]],
) -> Bijector:
    """A parameter-free bijector from elementwise maps.

    Args:
      forward: ``x -> (z, log|dz/dx|)``, both shaped like ``x``.
      inverse: ``z -> (x, log|dx/dz|)``.

    Returns:
      The bijector whose ``log_det`` sums over the event.
    """

    def direction(transform: Callable[[Array], tuple[Array, Array]]) -> MapFn:
        def apply(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
            del params, context
            y, log_slope = transform(x)
            return y, sum_event(log_slope)

        return apply

    return Bijector(no_params, direction(forward), direction(inverse))


def rearrangement(forward: Callable[[Array], Array], inverse: Callable[[Array], Array]) -> Bijector:
    """A parameter-free bijector that only moves elements, so that ``log_det`` is 0."""

    def direction(move: Callable[[Array], Array]) -> MapFn:
        def apply(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
            del params, context
            return move(x), zero_log_det(x)

        return apply

    return Bijector(no_params, direction(forward), direction(inverse))

"""Bijectors that only move elements: squeeze, flatten, permute, reverse."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from scnf_jax.bijectors.base import (
    Array,
    Bijector,
    check_channels,
    check_event,
    check_shape,
    rearrangement,
)


def squeeze(factor: int = 2) -> Bijector:
    """Trades space for channels: ``[batch, H, W, C] -> [batch, H/f, W/f, C f^2]``.

    The new channel index is ``c f^2 + row f + column`` of the ``f x f`` block.

    Args:
      factor: the block's edge ``f``, at least 2.

    Returns:
      A bijector with log-det 0.

    Raises:
      ValueError: if ``factor < 2``; at trace time, where ``f`` does not divide H and W.

    References:
      Dinh, Sohl-Dickstein, Bengio 2017, "Density estimation using Real NVP",
      section 3.6, https://arxiv.org/abs/1605.08803
    """
    if factor < 2:
        raise ValueError(f"squeeze: expected factor >= 2, got {factor}")

    def forward(x: Array) -> Array:
        fits = x.ndim == 4 and x.shape[1] % factor == 0 and x.shape[2] % factor == 0
        check_event("squeeze", fits, f"[batch, H, W, C] with H and W divisible by {factor}", x)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
        x = x.transpose(0, 1, 3, 5, 2, 4)
        return x.reshape(batch, height // factor, width // factor, channels * factor**2)

    def inverse(z: Array) -> Array:
        fits = z.ndim == 4 and z.shape[3] % factor**2 == 0
        check_event("squeeze", fits, f"[batch, H, W, C] with C divisible by {factor**2}", z)
        batch, height, width, channels = z.shape
        z = z.reshape(batch, height, width, channels // factor**2, factor, factor)
        z = z.transpose(0, 1, 4, 2, 5, 3)
        return z.reshape(batch, height * factor, width * factor, channels // factor**2)

    return rearrangement(forward, inverse)


def flatten(event_shape: Sequence[int]) -> Bijector:
    """Lays an event out as one vector: ``[batch, *event] -> [batch, prod(event)]``.

    Args:
      event_shape: shape of one event, which ``inverse`` gives back.

    Returns:
      A bijector with log-det 0.

    Raises:
      ValueError: at trace time, where the event has another shape.
    """
    shape = tuple(int(size) for size in event_shape)
    size = math.prod(shape)

    def forward(x: Array) -> Array:
        check_shape("flatten", shape, x)
        return x.reshape(x.shape[0], size)

    def inverse(z: Array) -> Array:
        check_shape("flatten", (size,), z)
        return z.reshape(z.shape[0], *shape)

    return rearrangement(forward, inverse)


def permute(permutation: Sequence[int]) -> Bijector:
    """Reorders the channels: ``z[..., i] = x[..., permutation[i]]``, with log-det 0.

    Args:
      permutation: each of ``0 .. C-1`` once. Static, so that no decay can touch it.

    Returns:
      A bijector on ``[batch, ..., C]``.

    Raises:
      ValueError: if ``permutation`` is none; at trace time, where ``C`` differs.
    """
    order = tuple(int(index) for index in permutation)
    if sorted(order) != list(range(len(order))):
        raise ValueError(f"permute: expected each of 0..{len(order) - 1} once, got {order}")
    back = tuple(int(index) for index in np.argsort(order))

    def move(x: Array, indices: tuple[int, ...]) -> Array:
        check_channels("permute", len(order), x)
        return x[..., np.array(indices)]

    return rearrangement(lambda x: move(x, order), lambda z: move(z, back))


def reverse() -> Bijector:
    """Reverses the channels: ``z[..., i] = x[..., C-1-i]``, with log-det 0."""

    def flip(x: Array) -> Array:
        return jnp.flip(x, -1)

    return rearrangement(flip, flip)

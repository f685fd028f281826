"""Bijectors made of bijectors: chain, repeat, invert, multiscale."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import (
    Array,
    Bijector,
    Event,
    MapFn,
    Params,
    check_event,
    no_params,
    zero_log_det,
)

Memory = Literal["store", "recompute", "invert"]


def identity() -> Bijector:
    """The map ``z = x``, with log-det 0: a level of ``multiscale`` that only splits."""

    def apply(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
        del params, context
        return x, zero_log_det(jax.tree.leaves(x)[0])

    return Bijector(no_params, apply, apply)


def chain(*bijectors: Bijector) -> Bijector:
    """Applies bijectors one after the other: ``chain(a, b)`` maps ``z = b(a(x))``.

    The order is that of ``optax.chain``: the first argument touches the data first.
    (``distrax.Chain`` reverses it.) Log-dets add up; the context goes to every part.

    Args:
      *bijectors: at least one bijector.

    Returns:
      A bijector whose params are the tuple of the parts' params.

    Raises:
      ValueError: if called without bijectors.
    """
    if not bijectors:
        raise ValueError("chain: expected at least one bijector, got none")

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        params = []
        keys = jax.random.split(key, len(bijectors))
        for index, (part, part_key) in enumerate(zip(bijectors, keys, strict=True)):
            params.append(part.init(part_key, x, context))
            if index + 1 < len(bijectors):
                x, _ = part.forward(params[-1], x, context)
        return tuple(params)

    def forward(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
        total = zero_log_det(jax.tree.leaves(x)[0])
        for part, part_params in zip(bijectors, params, strict=True):
            x, log_det = part.forward(part_params, x, context)
            total = total + log_det
        return x, total

    def inverse(params: Params, z: Event, context: Array | None = None) -> tuple[Event, Array]:
        total = zero_log_det(jax.tree.leaves(z)[0])
        for part, part_params in zip(reversed(bijectors), reversed(params), strict=True):
            z, log_det = part.inverse(part_params, z, context)
            total = total + log_det
        return z, total

    return Bijector(init, forward, inverse)


def repeat(bijector: Bijector, num: int, unroll: int = 1, memory: Memory = "store") -> Bijector:
    r"""Applies ``num`` copies with parameters of their own, as one ``lax.scan``.

    The parameters are stacked along a new leading axis, so compile time does not
    grow with ``num``. The bijector must keep the shape and the dtype of its input.

    What a gradient needs of the forward pass is kept in one of three ways:

    ========== ============================== =================================================
    memory     kept                           the gradient costs
    ========== ============================== =================================================
    store      all activations of all copies  fewest operations
    recompute  the input of every copy        one more forward pass
    invert     the last output alone          one inverse and one more forward pass
    ========== ============================== =================================================

    With ``invert`` the input of every copy is computed from its output, so that activations do
    not grow with ``num``; its gradients differ from the others by the rounding of the
    inverse. It has no forward-mode derivatives, what a conditioner closes over has to be
    constant, and under ``vmap`` over contexts, as in a head, it holds one gradient of the
    parameters for each of them, which does grow. Take ``recompute`` first.

    Args:
      bijector: the repeated part.
      num: how many copies, at least 1.
      unroll: copies laid out per scan iteration; larger compiles longer and may run faster.
        Of ``store`` alone: the others go one by one.
      memory: ``store``, ``recompute`` or ``invert``.

    Returns:
      A bijector whose params have leaves ``[num, ...]``.

    Raises:
      ValueError: if ``num < 1``, or ``memory`` is unknown; at trace time, where the bijector
        gives another shape or dtype.

    References:
      Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost",
      https://arxiv.org/abs/1604.06174 (recompute); Gomez et al. 2017, "The Reversible
      Residual Network", section 3.2, https://arxiv.org/abs/1707.04585 (invert)
    """
    if num < 1:
        raise ValueError(f"repeat: expected num >= 1, got {num}")
    if memory not in get_args(Memory):
        listed = ", ".join(map(repr, get_args(Memory)))
        raise ValueError(f"repeat: expected memory of {listed}, got {memory!r}")
    # Copies that are laid out keep their activations together: measured, nothing is saved then.
    unroll = min(unroll, num) if memory == "store" else 1

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        def step(x: Event, step_key: Array) -> tuple[Event, Params]:
            params = bijector.init(step_key, x, context)
            y, _ = bijector.forward(params, x, context)
            _check_kept(x, y)
            return y, params

        return jax.lax.scan(step, x, jax.random.split(key, num))[1]

    def direction(apply: MapFn, undo: MapFn, reverse: bool) -> MapFn:
        def run(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
            def step(carry: tuple[Event, Array], layer: Params) -> tuple[tuple[Event, Array], None]:
                x, total = carry
                y, log_det = apply(layer, x, context)
                _check_kept(x, y)
                return (y, total + log_det), None

            if memory == "recompute":
                step = jax.checkpoint(step, prevent_cse=False)
            carry = (x, zero_log_det(jax.tree.leaves(x)[0]))
            return jax.lax.scan(step, carry, params, reverse=reverse, unroll=unroll)[0]

        def keep_output(
            params: Params, x: Event, context: Array | None
        ) -> tuple[tuple[Event, Array], tuple[Params, Event, Array | None]]:
            y, total = run(params, x, context)
            return (y, total), (params, y, context)

        def walk_back(
            kept: tuple[Params, Event, Array | None], cotangents: tuple[Event, Array]
        ) -> tuple[Params, Event, Array | None]:
            params, y, context = kept
            y_bar, log_det_bar = cotangents

            def step(carry: tuple[Event, Event, Any], layer: Params) -> tuple[Any, Params]:
                y, y_bar, context_bar = carry
                x, _ = undo(layer, y, context)
                _, pull = jax.vjp(apply, layer, x, context)
                layer_bar, x_bar, more = pull((y_bar, log_det_bar))
                if context_bar is not None:
                    context_bar = context_bar + more
                return (x, x_bar, context_bar), layer_bar

            floats = context is not None and jnp.issubdtype(context.dtype, jnp.inexact)
            start = None if context is None or not floats else jnp.zeros_like(context)
            carry = (y, y_bar, start)
            (_, x_bar, context_bar), params_bar = jax.lax.scan(
                step, carry, params, reverse=not reverse, unroll=unroll
            )
            return params_bar, x_bar, context_bar

        if memory != "invert":
            return run
        reversible = jax.custom_vjp(run)
        reversible.defvjp(keep_output, walk_back)

        def run_reversible(
            params: Params, x: Event, context: Array | None = None
        ) -> tuple[Event, Array]:
            return reversible(params, x, context)

        return run_reversible

    forward = direction(bijector.forward, bijector.inverse, False)
    inverse = direction(bijector.inverse, bijector.forward, True)
    return Bijector(init, forward, inverse)


def _check_kept(x: Event, y: Event) -> None:
    """Raises ValueError unless ``y`` has the dtype and the shape of ``x``."""
    before, after = (
        ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(event))
        for event in (x, y)
    )
    if before != after:
        raise ValueError(
            f"repeat: expected a part that keeps dtype and shape, {before}, got {after}"
        )


def invert(bijector: Bijector) -> Bijector:
    """Swaps the two directions, for maps defined from latent to data.

    ``init`` still sees what the result's ``forward`` sees. A data-dependent layer
    would initialise on the wrong side of itself, so use it on maps that are not.
    """
    return Bijector(bijector.init, bijector.inverse, bijector.forward)


def multiscale(*levels: Bijector) -> Bijector:
    """Factors half of the channels out after every level but the last.

    With two levels: ``h = level_1(x)``; the first half of the channels (the last axis)
    of ``h`` is the latent ``z_1``, the second half goes on, ``z_2 = level_2(h_2)``, and
    ``forward`` returns ``(z_1, z_2)``. The log-det is the sum of the levels'.

    Args:
      *levels: bijectors, first the one that sees the data. To factor out at the
        very end too, give ``identity()`` as the last level.

    Returns:
      A bijector between ``x`` and a tuple of latents, one array a level; one level is
      returned as it is.

    Raises:
      ValueError: without levels; at trace time, where a level that is split has an
        odd number of channels, or is a multiscale itself.

    References:
      Dinh, Sohl-Dickstein, Bengio 2017, "Density estimation using Real NVP",
      section 3.6, https://arxiv.org/abs/1605.08803
    """
    if not levels:
        raise ValueError("multiscale: expected at least one level, got none")
    if len(levels) == 1:
        return levels[0]

    def split(h: Event) -> tuple[Array, Array]:
        if isinstance(h, tuple):
            raise ValueError(
                f"multiscale: expected one array of every level but the last, got {len(h)}; give "
                "all levels to one multiscale"
            )
        channels = h.shape[-1]
        check_event("multiscale", channels % 2 == 0, "[..., C] with an even C", h)
        return h[..., : channels // 2], h[..., channels // 2 :]

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        params = []
        keys = jax.random.split(key, len(levels))
        for index, (level, level_key) in enumerate(zip(levels, keys, strict=True)):
            params.append(level.init(level_key, x, context))
            if index + 1 < len(levels):
                _, x = split(level.forward(params[-1], x, context)[0])
        return tuple(params)

    def forward(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
        latents: list[Array] = []
        total = zero_log_det(x)
        for index, (level, level_params) in enumerate(zip(levels, params, strict=True)):
            x, log_det = level.forward(level_params, x, context)
            total = total + log_det
            if index + 1 < len(levels):
                latent, x = split(x)
                latents.append(latent)
        return (*latents, x), total

    def inverse(params: Params, z: Event, context: Array | None = None) -> tuple[Event, Array]:
        if len(z) != len(levels):
            raise ValueError(
                f"multiscale: expected a tuple of {len(levels)} latents, one a level, got {len(z)}"
            )
        x, total = levels[-1].inverse(params[-1], z[-1], context)
        for level, level_params, latent in zip(
            reversed(levels[:-1]), reversed(params[:-1]), reversed(z[:-1]), strict=True
        ):
            x, log_det = level.inverse(level_params, jnp.concatenate([latent, x], -1), context)
            total = total + log_det
        return x, total

    return Bijector(init, forward, inverse)

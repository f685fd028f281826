"""Every law of the contract, over every bijector."""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax.bijectors import Bijector, repeat

from .registry import CASES, Case, contexts, objects, perturbed

pytestmark = pytest.mark.slow

VARIANTS = [
    pytest.param(name, with_context, id=f"{name}-{'context' if with_context else 'plain'}")
    for name, case in CASES.items()
    for with_context in (False, True)
    if not (case.context == "required" and not with_context)
    and not (case.context == "ignored" and with_context)
]

# One variant a case, with a context where it takes one, for laws that the context hardly touches.
RICHEST = [pytest.param(name, case.context != "ignored", id=name) for name, case in CASES.items()]
ROUND_TRIPS = [
    *(pytest.param(*variant.values, "float64", id=f"{variant.id}-float64") for variant in VARIANTS),
    *(pytest.param(*variant.values, "float32", id=f"{variant.id}-float32") for variant in RICHEST),
]


def build(
    case: Case, with_context: bool, dtype: Any = jnp.float32
) -> tuple[Bijector, Any, jax.Array, jax.Array | None]:
    bijector = case.make()
    x = objects(case, dtype=dtype)
    context = contexts(dtype=dtype) if with_context else None
    params = perturbed(bijector.init(jax.random.key(0), x, context))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return bijector, params, x, context


def flat(event: Any) -> jax.Array:
    """One array or a tuple of arrays as ``[batch, D]``."""
    leaves = jax.tree.leaves(event)
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], -1)


def close(a: Any, b: Any, tolerance: float) -> None:
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=tolerance, atol=tolerance), a, b
    )


@pytest.mark.parametrize(("name", "with_context", "dtype"), ROUND_TRIPS)
def test_round_trip_and_log_det(name: str, with_context: bool, dtype: str) -> None:
    case = CASES[name]
    tolerance = 2e-4 if dtype == "float32" else 1e-9
    with jax.enable_x64(dtype == "float64"):
        bijector, params, x, context = build(case, with_context, jnp.dtype(dtype))
        z, log_det = jax.jit(bijector.forward)(params, x, context)
        back, inverse_log_det = jax.jit(bijector.inverse)(params, z, context)

        assert log_det.shape == inverse_log_det.shape == (x.shape[0],)
        assert log_det.dtype == flat(z).dtype == back.dtype == x.dtype
        close(back, x, tolerance)
        close(inverse_log_det, -log_det, 10 * tolerance)

        def one(row: jax.Array, row_context: jax.Array | None) -> jax.Array:
            row_context = None if row_context is None else row_context[None]
            return flat(bijector.forward(params, row[None], row_context)[0])[0]

        jacobians = jax.jit(jax.vmap(jax.jacfwd(one), in_axes=(0, None if context is None else 0)))(
            x, context
        )
        size = x[0].size
        expected = jnp.linalg.slogdet(jacobians.reshape(-1, size, size))[1]
        close(log_det, expected, 10 * tolerance)
    if case.preserves_volume:
        close(log_det, np.zeros(x.shape[0]), 10 * tolerance)
    else:
        assert np.abs(log_det).max() > 1e-2, "a log-det of 0 would prove nothing"


@pytest.mark.parametrize(("name", "with_context"), RICHEST)
def test_transformations(name: str, with_context: bool) -> None:
    """Eager equals jit, and a vmap over rows equals the batch."""
    bijector, params, x, context = build(CASES[name], with_context)
    expected = jax.jit(bijector.forward)(params, x, context)
    close(bijector.forward(params, x, context), expected, 1e-4)

    def row(x_row: jax.Array, context_row: jax.Array | None) -> Any:
        context_row = None if context_row is None else context_row[None]
        return jax.tree.map(
            lambda leaf: leaf[0], bijector.forward(params, x_row[None], context_row)
        )

    rows = jax.jit(jax.vmap(row, in_axes=(0, None if context is None else 0)))(x, context)
    close(rows, expected, 1e-4)


@pytest.mark.parametrize(("name", "with_context"), RICHEST)
def test_finite_gradients_far_out(name: str, with_context: bool) -> None:
    bijector, params, x, context = build(CASES[name], with_context)

    def loss(apply: Any, params: Any, x: Any) -> jax.Array:
        y, log_det = apply(params, x, context)
        return jnp.sum(jnp.tanh(flat(y))) + jnp.sum(log_det)

    z, _ = bijector.forward(params, x, context)
    for apply, point in ((bijector.forward, x), (bijector.inverse, z)):
        gradient = jax.jit(jax.grad(functools.partial(loss, apply), argnums=(0, 1)))
        for scale in (0.0, 1.0, 1000.0):
            grads = gradient(params, jax.tree.map(lambda leaf, s=scale: s * leaf, point))
            for leaf in jax.tree.leaves(grads):
                assert bool(jnp.isfinite(leaf).all()), f"at {scale} times the data"


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.context != "ignored"])
def test_context_matters_and_broadcasts(name: str) -> None:
    bijector, params, x, context = build(CASES[name], True)
    forward = jax.jit(bijector.forward)
    one, _ = forward(params, x, context[:1])
    tiled, _ = forward(params, x, jnp.broadcast_to(context[:1], context.shape))
    close(one, tiled, 1e-5)
    other, _ = forward(params, x, context[1:2])
    assert float(jnp.abs(flat(one) - flat(other)).max()) > 1e-3


def held(value: Any, seen: set[int]) -> bool:
    """Whether an array is reached from a value: through closures, wrappers and containers."""
    if id(value) in seen or isinstance(value, type | types.ModuleType):
        return False
    seen.add(id(value))
    if isinstance(value, jax.Array | np.ndarray):
        return True
    inside: list[Any] = []
    if isinstance(value, types.FunctionType):
        inside += [cell.cell_contents for cell in value.__closure__ or ()]
        inside += [value.__defaults__, value.__kwdefaults__]
    elif isinstance(value, functools.partial):
        inside += [value.func, value.args, value.keywords]
    elif isinstance(value, jax.custom_vjp):
        inside += [value.fun, value.fwd, value.bwd]
    elif isinstance(value, dict):
        inside += value.values()
    elif isinstance(value, tuple | list | set | frozenset):
        inside += value
    elif isinstance(value, types.MethodType):
        inside += [value.__func__, value.__self__]
    # `jit` keeps what it wraps; objects, such as conditioners, keep their settings.
    inside += [getattr(value, "__wrapped__", None), getattr(value, "__dict__", None)]
    return any(held(part, seen) for part in inside)


CLOSURES = {name: case.make for name, case in CASES.items()} | {
    f"repeat_{memory}": lambda memory=memory: repeat(CASES["chain"].make(), 3, memory=memory)
    for memory in ("recompute", "invert")
}


@pytest.mark.parametrize("name", CLOSURES)
def test_closures_hold_no_array(name: str) -> None:
    """Arrays in a closure would leak tracers and escape the optimiser."""
    assert not held(tuple(CLOSURES[name]()), set())


def test_an_array_is_found_wherever_it_is_held() -> None:
    array = np.zeros(2)

    def closes(x: Any, value: Any) -> Any:
        return lambda x: (x, value)

    def with_default(x: Any, value: Any = array) -> Any:
        return x

    reversible = jax.custom_vjp(closes(0, 1))
    reversible.defvjp(closes(0, 1), closes(0, array))
    holders = [
        *(closes(0, array), closes(0, jnp.zeros(2)), closes(0, {"a": (0, [array])})),
        *(functools.partial(closes, 0, array), functools.partial(closes, value=array)),
        *(jax.jit(closes(0, array)), closes(0, jax.jit(closes(0, array)))),
        *(jax.checkpoint(closes(0, array)), reversible, with_default),
        *(types.SimpleNamespace(a=array), types.MethodType(closes, array)),
    ]
    for holder in holders:
        assert held(holder, set()), holder
    assert not held(
        (closes(0, {"a": 1}), jax.jit(closes(0, 1)), jax.custom_vjp(closes(0, 1))), set()
    )


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_floats_and_a_function_of_the_key(name: str) -> None:
    bijector = CASES[name].make()
    params = bijector.init(jax.random.key(0), objects(CASES[name]), contexts())
    for leaf in jax.tree.leaves(params):
        assert jnp.issubdtype(leaf.dtype, jnp.floating)
        assert leaf.size
    close(params, bijector.init(jax.random.key(0), objects(CASES[name]), contexts()), 0.0)

"""Where a training step goes: its parts, each compiled alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.models import WIDE, config_of, flow_of
from scnf_jax.data import random_view

TITLE = "Where a training step goes"
ABOUT = """\
Parts of a step of the own MNIST config with conditioners twice as wide, each compiled alone: a step
is two gradients of log p(x, y), one forward pass of the teacher, a view, and the optimiser. Where a
part reaches a small share of the peak its products are small, and what lies between them counts:
the inner and outer sizes of a level's products are the channels of its conditioners."""


def run() -> list[dict[str, Any]]:
    """Measures every part, taking turns."""
    config = config_of(WIDE)
    batch = config["batch_size"]
    model, params, x = flow_of(WIDE, batch)
    bounds = config["augment"]
    z = jax.jit(model.body.forward)(params["body"], x)[0]
    contexts = jnp.eye(10)

    def body(params: Any, x: jax.Array) -> jax.Array:
        z, log_det = model.body.forward(params, x)
        return jnp.mean(log_det) + sum(jnp.mean(part**2) for part in z)

    def head(params: Any, z: jax.Array) -> jax.Array:
        def under(context: jax.Array) -> jax.Array:
            z_h, log_det = model.head.forward(params, z, context[None])
            return jnp.mean(log_det) + jnp.mean(z_h**2)

        return jnp.mean(jax.vmap(under)(contexts))

    def log_joint(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(model.log_joint(params, x))

    parts: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "log p(x, y), gradient": (jax.grad(log_joint), (params, x)),
        "log p(x, y), forward": (log_joint, (params, x)),
        "body, gradient": (jax.grad(body), (params["body"], x)),
        "body, forward": (body, (params["body"], x)),
        "head under 10 labels, gradient": (jax.grad(head, (0, 1)), (params["head"], z[-1])),
        "view": (lambda x: random_view(jax.random.key(0), x, **bounds), (256 * x,)),
    }
    product, product_operations = measure.matmul_peak()
    calls: dict[str, Callable[[], Any]] = {"peak": product}
    for name, (function, arguments) in parts.items():
        calls[name] = functools.partial(jax.jit(function), *arguments)
    seconds = measure.seconds(calls)
    peak = product_operations / seconds["peak"]
    rows = []
    for name, (function, arguments) in parts.items():
        rate = measure.operations(function, *arguments) / seconds[name]
        rows.append(
            {
                "part": name,
                "batch": batch,
                "milliseconds": 1e3 * seconds[name],
                "GFLOP/s": rate / 1e9,
                "share of peak": rate / peak,
            }
        )
    return rows

"""Memory against depth: what gradients keep of the forward pass."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.models import flow_of

TITLE = "Memory against depth"
ABOUT = """\
One gradient of the digits config's flow with more flow steps a level and in the head, in the three
modes of `repeat` (`--config.model.memory`). Temporary memory is what the compiler plans. The
difference is the largest one of any parameter's gradient to `store`, relative to that gradient's
largest entry."""

DEPTHS = (4, 16, 64)
BATCHES = (32, 128)
MODES = ("store", "recompute", "invert")


def run() -> list[dict[str, Any]]:
    """Measures every mode at every depth, and at a batch four times as large."""
    return [row for batch in BATCHES for depth in DEPTHS for row in _depth(depth, batch)]


def _depth(depth: int, batch: int) -> list[dict[str, Any]]:
    calls, used, gradients = {}, {}, {}
    for mode in MODES:
        model, params, x = flow_of(
            "digits", batch, steps=(depth, depth), head_steps=depth, unroll=1, memory=mode
        )
        # Not the batch that actnorms start from, on which some gradients are 0 but for rounding.
        x = jax.random.uniform(jax.random.key(2), x.shape)

        def loss(params: Any, x: jax.Array, model: Any = model) -> jax.Array:
            return -jnp.mean(model.log_prob(params, x))

        calls[mode], used[mode] = measure.compiled(jax.grad(loss), params, x)
        gradients[mode] = calls[mode]()
    seconds = measure.seconds(calls, rounds=3)
    return [
        {
            "flow steps": 3 * depth,
            "batch": batch,
            "memory": mode,
            "temporary MiB": used[mode],
            "time": seconds[mode] / seconds["store"],
            "difference": _difference(gradients[mode], gradients["store"]),
        }
        for mode in MODES
    ]


def _difference(tree: Any, reference: Any) -> float:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    return max(
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30)) for a, b in pairs
    )

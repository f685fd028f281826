"""Memory in huge pages: calls with temporary arrays, with and without."""

import json
import tempfile
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.models import MNIST, flow_of
from benchmarks.training import stepping

TITLE = "Huge pages"
ABOUT = """\
Every call asks for its temporary memory anew, and on CPU the kernel hands it out page by page.
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1` (Linux, glibc 2.35 or newer) before a command asks for huge
pages. Each row in processes of its own, with and without; `configs/mnist.py`, batch 64, and
its training in calls of four steps, which share one temporary memory."""
PROGRAM = "import json; from benchmarks.pages import measured; print(json.dumps(measured()))"
TUNABLE = "glibc.malloc.hugetlb=1"
TURNS = 2


def run() -> list[dict[str, Any]]:
    """Measures processes of both kinds in turn, and takes the better one of each."""
    with tempfile.TemporaryDirectory() as cache:
        turns = [(_process("", cache), _process(TUNABLE, cache)) for _ in range(TURNS)]
    rows = []
    for name in turns[0][0]:
        plain, huge = (min(turn[kind][name] for turn in turns) for kind in (0, 1))
        rows.append(
            {
                "call": name,
                "milliseconds": 1e3 * plain,
                "milliseconds, huge pages": 1e3 * huge,
                "time": huge / plain,
            }
        )
    return rows


def _process(tunables: str, cache: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        measure.output_of(PROGRAM, GLIBC_TUNABLES=tunables, JAX_COMPILATION_CACHE_DIR=cache)
    )
    return found


def measured() -> dict[str, float]:
    """Seconds of calls in this process."""
    model, params, x = flow_of(MNIST, 64)

    def log_joint(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(model.log_joint(params, x))

    forward, gradient = jax.jit(log_joint), jax.jit(jax.grad(log_joint))
    return measure.seconds(
        {
            "log p(x, y), forward": lambda: forward(params, x),
            "log p(x, y), gradient": lambda: gradient(params, x),
            "four training steps": stepping(MNIST, {}, 4).call,
        },
        rounds=15,
    )

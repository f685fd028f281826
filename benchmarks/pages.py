"""Memory in huge pages: calls with temporary arrays, with and without."""

import json
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.models import DENSITY, flow_of

TITLE = "Huge pages"
ABOUT = """\
Every call asks for its temporary memory anew, and on CPU the kernel hands it out page by page.
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1` (Linux, glibc 2.35 or newer) before a command asks for huge
pages. Each row in processes of its own, with and without; `configs/mnist.py:density`, batch 64."""
PROGRAM = "import json; from benchmarks.pages import measured; print(json.dumps(measured()))"
TUNABLE = "glibc.malloc.hugetlb=1"
TURNS = 2


def run() -> list[dict[str, Any]]:
    """Measures processes of both kinds in turn, and takes the better one of each."""
    times: dict[str, list[dict[str, float]]] = {"": [], TUNABLE: []}
    for _ in range(TURNS):
        for value, found in times.items():
            text = measure.output_of(PROGRAM, GLIBC_TUNABLES=value)
            found.append(json.loads(text))
    best = {value: {name: min(t[name] for t in found) for name in found[0]}
            for value, found in times.items()}  # fmt: skip
    return [
        {
            "call": name,
            "milliseconds": 1e3 * seconds,
            "milliseconds, huge pages": 1e3 * best[TUNABLE][name],
            "time": best[TUNABLE][name] / seconds,
        }
        for name, seconds in best[""].items()
    ]


def measured() -> dict[str, float]:
    """Seconds of calls in this process."""
    model, params, x = flow_of(DENSITY, 64)

    def log_joint(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(model.log_joint(params, x))

    forward, gradient = jax.jit(log_joint), jax.jit(jax.grad(log_joint))
    return measure.seconds(
        {
            "log p(x, y), forward": lambda: forward(params, x),
            "log p(x, y), gradient": lambda: gradient(params, x),
        },
        rounds=15,
    )

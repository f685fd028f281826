"""Seconds to the first step: against depth, of each config, and with a persistent cache."""

import tempfile
from typing import Any

from benchmarks import measure

TITLE = "Time to the first step"
ABOUT = """\
From the settings to the end of the first step, in a process of its own after jax has started:
loading the data, compiling and running the start, compiling and running a step. Spreading labels,
or another run that gives them, comes before and is not counted. Depth counts flow steps of the
digits config's body and head; layers of a `repeat` are one loop, so compile time does not grow with
them (`unroll=1`; the configs unroll 4 or 8). With `JAX_COMPILATION_CACHE_DIR` a second process of
the same config takes its programs from there, also under another seed."""

CONFIGS = (
    "moons", "digits", "mnist", "mnist:alone", "mnist:small", "mnist_table:glow_sgd",
    "mnist_table:gmm_sgd",
)  # fmt: skip

PROGRAM = """
import time
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.numpy.zeros(1).block_until_ready()
from benchmarks.training import stepping
start = time.perf_counter()
jax.block_until_ready(stepping({name!r}, {changes!r}, 1).call())
print(time.perf_counter() - start)
"""


def run() -> list[dict[str, Any]]:
    """Measures depths, configs, and each config again from a cache."""
    rows = []
    for depth in (4, 16, 64):
        model = {"steps": (depth, depth), "head_steps": depth, "unroll": 1}
        rows.append(
            {"config": "digits", "flow steps": 3 * depth, "seconds": _seconds("digits", model)}
        )
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as cache:
            first = _seconds(name, {}, cache)
            again = _seconds(name, {}, cache)
        rows.append({"config": name, "seconds": first, "seconds, cached": again})
    return rows


def _seconds(name: str, model: dict[str, Any], cache: str = "") -> float:
    program = PROGRAM.format(name=name, changes={"model": model})
    return float(measure.output_of(program, JAX_COMPILATION_CACHE_DIR=cache))

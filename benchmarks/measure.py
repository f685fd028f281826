"""Times, floating-point operations and memory of compiled functions."""

import contextlib
import functools
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.extend
import jax.monitoring
import jax.numpy as jnp

from scnf_jax.parallel import usable_cores


def seconds(functions: Mapping[str, Callable[[], Any]], rounds: int = 7) -> dict[str, float]:
    """Median seconds of a call of each function, after a warm-up.

    The functions take turns, so that what disturbs the machine disturbs all of them.

    Args:
      functions: what to call, by name; results are waited for.
      rounds: calls of each.

    Returns:
      Seconds by name.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def matmul_peak(size: int = 2048) -> tuple[Callable[[], Any], float]:
    """A matrix product, and its floating-point operations: the machine's practical peak."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jnp.matmul)
    return lambda: product(a, a), 2.0 * size**3


class Compiled(NamedTuple):
    """A function that is compiled for its arguments.

    Attributes:
      call: calls it on them.
      temporary_mebibytes: what it needs beside arguments and results, as the compiler plans.
    """

    call: Callable[[], Any]
    temporary_mebibytes: float


def compiled(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compiles a function once, for its time and its memory."""
    program = jax.jit(function).lower(*arguments).compile()
    planned = program.memory_analysis()
    if planned is None:
        raise RuntimeError("this backend does not say how much memory a program needs")
    return Compiled(functools.partial(program, *arguments), planned.temp_size_in_bytes / 2**20)


def output_of(program: str, **environment: str) -> str:
    """The last line that a Python program prints, in a process of its own.

    Args:
      program: its text; it can import this package.
      **environment: variables that are set beside those of now.
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of the matrix products and convolutions of a function.

    Convolutions are counted as such, whatever they run as on this machine, and loops as
    often as they go round; elementwise work is not counted.

    Args:
      function: to be traced.
      *arguments: arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The count; a multiplication and an addition are two.
    """
    with mock.patch("jax.default_backend", return_value="gpu"):
        return operations_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def operations_of(jaxpr: Any) -> float:
    """:func:`operations` of a trace, as it stands."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            layout = equation.params["dimension_numbers"].rhs_spec
            taps = kernel.size // kernel.shape[layout[0]]
            total += 2.0 * equation.outvars[0].aval.size * taps
        rounds = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += rounds * sum(
            operations_of(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)
        )
    return total


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """Collects the seconds of every compilation inside."""
    collected: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            collected.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield collected
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def machine() -> dict[str, Any]:
    """What a record says about where it was measured."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": usable_cores(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }

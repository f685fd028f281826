"""Several devices: scaling on host devices, and what a compiled step sends."""

import json
import re
from typing import Any

from benchmarks import measure
from benchmarks.training import stepping

TITLE = "Several devices"
ABOUT = """\
Data parallelism over host devices of this machine, the digits config's flow. They share its cores,
so efficiency is against the same work on one device: seconds of one over seconds of several, at the
same batch (strong) and at a batch of 32 a device against one device at the whole batch (weak).
Collectives are counted in the compiled step: what reduces the gradients and the batch's metrics;
no rows are gathered."""
PROGRAM = """
import json
import jax
jax.config.update("jax_num_cpu_devices", {count})
from benchmarks.devices import measured
print(json.dumps(measured({count}, {batch})))
"""
COUNTS = (1, 2, 4, 8)
BATCH = 32


def run() -> list[dict[str, Any]]:
    """Measures every number of devices in a process of its own."""
    largest = BATCH * COUNTS[-1]
    strong = {count: _process(count, largest) for count in COUNTS}
    weak = {count: _process(count, BATCH * count) for count in COUNTS[:-1]}
    alone = {count: _process(1, BATCH * count) for count in COUNTS[1:-1]}
    alone |= {1: weak[1], COUNTS[-1]: strong[1]}
    weak[COUNTS[-1]] = strong[COUNTS[-1]]
    return [
        {
            "devices": count,
            "strong scaling, efficiency": strong[1]["seconds"] / strong[count]["seconds"],
            "weak scaling, efficiency": alone[count]["seconds"] / weak[count]["seconds"],
            **{
                f"{kind} a step": strong[count][kind]
                for kind in ("all-reduce", "other collectives")
            },
            "MB sent a step": strong[count]["megabytes"],
        }
        for count in COUNTS
    ]


def measured(devices: int, batch: int) -> dict[str, Any]:
    """Seconds of a step over the devices of this process, and its collectives."""
    steps = stepping("digits", {"batch_size": batch}, 5, devices)
    seconds = measure.seconds({"step": steps.call}, rounds=5)["step"] / 5
    sent = collectives(steps.text() or "")
    return {
        "seconds": seconds,
        "all-reduce": sum(kind == "all-reduce" for kind, _ in sent),
        "other collectives": sum(kind != "all-reduce" for kind, _ in sent),
        "megabytes": sum(size for _, size in sent) / 1e6,
    }


def collectives(text: str) -> list[tuple[str, int]]:
    """Kind and bytes of every collective in a compiled program."""
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    return [(kind, _bytes(shapes)) for shapes, kind in found]


def _bytes(shapes: str) -> int:
    total = 0
    for width, dims in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", shapes):
        size = int(width) // 8
        for dim in filter(None, dims.split(",")):
            size *= int(dim)
        total += size
    return total


def _process(count: int, batch: int) -> dict[str, Any]:
    program = PROGRAM.format(count=count, batch=batch)
    return json.loads(measure.output_of(program, JAX_PLATFORMS="cpu"))

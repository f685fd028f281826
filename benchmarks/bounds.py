"""What bounds a training step: time inside matrix products, and between them."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import measure
from benchmarks.training import ROWS, stepping

TITLE = "What bounds a training step"
ABOUT = """\
Time of the operations of compiled training steps, from a profile of one call: those that hold a
matrix product against all others, which move and map arrays between them. The share of time in
products is also the largest share of the peak that a step could reach with its products at the
peak and all else as it is; the last column is how near to the peak they run. CPU only."""
_PRODUCT = re.compile(r" (?:dot|convolution)\(")


def run() -> list[dict[str, Any]]:
    """Profiles every config of the training benchmark but the paper's."""
    return [_one(*row) for row in ROWS if not row[1].startswith("mnist_table")]


def _one(label: str, name: str, changes: dict[str, Any], steps_per_call: int) -> dict[str, Any]:
    call, _, operations, text = stepping(name, changes, steps_per_call)
    product, product_operations = measure.matmul_peak()
    times = measure.seconds({"step": call, "product": product}, rounds=3)
    peak = product_operations / times["product"]
    spent = seconds_by_operation(call)
    of_products = products(text() or "")
    inside = sum(seconds for name, seconds in spent.items() if name in of_products)
    return {
        "config": label,
        "operations in the program": len(spent),
        "of them with products": len(of_products & spent.keys()),
        "share of time in products": inside / sum(spent.values()),
        "GFLOP/s in products": operations() / inside / 1e9,
        "share of peak in products": operations() / inside / peak,
    }


def seconds_by_operation(call: Callable[[], Any]) -> Counter[str]:
    """Seconds of every operation of a compiled function in one call, by its name in the program."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    spent: Counter[str] = Counter()
    for plane in profile.planes:
        for line in plane.lines:
            if line.name.startswith("tf_XLAEigen"):
                for event in line.events:
                    if "::" not in event.name:
                        spent[event.name] += event.duration_ns / 1e9
    return spent


def products(text: str) -> set[str]:
    """Names of the operations of a compiled program that hold a matrix product."""
    holds: set[str] = set()
    computation = ""
    calls: list[tuple[str, str]] = []
    found: set[str] = set()
    for line in text.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = opened[1]
        elif made := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line):
            if _PRODUCT.search(line):
                holds.add(computation)
                found.add(made[1])
            if called := re.search(r" fusion\(.*calls=%?([\w.\-]+)", line):
                calls.append((made[1], called[1]))
    return found | {name for name, called in calls if called in holds}

"""Minutes of training until a run reached an error or a density, from its log."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scnf_jax.folders import read_settings
from scnf_jax.reporting.log import read_metrics
from scnf_jax.reporting.results import trained_on

TITLE = "Time to a result"
ABOUT = """\
Minutes of training, evaluations aside, until an evaluation on the test set first gave the error or
the bits/dim at the head of a column; `-`: it did not. Read from the logs of whole runs, which
shared the machine with other work. `configs/mnist.py` classified in the middle of grey levels while
it trained, the others at noise. The minutes of a run that learns from another one's labels begin
when that one is done. Records of `:small` name the cores of the machine; it used one."""
ERRORS = (5.0, 3.0, 2.0)
BITS = (2.0, 1.5, 1.3, 1.2, 1.145, 1.1, 1.07)


def run(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads every run."""
    if not folders:
        raise ValueError("thresholds: expected run folders; give them with --runs")
    return [_one(folder) for folder in folders]


def _one(folder: Path) -> dict[str, Any]:
    settings, records = read_settings(folder), read_metrics(folder)
    path = folder / "summary.json"
    if not path.exists():
        raise ValueError(f"thresholds: expected finished runs, found no summary.json in {folder}")
    summary = json.loads(path.read_text())
    batch, step, seconds = settings.config["batch_size"], 0, 0.0
    reached: dict[str, float | None] = {f"{error:g}%": None for error in ERRORS}
    reached |= {f"{bits:g} bits/dim": None for bits in BITS}
    for record in records:
        if record["split"] == "train":
            seconds += (record["step"] - step) * batch / record["images_per_second"]
            step = record["step"]
            continue
        for column, bound, key in [
            *((f"{error:g}%", error, "error_percent") for error in ERRORS),
            *((f"{bits:g} bits/dim", bits, "bits_per_dim") for bits in BITS),
        ]:
            if reached[column] is None and record.get(key, math.inf) <= bound:
                reached[column] = seconds / 60
    return {
        "run": settings.command.removeprefix("python train.py --config=configs/"),
        "device": trained_on(summary),
        "steps": summary["steps"],
        "minutes in all": seconds / 60,
        **reached,
    }

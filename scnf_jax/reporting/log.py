"""Metrics on disk: JSON lines always, TensorBoard events beside them."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scnf_jax.folders import write_text


class MetricsLog:
    """Appends records to ``metrics.jsonl`` and to TensorBoard events.

    Args:
      folder: of the run.
      step: from which training goes on; records of later steps, which an interrupted
        run wrote after its last checkpoint, are dropped, so that none is there twice.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "metrics.jsonl"
        kept = [json.dumps(record) for record in read_metrics(folder) if record["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))
        self._stream = path.open("a", buffering=1)
        try:
            from tensorboardX import SummaryWriter

            # purge_step hides events of steps that are trained again.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        except ImportError:
            warnings.warn(
                "tensorboardX is not installed: metrics.jsonl is written, TensorBoard events are "
                "not; pip install tensorboardX",
                stacklevel=2,
            )
            self._board = None

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Appends one record of a split, ``train`` or ``test``."""
        record = {"step": step, "split": split, **{k: float(v) for k, v in metrics.items()}}
        self._stream.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{split}/{name}", float(value), step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._stream.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All records of a run folder; a half-written last line is left out."""
    path = folder / "metrics.jsonl"
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records

"""Metrics on disk: JSON lines always, TensorBoard events beside them."""

import json
import time
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
        self._board = _board(folder / "tensorboard", step)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Appends one record of a split, ``train`` or ``test``.

        Raises:
          OSError: where a file cannot be written.
        """
        record = {"step": step, "split": split, **{k: float(v) for k, v in metrics.items()}}
        self._stream.write(json.dumps(record) + "\n")
        if self._board is not None:
            self._board.write(step, {f"{split}/{k}": float(v) for k, v in metrics.items()})

    def close(self) -> None:
        """Flushes and closes both."""
        try:
            self._stream.close()
        finally:
            if self._board is not None:
                self._board.close()


class _Board:
    """TensorBoard events, written by the thread that trains.

    tensorboardX's own ``SummaryWriter`` writes from another thread: where a disk is full, that
    thread ends and the queue before it fills up, and then training waits for ever.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        folder.mkdir(exist_ok=True)
        self._event, self._scalar = event_pb2.Event, scalar
        self._file = EventsWriter(str(folder / "events"))
        # Hides events of steps that are trained again.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.write_event(self._event(wall_time=time.time(), step=step + 1, session_log=start))
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            summary = self._scalar(name, value)
            self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _board(folder: Path, step: int) -> _Board | None:
    try:
        return _Board(folder, step)
    except ImportError:
        warnings.warn(
            "tensorboardX is not installed: metrics.jsonl is written, TensorBoard events are not; "
            "pip install tensorboardX",
            stacklevel=2,
        )
        return None


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

"""Metrics on disk: JSON lines always, TensorBoard events beside them."""

import json
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scnf_jax.folders import replacing


class MetricsLog:
    """Appends records to ``metrics.jsonl`` and to TensorBoard events.

    Args:
      folder: of the run.
      step: from which training goes on; records of later steps, which an interrupted
        run wrote after its last checkpoint, are dropped, so that none is there twice, and so is
        a half-written last line. Other lines stay as they are, whatever they hold.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "metrics.jsonl"
        lines = _lines(path)
        if lines and _record(lines[-1]) is None:
            del lines[-1]
        records = [(line, _record(line)) for line in lines]
        kept = [line for line, record in records if record is None or record["step"] <= step]
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))
        self._stream = path.open("a", buffering=1)
        self._board = _board(folder / "tensorboard", step)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Appends one record of a split, ``train`` or ``test``, without what is not finite.

        Raises:
          OSError: where a file cannot be written.
        """
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}  # JSON has no NaN
        self._stream.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        if self._board is not None:
            self._board.write(step, {f"{split}/{k}": v for k, v in finite.items()})

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
    """All records of a run folder; a line that is none, such as a half-written last one, is not."""
    records = map(_record, _lines(folder / "metrics.jsonl"))
    return [record for record in records if record is not None]


def _lines(path: Path) -> list[bytes]:
    """Lines that are not blank."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [line for line in lines if line.strip()]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # of JSON or of UTF-8
        return None
    known = isinstance(record, dict) and isinstance(record.get("step"), int) and "split" in record
    return record if known else None

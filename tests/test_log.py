"""Metrics on disk: the same figures as JSON lines and as TensorBoard events."""

import struct
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from scnf_jax.reporting.log import MetricsLog, read_metrics


def _events(folder: Path) -> list[Event]:
    """Those of all files: records of a length, its checksum, the event, and the event's."""
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 12 + size + 4
    return events


def test_events_are_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 10)
    log.write(12, "train", {"loss": 0.5, "grad_norm": 2.0})
    log.write(14, "test", {"loss": 0.25})
    events = _events(tmp_path / "tensorboard")
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [
        (12, "train/loss", 0.5),
        (12, "train/grad_norm", 2.0),
        (14, "test/loss", 0.25),
    ]
    assert [e.step for e in events if e.session_log.status == SessionLog.START] == [11]
    log.close()
    assert read_metrics(tmp_path)[1] == {"step": 14, "split": "test", "loss": 0.25}


def test_events_that_cannot_be_written_are_an_error_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(tmp_path, 0)

    def full(writer: EventsWriter) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventsWriter, "flush", full)
    with pytest.raises(OSError, match="No space left"):
        log.write(1, "train", {"loss": 0.5})
    with pytest.raises(OSError, match="No space left"):
        log.close()
    monkeypatch.undo()
    log.close()


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write(1, "train", {"loss": float("nan"), "grad_norm": float("inf"), "skipped_steps": 1})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "split": "train", "skipped_steps": 1.0}]


def test_resuming_cuts_later_records_and_a_half_written_line_alone(tmp_path: Path) -> None:
    lines = [b'{"step": %d, "split": "train", "loss": 0.5}' % step for step in (10, 20, 30)]
    foreign = [b"\xff\xfe", b"[1]", b'{"a": 1}', b'{"step": "two", "split": "test"}', b"<<<<"]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([b"", lines[0], b" ", *foreign, *lines[1:], b'{"step": 3', b""]))
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20, 30]
    MetricsLog(tmp_path, 20).close()
    assert path.read_bytes().splitlines() == [lines[0], *foreign, lines[1]]
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]

"""Two processes on loopback against one, and what happens when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
import pytest

import scnf_jax
from tests.conftest import POINTS

ROOT = Path(__file__).parents[1]
DIGITS = (
    "--config=configs/digits.py:tiny",
    "--config.steps_per_call=1",
    "--config.eval_every=10",
    "--config.checkpoint_every=10",
)
ENDLESS = (
    *POINTS,
    "--config.steps=100000",
    "--config.steps_per_call=50",
    "--config.eval_every=1000",
    "--config.checkpoint_every=50",
)


def start(workdir: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "train.py", f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def job(workdir: Path, *arguments: str) -> list["subprocess.Popen[str]"]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(workdir, *arguments, f"--config.distributed=127.0.0.1:{port},2,{number}")
        for number in range(2)
    ]


def losses(workdir: Path) -> list[float]:
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["split"] == "train"]


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    alone = start(tmp_path / "alone", *DIGITS)
    together = job(tmp_path / "together", *DIGITS)
    out, err = zip(*(process.communicate(timeout=240) for process in together), strict=True)
    assert [process.returncode for process in together] == [0, 0], err
    assert alone.communicate(timeout=240)[0].startswith("test error")
    assert "test error" in out[0]
    assert "test error" not in out[1]
    assert "step" not in err[1]
    np.testing.assert_allclose(losses(tmp_path / "together"), losses(tmp_path / "alone"), rtol=1e-5)
    one, two = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("alone", "together")
    )
    assert one["command"] == two["command"]
    assert two["device"] == "2 x cpu"
    assert one["test_error_percent"] == two["test_error_percent"]
    assert one["dataset"] == "digits"
    assert one["bits_per_dim"] > 0
    assert (tmp_path / "alone" / "samples.png").stat().st_size > 1000
    # What two devices saved, one reads.
    chex.assert_trees_all_close(
        *(scnf_jax.load_run(tmp_path / name).params for name in ("together", "alone")),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.slow
def test_a_lost_process_ends_the_job_and_the_same_command_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first, second = job(folder, *ENDLESS)
    deadline = time.monotonic() + 240
    while not (folder / "checkpoints" / "50").exists():
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    lost = time.monotonic()
    _, err = first.communicate(timeout=120)
    assert time.monotonic() - lost < 60
    assert first.returncode == 1, err
    assert "another one is gone; start all of them again to resume" in err
    resumed = job(folder, *ENDLESS)
    lines = []
    assert resumed[0].stderr is not None
    while not lines or "from step" not in lines[-1]:
        lines.append(resumed[0].stderr.readline())
        assert lines[-1], lines
    assert "from step 0 " not in lines[-1]
    for process in resumed:
        process.send_signal(signal.SIGTERM)
    for process in resumed:
        process.communicate(timeout=120)
        assert process.returncode == 128 + signal.SIGTERM

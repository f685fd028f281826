"""Whole runs: configs, folders, resuming, the command line."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import scnf_jax
from scnf_jax import bijectors as bj
from scnf_jax import folders, runs, training
from scnf_jax.baselines import run_baseline
from scnf_jax.models import with_defaults
from scnf_jax.reporting import figures
from scnf_jax.reporting.log import read_metrics
from tests.conftest import POINTS, stopped_at

ROOT = Path(__file__).parents[1]
PARTS = ("train", "test")
SHARED_TFDS = ROOT.parent / "shared" / "tfds"

TINY: dict[str, Any] = {
    "dataset": "moons",
    "num_labelled": 10,
    "steps": 20,
    "batch_size": 16,
    "eval_every": 10,
    "checkpoint_every": 10,
    "steps_per_call": 5,
    "model": {"name": "vector", "steps": 1, "head_steps": 1, "hidden": [8], "coupling": "affine"},
    "optimizer": {"ema_decay": 0.9},
}
DATA = {"event_shape": [2], "num_classes": 2, "num_levels": None}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_and_what_it_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "a run with spaces, ünïcode"
    summary = runs.train(runs.prepare(TINY, folder))
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "summary.json",
        "curves.png", "density.png",
    }  # fmt: skip
    assert summary == json.loads((folder / "summary.json").read_text())
    assert set(summary) >= {
        "dataset", "config", "test_error_percent", "bits_per_dim", "num_labelled", "seed",
        "train_seconds", "device", "steps", "versions",
    }  # fmt: skip
    assert abs(summary["density_integral"] - 1) < 0.01
    records = read_metrics(folder)
    assert [r["step"] for r in records if r["split"] == "train"] == [5, 10, 15, 20]
    assert [r["step"] for r in records if r["split"] == "test"] == [10, 20]

    run = scnf_jax.load_run(folder)
    assert run.step == 20
    assert run.config["model"]["name"] == "vector"
    dataset = scnf_jax.runs.load_dataset("moons")
    error = 100 * np.mean(
        np.argmax(run.model.log_posterior(run.params, dataset.test_x), -1) != dataset.test_y
    )
    assert error == pytest.approx(summary["test_error_percent"])


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_resuming_equals_not_stopping(tmp_path: Path, optimizer: str) -> None:
    config = TINY | {"optimizer": {**TINY["optimizer"], "name": optimizer}}
    runs.train(runs.prepare(config, tmp_path / "whole"))

    class Killed(Exception):
        pass

    with stopped_at(15, Killed):
        runs.train(runs.prepare(config, tmp_path / "parts"))
    assert read_metrics(tmp_path / "parts")[-1]["step"] == 15
    runs.train(runs.prepare(config, tmp_path / "parts"))

    one, two = scnf_jax.load_run(tmp_path / "whole"), scnf_jax.load_run(tmp_path / "parts")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.params, two.params
    )

    def keys(folder: str) -> list[tuple[int, str]]:
        return [(r["step"], r["split"]) for r in read_metrics(tmp_path / folder)]

    assert keys("parts") == keys("whole")


def test_another_config_is_refused_by_key(tmp_path: Path) -> None:
    runs.prepare(TINY, tmp_path)
    before = (tmp_path / "config.json").read_text()
    changed = TINY | {"seed": 1, "model": TINY["model"] | {"steps": 2}}
    with pytest.raises(ValueError, match=r"model.steps: 1 there, 2 now; seed: 0 there, 1 now"):
        runs.prepare(changed, tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_settings_from_before_a_model_had_one_more_are_the_same(tmp_path: Path) -> None:
    runs.prepare(TINY, tmp_path)
    runs.prepare(TINY | {"model": TINY["model"] | {"linear": "lu"}}, tmp_path)
    with pytest.raises(ValueError, match="model.linear: 'lu' there, 'full' now"):
        runs.prepare(TINY | {"model": TINY["model"] | {"linear": "full"}}, tmp_path)
    assert with_defaults({"name": "glow", "width": 8}) == {
        **with_defaults({"name": "glow", "num_pointwise": 0}),
        "width": 8,
    }


def test_other_data_are_refused(tmp_path: Path) -> None:
    path, folder = tmp_path / "mine.npz", tmp_path / "run"
    x = np.random.RandomState(0).randn(40, 2)
    arrays = {"x_train": x, "y_train": np.arange(40) % 2, "x_test": x, "y_test": np.arange(40) % 2}
    np.savez(path, **arrays)
    config = TINY | {"dataset": str(path), "num_labelled": 4}
    summary = runs.train(runs.prepare(config, folder))
    before = (folder / "config.json").read_text()
    np.savez(path, **(arrays | {"y_train": np.arange(40) % 3}))
    with pytest.raises(
        ValueError, match=r"other data \(fingerprint: .*num_classes: 2 there, 3 now"
    ):
        runs.prepare(config, folder)
    np.savez(path, **(arrays | {"x_train": x[1:], "y_train": arrays["y_train"][1:]}))
    with pytest.raises(ValueError, match="num_train: 40 there, 39 now"):
        runs.prepare(config, folder)
    np.savez(path, **(arrays | {"x_train": x + 1}))
    with pytest.raises(ValueError, match=r"other data \(train_fingerprint: "):
        runs.prepare(config, folder)
    assert (folder / "config.json").read_text() == before
    np.savez(path, **arrays)
    assert runs.train(runs.prepare(config, folder)) == summary


def test_devices_are_those_that_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    with stopped_at(10, Stopped):
        runs.train(runs.prepare(TINY, tmp_path))

    monkeypatch.setattr(runs, "_devices", lambda mesh: "8 x TPU v4")
    summary = runs.train(runs.prepare(TINY, tmp_path))
    assert summary["device"] == "1 x cpu, then 8 x TPU v4"
    monkeypatch.undo()
    assert runs.train(runs.prepare(TINY, tmp_path))["device"] == summary["device"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    experiment = runs.prepare(TINY, tmp_path)
    with folders.claimed(tmp_path), pytest.raises(ValueError, match="in use by another run"):
        runs.train(experiment)


def test_a_folder_that_another_run_trains_in_is_not_touched(tmp_path: Path) -> None:
    with folders.claimed(tmp_path), pytest.raises(ValueError, match="in use by another run"):
        runs.prepare(TINY, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match="cannot be locked"), folders.claimed(tmp_path):
        pass


def test_a_full_disk_names_the_file_and_leaves_its_content(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    folders.write_json(path, {"step": 1})
    with pytest.raises(OSError, match=r"summary\.json: No space left"), folders.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert folders.read_json(path) == {"step": 1}


def test_divergence_stops_with_its_cause(tmp_path: Path) -> None:
    experiment = runs.prepare(TINY | {"steps": 40}, tmp_path)
    experiment.dataset.train_x[:] = np.nan
    with pytest.raises(training.Diverged, match="not finite in 20 steps in a row"):
        runs.train(experiment)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert "learning_rate" in summary["cause"]


@pytest.mark.parametrize("steps", [10, 24])
def test_a_run_that_ends_astray_has_diverged(tmp_path: Path, steps: int) -> None:
    """In fewer steps than the limit, or by its last steps."""
    optimizer = {"name": "adam", "learning_rate": 1e30, "warmup_steps": steps - 10}
    experiment = runs.prepare(TINY | {"steps": steps, "optimizer": optimizer}, tmp_path)
    with pytest.raises(training.Diverged, match="lower optimizer.learning_rate"):
        runs.train(experiment)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stpes": 3}, "stpes: no such setting; did you mean 'steps'"),
        ({"optimizer": {"learning_rte": 1.0}}, "optimizer.learning_rte: .*'learning_rate'"),
        ({"objective": {"nam": "em"}}, "objective.nam: .*'name'"),
        ({"augment": {"shfit": 1.0}}, "augment.shfit: .*'shift'"),
        ({"steps": 2.5}, "steps: expected int, got 2.5"),
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
        ({"optimizer": {"learning_rate": "fast"}}, "optimizer.learning_rate: expected float"),
        ({"optimizer": 3}, "optimizer: expected a group of settings"),
        ({"seed": -1}, "seed: expected a number >= 0"),
        ({"num_labelled": 1}, "num_labelled: expected 2"),
        ({"dataset": "nowhere.npz"}, "expected a .npz file"),
        ({"model": {"name": "vectr"}}, "did you mean 'vector'"),
        ({"model": {"name": "glow"}}, "glow: expected images"),
        ({"model": {"name": "vector", "hidden": []}}, "hidden: expected at least one width"),
        ({"model": {"name": "vector", "hidden": [0]}}, "hidden: expected an integer >= 1, got 0"),
        ({"dataset": "digits", "num_labelled": 10, "model": {"name": "glow", "width": 0}}, "width"),
        ({"model": {"name": "m1m2"}}, "model: .*m1_steps"),
        ({"dataset": "digits", "model": {"name": "glow", "steps": 4}}, "model.steps: expected sev"),
        (
            {
                "dataset": "digits",
                "num_labelled": 10,
                "model": {"name": "glow", "steps": [1], "split_last": 3},
            },
            "with an even C",
        ),
        ({"labelled_fraction": "0.3"}, "labelled_fraction: expected"),
        (
            {"posterior_at": "center"},
            "posterior_at: expected one of 'noise', 'middle', got 'center'",
        ),
        ({"posterior_at": "middle"}, "posterior_at: expected 'noise', got 'middle', .* vectors"),
    ],
)
def test_bad_configs(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        runs.prepare(TINY | changes, folder)
    assert not folder.exists()


def test_steps_that_were_skipped_do_not_spoil_the_curves(tmp_path: Path) -> None:
    records = [
        {"step": 1, "split": "train", "bits_per_dim": 2.0},
        {"step": 2, "split": "train", "bits_per_dim": float("nan")},
        {"step": 2, "split": "test", "bits_per_dim": float("inf"), "error_percent": 5.0},
    ]
    figures.plot_curves(tmp_path / "curves.png", records, discrete=True)
    figures.plot_curves(tmp_path / "none.png", records[1:2], discrete=True)
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_curves_of_a_model_without_a_density_show_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"step": step, "split": "train", "loss": 1.0 / step} for step in (1, 2, 4)]
    records.append({"step": 4, "split": "test", "error_percent": 10.0})
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    figures.plot_curves(tmp_path / "curves.png", records, discrete=True)
    left, _ = drawn[0].axes
    assert left.get_title() == "loss"
    assert [list(line.get_ydata()) for line in left.lines] == [[1.0, 0.5, 0.25]]


@pytest.mark.slow
def test_images_that_cannot_be_drawn_are_trained_on(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    arrays = {f"x_{part}": rng.randint(0, 256, (40, 4, 4, 2), np.uint8) for part in PARTS}
    labels = {f"y_{part}": np.arange(40) % 2 for part in PARTS}
    np.savez(tmp_path / "two.npz", **arrays, **labels)
    model = {"name": "glow", "steps": [1], "width": 4, "head_steps": 1, "head_width": 4}
    config = TINY | {"dataset": str(tmp_path / "two.npz"), "model": model}
    summary = runs.train(runs.prepare(config, tmp_path / "run"))
    assert summary["status"] == "finished"
    assert not (tmp_path / "run" / "samples.png").exists()


def test_missing_setting(tmp_path: Path) -> None:
    config = {key: value for key, value in TINY.items() if key != "batch_size"}
    with pytest.raises(ValueError, match="batch_size: expected a value, got none"):
        runs.prepare(config, tmp_path)


def test_an_empty_label_file_is_none(tmp_path: Path) -> None:
    empty = {"label_file": "", "pseudo_labels": "", "validation_size": 100}
    runs.prepare(TINY | empty, tmp_path)
    none = runs.prepare(TINY | dict.fromkeys(empty, None) | {"validation_size": 100}, tmp_path)
    assert none.config["label_file"] is none.config["pseudo_labels"] is None


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(event_shape: tuple[int], num_classes: int, *, width: int = 4) -> Any:
        conditioner = scnf_jax.conditioners.MLP(event_shape[0], (width,))
        body = bj.chain(bj.actnorm(), bj.affine_coupling(conditioner))
        return scnf_jax.semi_conditional_flow(body, bj.conditional_shift(), num_classes)

    monkeypatch.setitem(scnf_jax.models.BUILDERS, "mine", build)
    runs.train(runs.prepare(TINY | {"model": {"name": "mine", "width": 8}}, tmp_path))
    assert scnf_jax.load_run(tmp_path).model.num_classes == 2
    with pytest.raises(ValueError, match=r"model\.depth: no such setting of mine; did you mean"):
        runs.prepare(TINY | {"model": {"name": "mine", "depth": 8}}, tmp_path / "other")


def test_the_folder_of_a_baseline_is_no_model(tmp_path: Path) -> None:
    config = {"dataset": "moons", "num_labelled": 10, "baseline": {"name": "supervised_svc"}}
    run_baseline(config, tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds another run .*no model"):
        runs.prepare(TINY, tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: expected a run that trained a model"):
        scnf_jax.load_run(tmp_path)


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path) -> None:
    program = (
        "import sys; from scnf_jax.reporting import log; import train\n"
        "def full(*arguments): raise OSError(28, 'No space left on device')\n"
        "log.MetricsLog.write = full\n"
        "train.app.run(train.main, flags_parser=train.parse_flags)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"--workdir={tmp_path}", *POINTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No space left on device; the newest checkpoint in" in done.stderr


def test_load_run_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no config.json"):
        scnf_jax.load_run(tmp_path)
    runs.prepare(TINY, tmp_path)
    with pytest.raises(scnf_jax.checkpoints.CheckpointError, match="no checkpoint yet"):
        scnf_jax.load_run(tmp_path)


def test_settings_may_be_infinite(tmp_path: Path) -> None:
    settings = folders.Settings({"model": {"bound": math.inf}}, {})
    folders.write_settings(tmp_path, settings)
    assert folders.read_settings(tmp_path) == settings


@pytest.mark.parametrize(
    "damage",
    [
        *([], {"config": None}, {"config": [1]}, {"data": None}),
        *({"data": {**DATA, "event_shape": value}} for value in (None, 2, "ab")),
        {"data": {**DATA, "num_classes": None}},
    ],
)
def test_damaged_settings_are_an_error_that_names_the_file(tmp_path: Path, damage: Any) -> None:
    content = {"config": TINY, "data": DATA} | damage if damage else damage
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config.json: expected a run's settings, got a damaged"):
        scnf_jax.load_run(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["moons", "circles", "mnist"])
def test_every_config_in_its_tiny_mode(tmp_path: Path, config: str) -> None:
    """That of digits is trained in test_distributed.py."""
    if config == "mnist" and not SHARED_TFDS.exists():
        pytest.skip("needs a prepared MNIST in ../shared/tfds")
    done = command(
        f"--config=configs/{config}.py:tiny",
        f"--workdir={tmp_path}/run",
        TFDS_DATA_DIR=str(SHARED_TFDS),
    )
    assert done.returncode == 0, done.stderr
    assert "test error" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dataset"] == config
    assert summary["bits_per_dim"] > 0
    if config == "mnist":
        assert (tmp_path / "run" / "samples.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --config=FILE"),
        (["--config=configs/dgits.py"], "configs/dgits.py"),
        (["--config=README.md"], "(README.md, line "),
        (["--config=configs/moons.py:small"], "expected :full or :tiny, got :small"),
        (["--config=configs/vectors.py:x"], "expected :D, a number of features from 2, got :x"),
        (["--config=configs/moons.py", "--config.sede=1"], "did you mean 'seed'"),
        (["--config=configs/moons.py", "--config.model.bins=2"], "model.bins: no such setting"),
        (["--config=configs/moons.py", "--config.objectiv.name=em"], 'Did you mean "objective"'),
        (["--config=configs/moons.py", "--config.objective.sharpening=x"], "expected float"),
        (["--config=configs/moons.py", "--config.seed=x"], "--config.seed=x"),
        (["--confg=configs/moons.py"], "Did you mean: config"),
        (["configs/moons.py"], "--config"),
        (["--config=configs/moons.py", "--config.dataset=mnisst"], "did you mean mnist"),
        (["--config=configs/moons.py", "--workdir=/proc/none"], "workdir: expected a folder"),
        (
            ["--config=configs/moons.py", "--config.pseudo_labels={workdir}/tidy"],
            "expected :full or :tiny, got :tidy",
        ),
    ],
)
def test_bad_commands_say_one_line(arguments: list[str], message: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    "typed",
    [
        "--config=configs/moons.py --workdir=runs/a --config.seed=1 --config.model.x=-1",
        "--config configs/moons.py --workdir runs/a --config.seed 1 --config.model.x -1",
        "-config=configs/moons.py -config.distributed auto --config.seed=1 --config.model.x=-1",
    ],
)
def test_a_command_is_recorded_in_one_form(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    monkeypatch.setattr(sys, "argv", ["train.py", *typed.split()])
    expected = "python train.py --config=configs/moons.py --config.seed=1 --config.model.x=-1"
    assert train._command() == expected


def test_a_recorded_command_outlives_a_call_without_one(tmp_path: Path) -> None:
    for command in ("python train.py --config=configs/moons.py", ""):
        runs.prepare(TINY, tmp_path, command)
    assert folders.read_settings(tmp_path).command == "python train.py --config=configs/moons.py"


def test_a_signal_while_results_are_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = runs._Loop._finish

    def signalled(loop: runs._Loop) -> dict[str, Any]:
        loop.received.append(signal.SIGTERM)
        return finish(loop)

    monkeypatch.setattr(runs._Loop, "_finish", signalled)
    with pytest.raises(runs.Interrupted, match="when all was done") as stopped:
        runs.train(runs.prepare(TINY, tmp_path))
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_a_mode_of_the_config_file_goes_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--config=configs/moons.py:tiny", "--config.seed=3", f"--workdir={run}",
                 "--config.pseudo_labels={workdir}/tiny"]  # fmt: skip
    refused = command(*arguments, "--config.model.bins=2")
    assert refused.returncode == 2
    assert not run.exists()
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test error") == 2
    first, second = (
        json.loads((folder / "summary.json").read_text()) for folder in (run / "tiny", run)
    )
    assert first["command"] == "python train.py --config=configs/moons.py:tiny --config.seed=3"
    assert (first["num_pseudo_labelled"], second["num_pseudo_labelled"]) == (0, 990)
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("test error") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "first"), [(signal.SIGTERM, ""), (signal.SIGINT, ""), (signal.SIGTERM, "full")]
)
def test_signals_save_and_resume(tmp_path: Path, number: signal.Signals, first: str) -> None:
    """Also while the run trains whose labels this one learns from."""
    run = tmp_path / "run" / first
    arguments = [*POINTS, f"--workdir={tmp_path}/run", "--config.steps=100000",
                 "--config.steps_per_call=10", "--config.eval_every=1000",
                 "--config.checkpoint_every=100000"]  # fmt: skip
    if first:
        arguments.append(f"--config.pseudo_labels={{workdir}}/{first}")
    process = subprocess.Popen([sys.executable, "train.py", *arguments], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "the same command resumes" in errors
    (step,) = runs.checkpoints.saved_steps(run / "checkpoints")
    assert read_metrics(run)[-1]["step"] == step


def test_a_result_goes_to_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    behind, link = tmp_path / "disk" / "a.json", tmp_path / "b.json"
    link.symlink_to(behind)
    for number in (1, 2):  # not there yet, then there
        folders.write_json(link, {"number": number})
        assert link.is_symlink()
        assert folders.read_json(behind) == {"number": number}

"""Pseudo-labels: which objects get one, and runs that learn from another run's."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from configs import digits, mnist
from scnf_jax import folders, pseudo_labels, runs
from scnf_jax.data import Dataset, load_dataset
from scnf_jax.inference import Scores
from scnf_jax.loading import LoadedRun, load_run
from scnf_jax.pseudo_labels import surest_labels
from scnf_jax.reporting import results
from scnf_jax.reporting.card import describe
from scnf_jax.settings import parse_config
from tests.test_runs import ROOT, TINY


def test_the_surest_of_every_label_get_one() -> None:
    # Margins 5, 1, 3 under label 0 and 2, 4 under label 2; nothing is most likely under 1.
    log_posterior = np.array(
        [[0, -5, -9], [0, -1, -9], [0, -9, -3], [-2, -7, 0], [-4, -6, 0]], np.float32
    )
    np.testing.assert_array_equal(surest_labels(log_posterior, 1.0), [0, 0, 0, 2, 2])
    np.testing.assert_array_equal(surest_labels(log_posterior, 0.67), [0, -1, 0, -1, 2])
    np.testing.assert_array_equal(surest_labels(log_posterior, 0.0), [-1] * 5)
    assert surest_labels(np.zeros((0, 3)), 0.5).shape == (0,)
    log_posterior[1] = np.nan
    np.testing.assert_array_equal(surest_labels(log_posterior, 1.0), [0, -1, 0, 2, 2])


def test_margins_tell_apart_what_probabilities_do_not() -> None:
    log_posterior = np.array([[-300.0, 0.0], [-200.0, 0.0], [-400.0, 0.0]])
    np.testing.assert_array_equal(surest_labels(log_posterior, 1 / 3), [-1, -1, 1])


def test_one_label_alone_has_no_margin() -> None:
    with pytest.raises(ValueError, match="at least two labels"):
        surest_labels(np.zeros((3, 1)), 1.0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher-0"
    runs.train(runs.prepare(TINY, folder))
    return folder


def _taught(teacher: Path, **changes: Any) -> dict[str, Any]:
    source = str(teacher.with_name("teacher-{seed}"))
    return TINY | {"pseudo_labels": source, "pseudo_label_share": 0.5} | changes


def test_a_run_learns_from_the_labels_of_another(teacher: Path, tmp_path: Path) -> None:
    config = _taught(teacher)
    experiment = runs.prepare(config, tmp_path)
    drawn = experiment.dataset.draw_labels(10, 0)
    known = drawn >= 0
    np.testing.assert_array_equal(experiment.labels[known], drawn[known])
    pseudo = int((experiment.labels >= 0).sum()) - 10
    assert 480 <= pseudo <= 500  # half of 1,000, some of which have a label

    summary = runs.train(experiment)
    assert summary["num_labelled"] == 10
    assert summary["num_pseudo_labelled"] == pseudo
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_labels_are_spread_from_those_known(tmp_path: Path) -> None:
    config = TINY | {"pseudo_label_spreading": 0.99, "pseudo_label_share": 0.9}
    experiment = runs.prepare(config, tmp_path)
    truth, drawn = experiment.dataset.train_y, experiment.dataset.draw_labels(10, 0)
    given = experiment.labels >= 0
    np.testing.assert_array_equal(experiment.labels[drawn >= 0], drawn[drawn >= 0])
    assert 890 <= given.sum() <= 910
    assert np.mean(experiment.labels[given] == truth[given]) > 0.9
    np.save(tmp_path / "pseudo_labels.npy", np.zeros(1000, np.int32))
    assert not runs.prepare(config, tmp_path).labels.any()  # as it was begun
    with pytest.raises(ValueError, match="pseudo_label_spreading: expected"):
        runs.prepare(config | {"pseudo_label_spreading": 1.0}, tmp_path / "bad")


def test_what_a_run_says_is_spread(teacher: Path, tmp_path: Path) -> None:
    config = TINY | {"pseudo_labels": str(teacher)}
    alone = runs.prepare(config, tmp_path / "alone")
    both = runs.prepare(config | {"pseudo_label_spreading": 0.95}, tmp_path / "both")
    errors = [np.mean(each.labels != each.dataset.train_y) for each in (alone, both)]
    assert errors[1] < errors[0]  # few steps leave mistakes, and neighbours mend some


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pseudo_label_spreading": 0.99}, "900 spread from them"),
        ({"pseudo_labels": "runs/a"}, "900 that a run before it gave"),
        (
            {"pseudo_labels": "runs/a", "pseudo_label_spreading": 0.8},
            "900 that a run before it gave, spread",
        ),
    ],
)
def test_the_card_says_where_labels_come_from(
    settings: dict[str, Any], said: str, teacher: Path
) -> None:
    run = load_run(teacher)
    card = describe(run._replace(config=run.config | settings), {"num_pseudo_labelled": 900})
    assert card["data"].endswith(f"; {said}")


def test_vectors_are_not_moved(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pseudo_label_shift: expected 0 for vectors"):
        runs.prepare(_taught(teacher, pseudo_label_shift=1), tmp_path / "run")


class Pixels:
    """In the place of an engine: a posterior that depends on where the pixels are."""

    weights = np.random.RandomState(0).standard_normal((16, 3))

    def __init__(self, run: Any) -> None:
        pass

    def batches(self, num: int) -> Iterator[slice]:
        yield from (slice(0, 20), slice(20, num))

    def scores_of_batch(self, x: np.ndarray, part: slice, density: bool = False) -> Scores:
        assert not density
        assert len(x) == part.stop - part.start
        log_joint = x.reshape(len(x), -1) @ self.weights
        return Scores(log_joint - np.logaddexp.reduce(log_joint, -1)[:, None], None, None)


@pytest.mark.parametrize("shift", [0, 1])
def test_a_label_is_what_the_image_and_its_four_moves_say_together(
    shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.RandomState(1)
    x, y = rng.randint(0, 4, (50, 4, 4, 1)).astype(np.uint8), np.arange(50) % 3
    dataset = Dataset("images", x, y, x[:3], y[:3], num_classes=3, num_levels=4)
    options = parse_config(TINY | {"pseudo_labels": "teacher", "pseudo_label_shift": shift})
    teacher = LoadedRun(None, None, TINY, options.steps, tmp_path, (4, 4, 1), 4, "")  # type: ignore[arg-type]
    monkeypatch.setattr(pseudo_labels, "load_run", lambda folder: teacher)
    monkeypatch.setattr(pseudo_labels, "Engine", Pixels)
    monkeypatch.setattr(
        pseudo_labels, "read_settings", lambda folder: folders.Settings(TINY, {}, "")
    )
    known = dataset.draw_labels(10, 0)
    labels = pseudo_labels.add_pseudo_labels(options, tmp_path, dataset, known)

    views = [x]
    if shift:
        moved = np.zeros((4, *x.shape), np.uint8)
        moved[0, :, 1:], moved[1, :, :-1] = x[:, :-1], x[:, 1:]
        moved[2, :, :, 1:], moved[3, :, :, :-1] = x[:, :, :-1], x[:, :, 1:]
        views += list(moved)
    says = [Pixels(teacher).scores_of_batch(view, slice(0, 50)).log_posterior for view in views]
    together = np.argmax(np.mean(says, 0), -1)
    np.testing.assert_array_equal(labels, np.where(known < 0, together, known))
    if shift:
        alone = np.argmax(says[0], -1), np.argmax(np.mean(np.exp(says), 0), -1)
        assert all((label != together)[known < 0].any() for label in alone)


def test_neighbours_know_nearly_all_labels_of_the_digits_config(tmp_path: Path) -> None:
    options = parse_config(digits.get_config().to_dict())
    dataset = load_dataset("digits", validation_size=1000)
    known = dataset.draw_labels(options.num_labelled, 5)
    labels = pseudo_labels.add_pseudo_labels(options, tmp_path, dataset, known)
    np.testing.assert_array_equal(labels[known >= 0], known[known >= 0])
    assert np.mean(labels[known < 0] != dataset.train_y[known < 0]) < 0.06


def test_a_resumed_run_keeps_its_labels(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _taught(teacher)
    labels = runs.prepare(config, tmp_path).labels
    teacher_moved = teacher.rename(tmp_path / "elsewhere")
    try:
        np.testing.assert_array_equal(runs.prepare(config, tmp_path).labels, labels)
        with pytest.raises(ValueError, match="of a finished run, got .*teacher-0; train it there"):
            runs.prepare(config, tmp_path / "another")
    finally:
        teacher_moved.rename(teacher)

    (tmp_path / "pseudo_labels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="pseudo_labels.npy: expected 1000 labels, got a damaged"):
        runs.prepare(config, tmp_path)


def test_a_teacher_that_saw_other_labels_is_refused(teacher: Path, tmp_path: Path) -> None:
    config = _taught(teacher, label_seed=3)
    with pytest.raises(ValueError, match=r"on the same labels, got .* with label_seed 0, not 3"):
        runs.prepare(config, tmp_path / "run")
    config = _taught(teacher, num_labelled=20)
    with pytest.raises(ValueError, match="with num_labelled 10, not 20"):
        runs.prepare(config, tmp_path / "run")
    answers = tmp_path / "answers.csv"
    known = runs.prepare(TINY, teacher).labels
    answers.write_text(f"row,label\n{np.flatnonzero(known < 0)[0]},1\n")
    with pytest.raises(ValueError, match=r"other ones from label_file None, not '.*answers.csv'"):
        runs.prepare(_taught(teacher, label_file=str(answers)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_saw_other_data_is_refused(teacher: Path, tmp_path: Path) -> None:
    settings = json.loads((teacher / "config.json").read_text())
    settings["data"]["fingerprint"] = "of others"
    (other := tmp_path / "other").mkdir()
    shutil.copytree(teacher / "checkpoints", other / "checkpoints")
    (other / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="expected a run on the same data.*fingerprint"):
        runs.prepare(TINY | {"pseudo_labels": str(other)}, tmp_path / "run")


def test_a_teacher_that_is_not_done_is_refused(teacher: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(teacher, tmp_path / "unfinished")
    settings = json.loads((unfinished / "config.json").read_text())
    settings["config"]["steps"] = 40
    (unfinished / "config.json").write_text(json.dumps(settings))
    config = TINY | {"pseudo_labels": str(unfinished)}
    with pytest.raises(ValueError, match="expected a finished run, got .* at step 20 of 40"):
        runs.prepare(config, tmp_path / "run")


def test_a_teacher_that_has_diverged_is_refused(teacher: Path, tmp_path: Path) -> None:
    diverged = shutil.copytree(teacher, tmp_path / "diverged")
    (diverged / "summary.json").write_text('{"status": "diverged"}')
    with pytest.raises(ValueError, match="expected a run that has not diverged, got"):
        runs.prepare(TINY | {"pseudo_labels": str(diverged)}, tmp_path / "run")


def test_a_source_is_trained_once_while_the_folder_is_claimed(
    teacher: Path, tmp_path: Path
) -> None:
    config, run = TINY | {"pseudo_labels": "{workdir}/first"}, tmp_path / "run"
    command = "python train.py --config=configs/moons.py"
    trained = []

    def stop(folder: Path) -> None:
        with pytest.raises(folders.FolderInUse):
            runs.prepare(config, run, command, stop)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.prepare(config, run, command, stop)
    assert results.collect(run)["status"] == "unfinished"
    with pytest.raises(ValueError, match="another config"):
        runs.prepare(TINY, run)

    def train_source(folder: Path) -> None:
        trained.append(folder)
        shutil.copytree(teacher, folder)

    labels = runs.prepare(config, run, command, train_source).labels
    assert (labels >= 0).all()
    (run / "pseudo_labels.npy").unlink()
    np.testing.assert_array_equal(runs.prepare(config, run, command, train_source).labels, labels)
    assert trained == [run / "first"]


def test_a_source_is_not_trained_where_nothing_needs_a_label(tmp_path: Path) -> None:
    def train_source(folder: Path) -> None:
        raise AssertionError

    whole = TINY | {"num_labelled": 0, "pseudo_labels": "{workdir}/first"}
    assert (runs.prepare(whole, tmp_path / "a", "", train_source).labels >= 0).all()
    none = TINY | {"pseudo_labels": ""}
    assert (runs.prepare(none, tmp_path / "b", "", train_source).labels >= 0).sum() == 10


def test_other_data_are_not_taken_for_damaged_labels(teacher: Path, tmp_path: Path) -> None:
    x, y = np.random.RandomState(0).randn(40, 2), np.arange(40) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    np.savez(tmp_path / "mine.npz", **arrays)
    config = TINY | {"dataset": str(tmp_path / "mine.npz"), "num_labelled": 4}
    config["pseudo_labels"] = "{workdir}/first"
    run = tmp_path / "run"

    def train_source(folder: Path) -> None:
        runs.train(runs.prepare(config | {"pseudo_labels": None}, folder))

    runs.prepare(config, run, "", train_source)
    np.savez(tmp_path / "mine.npz", **(arrays | {"x_train": x[1:], "y_train": y[1:]}))
    with pytest.raises(ValueError, match="num_train: 40 there, 39 now"):
        runs.prepare(config, run)


def test_what_reaches_the_run_that_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    monkeypatch.setattr(train, "_train", lambda *arguments: trained.append(arguments))
    file = f"{ROOT}/configs/mnist.py"
    config = mnist.get_config().to_dict()
    config |= {"seed": 3, "label_seed": 4, "dataset": "my images.npz", "steps": 7, "batch_size": 8}
    config["augment"] = {"rotate": 0.0}
    train_source = train._source_trainer(file, config)
    assert train_source is not None
    train_source(Path("run/classifier"))
    ((own, folder, command, filename, _),) = trained
    expected = mnist.get_config("classifier").to_dict()
    del expected["distributed"]
    expected |= {"seed": 3, "label_seed": 4, "dataset": "my images.npz"}
    expected["augment"]["rotate"] = 0.0
    assert (own, folder, filename) == (expected, "run/classifier", None)
    assert command == (
        f"python train.py --config={file}:classifier '--config.dataset=my images.npz' "
        "--config.seed=3 --config.label_seed=4 --config.augment.rotate=0.0"
    )
    assert train._source_trainer(file, config | {"pseudo_labels": "runs/other"}) is None


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("tidy", "got :tidy"),
        ("full", "expected a mode of .* that learns from no other, got full"),
    ],
)
def test_a_mode_that_cannot_go_first_is_refused(mode: str, message: str) -> None:
    config = mnist.get_config().to_dict() | {"pseudo_labels": f"{{workdir}}/{mode}"}
    with pytest.raises(ValueError, match=message):
        train._source_trainer(f"{ROOT}/configs/mnist.py", config)


def test_a_config_file_without_modes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plain.py"
    file.write_text("def get_config():\n    return {}\n")
    config = TINY | {"pseudo_labels": "{workdir}/first"}
    with pytest.raises(ValueError, match=r"expected {workdir}/MODE with a mode of .*plain.py"):
        train._source_trainer(str(file), config)

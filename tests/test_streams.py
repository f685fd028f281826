"""Train objects on disk: the same run as in memory, and what is wrong with a folder."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scnf_jax import runs
from scnf_jax.data import ReadAhead, Rows, load_dataset
from scnf_jax.reporting.log import read_metrics
from tests.conftest import stopped_at

SHARED_TFDS = Path(__file__).parents[2] / "shared" / "tfds"
TINY: dict[str, Any] = {
    "num_labelled": 20,
    "steps": 8,
    "batch_size": 16,
    "labelled_fraction": 0.3,
    "eval_every": 4,
    "checkpoint_every": 4,
    "steps_per_call": 2,
    "model": {"name": "glow", "steps": [1], "width": 4, "head_steps": 1, "head_width": 8},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Digits as .npy files, images without a channel axis."""
    dataset, path = load_dataset("digits"), tmp_path / "data"
    path.mkdir()
    for part in ("train", "test"):
        np.save(path / f"x_{part}.npy", getattr(dataset, f"{part}_x")[..., 0])
        np.save(path / f"y_{part}.npy", getattr(dataset, f"{part}_y"))
    return path


def losses(path: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(path) if record["split"] == "train"]


def test_a_folder_is_read_whole_or_left_on_disk(folder: Path) -> None:
    in_memory = load_dataset(str(folder))
    on_disk = load_dataset(str(folder), stream=True)
    assert isinstance(in_memory.train_x, np.ndarray)
    assert isinstance(on_disk.train_x, Rows)
    assert on_disk.train_x.shape == in_memory.train_x.shape == (1297, 8, 8, 1)
    assert on_disk.event_shape == (8, 8, 1)
    rows = np.array([5, 0, 5])
    np.testing.assert_array_equal(on_disk.train_x.take(rows), in_memory.train_x[rows])
    assert on_disk.description == in_memory.description
    # 83 kB stay in memory unless they are told not to.
    assert isinstance(load_dataset(str(folder), stream=None).train_x, np.ndarray)


def test_what_is_held_out_is_the_same(folder: Path) -> None:
    in_memory = load_dataset(str(folder), 300)
    on_disk = load_dataset(str(folder), 300, stream=True)
    assert isinstance(on_disk.train_x, Rows)
    np.testing.assert_array_equal(on_disk.train_x.take(slice(None)), in_memory.train_x)
    np.testing.assert_array_equal(on_disk.test_x, in_memory.test_x)


def test_a_run_from_disk_is_the_run_from_memory_and_resumes(folder: Path, tmp_path: Path) -> None:
    config = TINY | {"dataset": str(folder)}
    runs.train(runs.prepare(config, tmp_path / "memory"))
    streamed = config | {"stream": True}
    with stopped_at(6, KeyboardInterrupt):
        runs.train(runs.prepare(streamed, tmp_path / "disk"))
    runs.train(runs.prepare(streamed, tmp_path / "disk"))
    np.testing.assert_allclose(losses(tmp_path / "disk"), losses(tmp_path / "memory"), rtol=1e-6)


def test_reading_ahead_is_of_the_next_call() -> None:
    asked: list[int] = []

    def rows(step: int) -> np.ndarray:
        asked.append(step)
        return np.array([[step, step + 1]])

    x = Rows(lambda rows: rows[:, None] * 1.0, np.arange(100), (1,), np.dtype(float))
    ahead = ReadAhead(x, rows, steps=2, last=10)
    np.testing.assert_array_equal(ahead.objects(4), [[[4.0], [5.0]]])
    np.testing.assert_array_equal(ahead.objects(6), [[[6.0], [7.0]]])
    assert asked == [4, 6, 8]
    np.testing.assert_array_equal(ahead.objects(8), [[[8.0], [9.0]]])
    assert asked == [4, 6, 8]
    ahead.close()


@pytest.mark.skipif(not SHARED_TFDS.exists(), reason="needs a prepared MNIST in ../shared/tfds")
def test_tfds_images_stay_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(SHARED_TFDS))
    dataset = load_dataset("mnist", stream=True)
    assert isinstance(dataset.train_x, Rows)
    assert dataset.train_x.shape == (60_000, 28, 28, 1)
    some = dataset.train_x.take(np.array([0, 59_999]))
    assert some.dtype == np.uint8
    assert some.max() == 255
    assert np.bincount(dataset.train_y).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip


def test_a_folder_of_a_datasets_name_is_not_that_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_dataset("digits").train_x.shape == (1297, 8, 8, 1)


def test_a_folder_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"stream: digits is read whole; expected a folder"):
        load_dataset("digits", stream=True)
    (folder / "y_test.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"y_test.npy: expected a readable .npy file"):
        load_dataset(str(folder))
    (folder / "y_test.npy").unlink()
    with pytest.raises(ValueError, match=r"found no y_test.npy; write it with numpy.save"):
        load_dataset(str(folder))
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="dataset: expected digits, breast_cancer, moons, circles"):
        load_dataset(str(folder))

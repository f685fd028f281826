"""Sources, masking, validation, and what happens on the device."""

import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax.data import (
    Dataset,
    at_most,
    dequantize,
    load_dataset,
    mask_labels,
    random_view,
    read_answers,
)
from scnf_jax.data.validation import check_dataset, warn_unless_standardised

SHARED_TFDS = Path(__file__).parents[2] / "shared" / "tfds"


@pytest.mark.parametrize(
    ("name", "shape", "num_test", "levels"),
    [("digits", (1297, 8, 8, 1), 500, 17), ("moons", (1000, 2), 1000, None),
     ("circles", (1000, 2), 1000, None), ("breast_cancer", (400, 30), 169, None)],
)  # fmt: skip
def test_embedded(name: str, shape: tuple[int, ...], num_test: int, levels: int | None) -> None:
    dataset = load_dataset(name)
    assert dataset.train_x.shape == shape
    assert len(dataset.test_x) == num_test
    assert dataset.num_levels == levels
    assert set(np.unique(dataset.train_y)) == set(range(dataset.num_classes))
    again = load_dataset(name)
    np.testing.assert_array_equal(dataset.test_x, again.test_x)


def test_digits_train_and_test_are_disjoint_scans() -> None:
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits")
    rows = [tuple(x.ravel()) for part in (dataset.train_x, dataset.test_x) for x in part]
    assert sorted(rows) == sorted(tuple(x) for x in load_digits().data.astype(int))


def test_breast_cancer_is_standardised_by_its_train_part() -> None:
    dataset = load_dataset("breast_cancer")
    np.testing.assert_allclose(dataset.train_x.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(dataset.train_x.std(0), 1.0, atol=1e-5)
    assert np.abs(dataset.test_x.mean(0)).max() > 1e-3


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_toys_train_and_test_are_disjoint_points(name: str) -> None:
    dataset = load_dataset(name)
    points = np.concatenate([dataset.train_x, dataset.test_x])
    assert len(np.unique(points, axis=0)) == 2000


def test_validation_is_held_out_of_train() -> None:
    whole, held = load_dataset("digits"), load_dataset("digits", validation_size=300)
    assert len(held.train_x) == 997
    assert len(held.test_x) == 300
    together = np.concatenate([held.train_x, held.test_x]).reshape(1297, -1)
    assert sorted(map(tuple, together)) == sorted(map(tuple, whole.train_x.reshape(1297, -1)))
    with pytest.raises(ValueError, match="validation_size: expected 0 <= size < 1297"):
        load_dataset("digits", validation_size=5000)


def test_mask_is_stratified_and_reproducible() -> None:
    labels = load_dataset("digits").train_y
    masked = mask_labels(labels, 100, seed=3, num_classes=10)
    known = masked >= 0
    np.testing.assert_array_equal(np.bincount(masked[known]), np.full(10, 10))
    np.testing.assert_array_equal(masked[known], labels[known])
    np.testing.assert_array_equal(masked, mask_labels(labels, 100, seed=3, num_classes=10))
    assert (masked != mask_labels(labels, 100, seed=4, num_classes=10)).any()
    # Pinned: the same seed must give the same labels in every version and everywhere.
    assert np.flatnonzero(known)[:5].tolist() == PINNED_ROWS
    odd = mask_labels(labels, 13, seed=0, num_classes=10)
    assert sorted(np.bincount(odd[odd >= 0]).tolist()) == [1] * 7 + [2] * 3


PINNED_ROWS = [4, 10, 16, 18, 20]


@pytest.mark.parametrize(
    ("labels", "num_labelled", "message"),
    [
        ([0, 1, 0, 1], 1, "num_labelled: expected 2 .* to 4 .* got 1"),
        ([0, 1, 0, 1], 5, "num_labelled: expected 2 .* to 4 .* got 5"),
        ([0, 1, 0, 0], 4, "expected at least 2 known labels of class 1 for 4 in all, got 1"),
        ([-1, -1, -1], None, "got no label at all"),
        ([0, -1, 0], None, "got none of 1"),
        ([1, 2, 1, 2], None, "of every class 0..2, got none of 0; .* count from 0"),
        ([0, 50], None, "got none of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...;"),
    ],
)
def test_bad_masks(labels: list[int], num_labelled: int | None, message: str) -> None:
    num_classes = max(max(labels) + 1, 2)
    with pytest.raises(ValueError, match=message):
        mask_labels(np.array(labels), num_labelled, seed=0, num_classes=num_classes)


@pytest.mark.parametrize(
    "text",
    [
        "guess,row,label\n9,0,1\n\n9,2,\n9,3, 0\n9,3,0\n",
        "\ufeffRow;Label;guess\r\n0;1;9\r\n2;;9\r\n3;0;9\r\n",
        "row\tlabel\n0\t1\n3\t0\n",
        "row,label\n0,1.0\n2\n3,0.0\n",
        '"","row","label"\n"1",0,1\n"2",3,0\n',
        'row,label,"what; why"\n0,1,"a; b"\n3,0,\n',
    ],
    ids=["by commas", "by a spreadsheet", "by tabs", "by pandas", "by R", "with remarks"],
)
def test_answers_that_people_write(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_bytes(text.encode())
    assert read_answers(path, num=5, num_classes=2) == {0: 1, 3: 0}


def test_answers_stand_beside_the_labels_that_are_known() -> None:
    dataset = load_dataset("moons")
    drawn, answered = (dataset.draw_labels(10, 0, given) for given in (None, {0: 1, 3: 0}))
    assert answered[[0, 3]].tolist() == [1, 0]
    others = np.setdiff1d(np.arange(1000), [0, 3])
    np.testing.assert_array_equal(answered[others], drawn[others])


def test_answers_can_give_a_class_its_first_label() -> None:
    dataset = load_dataset("moons")
    dataset = dataset._replace(train_y=np.where(dataset.train_y == 1, -1, 0).astype(np.int32))
    with pytest.raises(ValueError, match="got none of 1"):
        dataset.draw_labels(0, 0)
    row = int(np.flatnonzero(dataset.train_y == -1)[0])
    assert (dataset.draw_labels(0, 0, {row: 1}) == 1).sum() == 1
    assert (dataset.train_y == 1).sum() == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "label_file: expected a CSV, got .*No such file"),
        ("", "line 1: expected the columns row and label, got ''"),
        ("number,label\n0,1\n", "line 1: expected the columns row and label, got 'number,label'"),
        ("row,label\n3,1\n", r"line 2: expected a row in 0\.\.2, got '3'"),
        ("row,label\n-1,1\n", r"line 2: expected a row in 0\.\.2, got '-1'"),
        ("row,label\n0,2\n", r"line 2: expected a label in 0\.\.1, got '2'"),
        ("row,label\n\n\n0,six\n", r"line 4: expected a label in 0\.\.1, got 'six'"),
        ("row,label\n0,0.5\n", r"line 2: expected a label in 0\.\.1, got '0.5'"),
        ("label,row\n1\n", r"line 2: expected a row in 0\.\.2, got ''"),
        ("row,label\n0,1\n0,0\n", "line 3: row 0 has label 0, and 1 above"),
        ('row,label\n"1,1\n2,1\n', r"expected a CSV, got .*answers.csv \(unexpected end of data"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "answers.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_answers(path, num=3, num_classes=2)


def images(**changes: object) -> Dataset:
    x = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4, 1)
    y = np.array([0, 1, -1, -1], np.int32)
    good = Dataset("mine", x, y, x[:2], y[:2], num_classes=2, num_levels=256)
    return good._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": np.zeros((4, 4), np.uint8)}, r"train_x: expected uint8 images .* got uint8 .*\(4, 4\)"),
        ({"train_x": np.zeros((4, 4, 4, 1))}, "train_x: expected uint8 images .* got float64"),
        ({"train_x": np.zeros((0, 4, 4, 1), np.uint8)}, "train_x: expected at least one object"),
        ({"num_levels": 17}, r"train_x: expected grey levels 0..16, got 17 at index \(1, 0, 1, 0\)"),
        ({"train_y": np.zeros(4)}, "train_y: expected integer labels .* got float64"),
        ({"train_y": np.zeros(3, np.int32)}, r"train_y: expected 4 labels, .* got \(3,\)"),
        ({"train_y": np.array([0, 1, 2, -1])}, "train_y: expected labels -1..1, got 2 at index 2"),
        ({"train_y": np.array([0, 1, -2, -1])}, "train_y: expected labels -1..1, got -2 at index 2"),
        ({"test_y": np.array([0, -1])}, "test_y: expected labels 0..1, got -1 at index 1"),
        ({"test_x": np.zeros((2, 5, 4, 1), np.uint8)}, "test_x: expected objects of shape"),
    ],
)  # fmt: skip
def test_bad_images(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_dataset(images(**changes))


def test_vectors_that_are_far_from_standardised_are_said() -> None:
    x = np.random.RandomState(0).randn(100, 3).astype(np.float32)
    x[:, 1] = 7.0  # constant
    warn_unless_standardised(x)
    for odd in (x + 20, 20 * x, x / 50):
        with pytest.warns(UserWarning, match="feature [01] has mean .* standardise them"):
            warn_unless_standardised(odd)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(bad: float) -> None:
    x = np.zeros((3, 2), np.float32)
    x[1, 0] = bad
    y = np.zeros(3, np.int32)
    dataset = Dataset("mine", x, y, x, y, num_classes=1, num_levels=None)
    with pytest.raises(
        ValueError, match=r"train_x: expected finite numbers, got .* at index \(1, 0\)"
    ):
        check_dataset(dataset)


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    x, y = np.zeros((6, 4, 4), np.uint8), np.array([0, 1, 2, -1, -1, -1])
    np.savez(path, x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    dataset = load_dataset(str(path))
    assert dataset.train_x.shape == (6, 4, 4, 1)
    assert (dataset.num_classes, dataset.num_levels) == (3, 256)
    vectors = np.random.RandomState(0).randn(6, 5)
    np.savez(path, x_train=vectors, y_train=y, x_test=vectors[:3], y_test=y[:3])
    dataset = load_dataset(str(path))
    assert dataset.train_x.dtype == np.float32
    assert dataset.num_levels is None


def test_bad_npz(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a .npz file, got no file"):
        load_dataset(str(tmp_path / "none.npz"))
    path = tmp_path / "bad.npz"
    np.savez(path, x_train=np.zeros(3))
    with pytest.raises(ValueError, match="got x_train; add y_train, x_test, y_test"):
        load_dataset(str(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="got a damaged one"):
        load_dataset(str(path))
    x = np.zeros((2, 4, 4), np.uint8)
    far = np.array([0, 2**32])
    np.savez(path, x_train=x, y_train=far, x_test=x, y_test=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"y_train: expected labels 0..K-1.*; got 4294967296"):
        load_dataset(str(path))
    np.savez(path, x_train=x, y_train=np.full(2, -1), x_test=x, y_test=np.zeros(2, int))
    with pytest.raises(ValueError, match="y_train: expected at least one known label"):
        load_dataset(str(path))
    np.savez(path, x_train=x[:0], y_train=np.zeros(0, int), x_test=x, y_test=np.arange(2))
    with pytest.raises(ValueError, match="train_x: expected at least one object"):
        load_dataset(str(path))
    np.savez(path, x_train=x, y_train=np.array(0), x_test=x, y_test=np.arange(2))
    with pytest.raises(ValueError, match="train_y: expected 2 labels, one an object, got"):
        load_dataset(str(path))
    planted = np.array([object()], dtype=object)
    np.savez(path, x_train=planted, y_train=planted, x_test=planted, y_test=planted)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_dataset(str(path))


def test_some_rows_are_of_all_of_them() -> None:
    """A user's file may be sorted by class."""
    rows = at_most(300, np.arange(1000, 4000))
    assert rows.shape == np.unique(rows).shape == (300,)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_allclose(np.histogram(rows, 3, (1000, 4000))[0], 100, atol=30)
    np.testing.assert_array_equal(at_most(5, np.array([7, 3])), [7, 3])


def test_unknown_and_unprepared_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="got 'mnisst'; did you mean mnist"):
        load_dataset("mnisst")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"got 'mnist:9\.9\.9'\. TFDS said: .*only: 3\.0\.1"):
        load_dataset("mnist:9.9.9")
    with pytest.raises(ValueError, match="images of one shape, got 'oxford_flowers102' with"):
        load_dataset("oxford_flowers102")
    with pytest.raises(ValueError, match=f"not prepared in {tmp_path}.*download_and_prepare"):
        load_dataset("mnist")


@pytest.mark.skipif(not SHARED_TFDS.exists(), reason="needs a prepared MNIST in ../shared/tfds")
def test_mnist_reads_without_tensorflow() -> None:
    import subprocess

    code = (
        "import sys; from scnf_jax.data import load_dataset; d = load_dataset('mnist'); "
        "print(d.train_x.shape, d.test_x.shape, d.train_y[:5], 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(SHARED_TFDS)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(60000, 28, 28, 1) (10000, 28, 28, 1) [4 1 0 7 8] False"


def test_dequantize(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.full((1000, 2, 2, 1), 16, jnp.uint8)
    u = dequantize(jax.random.key(0), x, 17)
    assert u.dtype == jnp.float32
    assert 16 / 17 <= float(u.min()) < 16.1 / 17
    assert 16.9 / 17 < float(u.max()) < 1.0
    # Noise next to 1 rounds up to the next level in float32; the top level stays below 1.
    monkeypatch.setattr(jax.random, "uniform", lambda *_: jnp.float32(1 - 2**-24))
    assert float(dequantize(jax.random.key(0), jnp.array([[16]]), 17)[0, 0]) < 1.0
    vectors = jnp.array([[1.5, -3.0]])
    np.testing.assert_array_equal(dequantize(jax.random.key(0), vectors, None), vectors)


def test_random_view() -> None:
    image = jnp.zeros((64, 9, 9, 1)).at[:, 4, 4].set(16.0)
    key = jax.random.key(0)
    np.testing.assert_array_equal(random_view(key, image), image)
    turned = random_view(key, image, rotate=90.0, scale=0.0)
    np.testing.assert_allclose(turned[:, 4, 4], 16.0)
    whole = random_view(key, image, translate=2)
    np.testing.assert_array_equal(jnp.sort(whole.reshape(64, -1)), jnp.sort(image.reshape(64, -1)))
    corners = {tuple(np.argwhere(plane)[0]) for plane in np.asarray(whole[..., 0])}
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(2, 7))
    moved = random_view(key, image, shift=2.0)
    mass = moved.sum((1, 2, 3))
    np.testing.assert_allclose(mass, 16.0, atol=2.0)
    rows = (moved.sum((2, 3)) * jnp.arange(9)).sum(-1) / mass
    assert 1.5 < float(jnp.abs(rows - 4).max()) <= 2.2
    assert float(rows.std()) > 0.8, "every image is moved by an amount of its own"
    np.testing.assert_array_equal(moved, jnp.round(moved))


def slope(views: Any, axis: int) -> Any:
    """Grey levels a pixel about the middle, ``[batch]``."""
    ahead, behind = ((6, 4), (2, 4)) if axis == 0 else ((4, 6), (4, 2))
    return np.asarray(views[:, *ahead, 0] - views[:, *behind, 0]) / 4


def test_views_are_turned_and_scaled_by_the_asked_amounts() -> None:
    down = jnp.broadcast_to(10.0 * jnp.arange(9)[None, :, None, None], (64, 9, 9, 1))
    across = down.swapaxes(1, 2)
    key = jax.random.key(0)
    turned = random_view(key, down, rotate=20.0)
    angle = np.rad2deg(np.arctan2(slope(turned, 1), slope(turned, 0)))
    assert 18 < np.abs(angle).max() < 21
    assert angle.min() < -10 < 10 < angle.max()
    length = np.hypot(slope(turned, 0), slope(turned, 1))
    np.testing.assert_allclose(length, 10.0, atol=0.4)
    factors = []
    for axis, ramp in enumerate((down, across)):
        scaled = random_view(key, ramp, scale=0.2)
        np.testing.assert_allclose(slope(scaled, 1 - axis), 0.0, atol=0.3)
        factors.append(np.log(slope(scaled, axis) / 10))
        assert 0.17 < np.abs(factors[-1]).max() < 0.23
        assert factors[-1].min() < -0.1 < 0.1 < factors[-1].max()
    assert np.abs(factors[0] - factors[1]).max() > 0.1, "each axis has a factor of its own"


def test_views_are_sheared_and_bent() -> None:
    rows = jnp.broadcast_to(10 * jnp.arange(9)[:, None], (9, 9))
    image = jnp.broadcast_to(rows[None, ..., None], (64, 9, 9, 1))  # grey level = 10 row
    key = jax.random.key(0)
    sheared = random_view(key, image, shear=0.25)
    # A slope of s moves column c by s (c - 4) rows; inside the image that is the new grey level.
    slopes = (sheared[:, 4, 6, 0] - sheared[:, 4, 2, 0]) / 40
    columns = jnp.broadcast_to(rows.T[None, ..., None], (64, 9, 9, 1))
    other = random_view(key, columns, shear=0.25)
    slopes += (other[:, 6, 4, 0] - other[:, 2, 4, 0]) / 40
    assert 0.2 <= float(jnp.abs(slopes).max()) <= 0.26
    bent = random_view(key, image, elastic=1.5)
    moved = np.asarray(bent - image)[:, 3:6, 3:6, 0] / 10
    assert 0.4 < np.abs(moved).mean() < 1.5
    assert np.abs(moved).max() <= 1.6
    assert np.abs(np.diff(moved, axis=1)).mean() < 0.6, "smooth: next to each other alike"

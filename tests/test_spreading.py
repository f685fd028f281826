"""Label spreading: the graph, the iteration, what images are compared by."""

import numpy as np
import pytest

from scnf_jax import spreading
from scnf_jax.spreading import (
    deformation_distances,
    gradient_histograms,
    histograms,
    nearest_images,
    nearest_objects,
    nearest_points,
    neighbour_graph,
    spread_labels,
    upright_planes,
)


def _apart(z: np.ndarray) -> np.ndarray:
    distances = ((z[:, None] - z) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return distances


@pytest.mark.parametrize("block", [7, 1000])
def test_neighbours_are_those_of_all_distances(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "_BLOCK", block)
    z = np.random.RandomState(0).randn(40, 3).astype(np.float32)
    rows, distances = nearest_points(z, 5)
    all_distances = _apart(z)
    np.testing.assert_array_equal(rows, np.argsort(all_distances, -1)[:, :5])
    np.testing.assert_allclose(distances, np.sort(all_distances, -1)[:, :5], atol=1e-5)


def test_blocks_shrink_where_there_are_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "_ENTRIES", 1)
    z = np.array([[0.0], [1.0], [3.0]])
    np.testing.assert_array_equal(nearest_points(z, 1)[0], [[1], [0], [1]])


def test_spreading_is_the_closed_form() -> None:
    rng = np.random.RandomState(1)
    z, belief = rng.randn(30, 2).astype(np.float32), np.zeros((30, 3))
    belief[np.arange(6), np.arange(6) % 3] = 1.0
    belief[6] = [0.2, 0.3, 0.5]
    distances = _apart(z)
    scale = np.sqrt(np.sort(distances, -1)[:, 6]) / 2
    near = distances <= np.sort(distances, -1)[:, 7:8]
    weights = np.where(near | near.T, np.exp(-distances / (scale[:, None] * scale)), 0.0)
    root = np.diag(weights.sum(-1) ** -0.5)
    found = np.linalg.solve(np.eye(30) - 0.9 * root @ weights @ root, 0.1 * belief)
    expected = found / found.sum(-1, keepdims=True)
    measured = np.exp(
        spread_labels(neighbour_graph(*nearest_points(z, 8)), belief, 0.9, tolerance=1e-9)
    )
    np.testing.assert_allclose(measured, expected, rtol=1e-4)


def test_what_no_label_reaches_stays_unknown() -> None:
    z = np.array([[0.0], [0.1], [9.0], [9.1]])
    belief = np.array([[0, 1], [0, 0], [0, 0], [0, 0]], float)
    log_posterior = spread_labels(neighbour_graph(*nearest_points(z, 1)), belief)
    np.testing.assert_array_equal(log_posterior[:2], [[-np.inf, 0], [-np.inf, 0]])
    assert np.isnan(log_posterior[2:]).all()


def test_objects_that_are_the_same_share_their_label() -> None:
    z = np.array([[0.0, 1.0]] * 3 + [[5.0, 1.0]] * 3, np.float32)
    belief = np.zeros((6, 2))
    belief[0, 0] = belief[3, 1] = 1.0
    found = spread_labels(neighbour_graph(*nearest_points(z, 2)), belief).argmax(-1)
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 1, 1])


def test_neighbours_that_are_all_one_point_reach_nothing_else() -> None:
    z = np.array([[0.0]] * 9 + [[5.0]])
    belief = np.zeros((10, 2))
    belief[0, 1] = 1.0
    log_posterior = spread_labels(neighbour_graph(*nearest_points(z, 8)), belief)
    assert (log_posterior[:9].argmax(-1) == 1).all()
    assert np.isnan(log_posterior[9]).all()


def _stroke(slant: float, top: int, left: int) -> np.ndarray:
    image = np.zeros((28, 28, 1), np.uint8)
    for row in range(14):
        column = left + slant * row
        image[top + row, int(column) : int(column) + 2] = 200
    image[top + 12 : top + 14, left : left + 8] = 200
    return image


def test_an_image_that_is_moved_looks_the_same() -> None:
    images = np.stack([_stroke(0, 5, 8), _stroke(0, 8, 11), np.zeros((28, 28, 1), np.uint8)])
    one, moved, empty = np.asarray(gradient_histograms(images))
    np.testing.assert_allclose(one, moved, atol=1e-5)
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
    assert not empty.any()


def test_a_slant_matters_less_than_a_stroke() -> None:
    upright, slanted, other = _stroke(0, 5, 8), _stroke(0.5, 5, 8), _stroke(0, 5, 8)
    other[5:7, 8:16] = 200  # a bar on top
    z = np.asarray(gradient_histograms(np.stack([upright, slanted, other])))
    assert np.linalg.norm(z[0] - z[1]) < np.linalg.norm(z[0] - z[2])
    plain = np.stack([upright, slanted, other]).astype(float).reshape(3, -1)
    assert np.linalg.norm(plain[0] - plain[1]) > np.linalg.norm(plain[0] - plain[2])


def test_a_gradient_votes_for_the_two_nearest_directions() -> None:
    # 8 directions, 45 degrees apart: 0 is to the right, 2 is down.
    turn = np.deg2rad([0.0, 90.0, 30.0, -15.0])
    votes = spreading._votes(np.sin(turn), np.cos(turn))
    expected = np.zeros((4, 8))
    expected[0, 0] = expected[1, 2] = 1.0
    expected[2, [0, 1]] = 1 / 3, 2 / 3
    expected[3, [0, 7]] = 2 / 3, 1 / 3
    np.testing.assert_allclose(votes, expected, atol=1e-5)


def test_histograms_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.RandomState(0).randint(0, 17, (10, 8, 8, 1)).astype(np.uint8)
    whole = histograms(images, 17)
    assert whole.shape == (10, 7 * 7 * 8)
    monkeypatch.setattr(spreading, "_BLOCK", 3)
    np.testing.assert_allclose(histograms(images, 17), whole, atol=1e-5)


def _deformation(a: np.ndarray, b: np.ndarray) -> float:
    """By loops over pixels, shifts and their context."""
    (da, db), (height, width) = (np.stack(np.gradient(each)) for each in (a, b)), a.shape

    def at(gradient: np.ndarray, row: int, column: int) -> np.ndarray:
        inside = 0 <= row < height and 0 <= column < width
        return gradient[:, row, column] if inside else np.zeros(2)

    total, near, context = 0.0, range(-2, 3), range(-1, 2)
    for row, column in np.ndindex(height, width):
        total += min(
            sum(
                (
                    (at(da, row + v, column + w) - at(db, row + v + down, column + w + right)) ** 2
                ).sum()
                for v in context
                for w in context
                if 0 <= row + v < height and 0 <= column + w < width
            )
            for down in near
            for right in near
        )
    return total


def test_a_deformation_is_found_pixel_by_pixel() -> None:
    a, b = np.random.RandomState(3).rand(2, 2, 6, 5).astype(np.float32)
    expected = [_deformation(*pair) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(deformation_distances(a, b), expected, rtol=1e-5)


def test_an_image_bent_is_nearer_than_one_with_another_stroke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bent, other = _stroke(0, 5, 8), _stroke(0, 5, 8)
    bent[9:14] = np.roll(bent[9:14], 1, axis=1)
    other[10:12, 8:13] = 200  # a bar
    images = np.stack([_stroke(0, 5, 8), other, bent, _stroke(1, 5, 3)])
    rows, distances = nearest_images(images, 3)
    assert rows[0, 0] == 2
    assert (np.diff(distances) >= 0).all()
    monkeypatch.setattr(spreading, "_BLOCK", 3)
    monkeypatch.setattr(spreading, "_PAIRS", 5)
    again, the_same = nearest_images(images, 3)
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_allclose(the_same, distances, rtol=1e-5)


def test_only_candidates_by_histograms_are_compared_by_deformation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spreading, "_CANDIDATES", 2)
    images = np.random.RandomState(0).randint(0, 256, (12, 9, 9, 1)).astype(np.uint8)
    rows, _ = nearest_images(images, 2)
    expected, _ = nearest_points(histograms(images), 2)
    np.testing.assert_array_equal(np.sort(rows), np.sort(expected))


def test_of_few_objects_all_others_are_neighbours_and_vectors_stay_as_they_are() -> None:
    z = np.array([[0.0], [1.0], [3.0]], np.float32)
    rows, distances = nearest_objects(z, None)
    np.testing.assert_array_equal(rows, [[1, 2], [0, 2], [1, 0]])
    np.testing.assert_allclose(distances, [[1, 9], [1, 4], [4, 9]])
    images = np.random.RandomState(0).randint(0, 17, (3, 8, 8, 1)).astype(np.uint8)
    np.testing.assert_array_equal(
        nearest_objects(images, 17)[1], nearest_images(images, 2, num_levels=17)[1]
    )


def test_small_images_are_enlarged() -> None:
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 1:5, 2:4] = 16
    plane = np.asarray(upright_planes(image, 17))[0]
    assert plane.shape == (28, 28)
    assert plane.max() == pytest.approx(16 / 17, abs=0.2)
    rows, columns = np.indices(plane.shape)
    for axis in (rows, columns):
        assert (plane * axis).sum() / plane.sum() == pytest.approx(13.5, abs=0.05)
    assert upright_planes(np.zeros((2, 40, 20, 3), np.uint8)).shape == (2, 40, 28)

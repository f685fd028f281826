"""Calibration, probes and outlier scores, against figures worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scnf_jax.analysis.calibration import confusion_matrix, error_at_coverage, reliability
from scnf_jax.analysis.embedding import EMBEDDINGS, embed
from scnf_jax.analysis.outliers import CORRUPTIONS, auroc, corrupt, outlier_scores
from scnf_jax.analysis.probes import (
    PROBES,
    class_entropy_bits,
    information_bits,
    run_probe,
    wilson_interval,
)
from scnf_jax.analysis.suggestions import suggest
from scnf_jax.inference import Scores
from scnf_jax.reporting.pictures import plot_grid

RNG = np.random.RandomState(0)


def test_ece_by_hand() -> None:
    """Two bins: .95 sure and 3 of 4 right; .55 sure and 1 of 2 right."""
    top = np.array([0.95] * 4 + [0.55] * 2)
    labels = np.array([0, 0, 0, 1, 0, 1])
    bins = reliability(np.log(np.stack([top, 1 - top], -1)), labels, bins=10)
    assert bins.ece == pytest.approx((4 * 0.20 + 2 * 0.05) / 6)
    assert bins.counts.sum() == 6
    assert bins.accuracy[9] == pytest.approx(0.75)
    assert np.isnan(bins.accuracy[0])


def test_a_perfect_and_certain_posterior_is_calibrated() -> None:
    labels = np.arange(3)
    log_posterior = np.where(np.eye(3) > 0, 0.0, -np.inf)
    assert reliability(log_posterior, labels).ece == 0.0


def test_confusion_counts_every_object() -> None:
    predicted, labels = np.array([0, 2, 2, 1]), np.array([0, 2, 1, 1])
    assert confusion_matrix(predicted, labels, 3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_the_error_falls_where_the_model_may_abstain() -> None:
    log_posterior = np.log([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.55, 0.45]])
    coverage, error = error_at_coverage(log_posterior, np.array([0, 0, 1, 0]))
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(error, [0.0, 0.0, 100 / 3, 25.0])


def test_certainty_does_not_saturate() -> None:
    """Both posteriors are 1 in floating point; the margin still orders them."""
    log_posterior = np.array([[0.0, -100.0], [0.0, -900.0]])
    _, error = error_at_coverage(log_posterior, np.array([1, 0]))
    np.testing.assert_allclose(error, [0.0, 50.0])


def test_auroc_counts_pairs() -> None:
    inside, outside = RNG.randn(30), RNG.randn(40) + 0.5
    pairs = np.mean(outside[:, None] > inside[None])
    assert auroc(inside, outside) == pytest.approx(pairs)
    assert auroc(inside, inside) == pytest.approx(0.5)
    assert auroc(np.zeros(3), np.array([np.inf, np.nan])) == 1.0


def test_outlier_scores_by_hand() -> None:
    log_posterior = np.log([[0.5, 0.5], [1.0, 1e-300]])
    scores = Scores(log_posterior, np.array([-2.0, 4.0]), np.zeros(2))
    found = outlier_scores(scores, np.array([0.0, 2.0]))
    np.testing.assert_allclose(found["log_prob"], [2.0, -4.0])
    np.testing.assert_allclose(found["typicality"], [3.0, 3.0])
    np.testing.assert_allclose(found["entropy"], [np.log(2), 0.0], atol=1e-9)
    lost = Scores(np.full((1, 2), np.nan), np.array([-np.inf]), np.zeros(1))
    found = outlier_scores(lost, np.array([0.0, 2.0, -np.inf]))
    assert all(score == np.inf for score in found.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_images_of_the_same_kind(name: str) -> None:
    x = RNG.randint(0, 17, (3, 8, 8, 1)).astype(np.uint8)
    spoilt = corrupt(x, name, 17)
    assert spoilt.dtype == np.uint8
    assert spoilt.shape == x.shape
    assert spoilt.max() <= 16
    assert (spoilt != x).any()
    if name == "inversion":
        np.testing.assert_array_equal(corrupt(spoilt, name, 17), x)


def _clusters(num: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(num) % 3
    return apart * np.eye(3, 6)[y] + RNG.randn(num, 6), y


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_every_probe_finds_what_is_there_and_nothing_else(name: str) -> None:
    found = run_probe(PROBES[name](0), _clusters(600, 6.0), _clusters(600, 6.0), 3)
    assert found.accuracy_percent > 95
    assert found.information_bits > 1.2
    nothing = run_probe(PROBES[name](0), _clusters(600, 0.0), _clusters(600, 0.0), 3)
    assert nothing.low_percent < 40
    assert nothing.information_bits < 0.1
    for result in (found, nothing):
        assert result.low_percent <= result.accuracy_percent <= result.high_percent


def test_standardisation_is_of_the_train_objects() -> None:
    """A probe whose answer is the sign of what it is given, with a shifted test set."""

    class Sign:
        def fit(self, z: np.ndarray, y: np.ndarray) -> None:
            np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-12)
            np.testing.assert_allclose(z.std(0), 1.0)

        def predict_proba(self, z: np.ndarray) -> np.ndarray:
            positive = (z[:, 0] > 0).astype(float)
            return np.stack([1 - positive, positive], -1)

    train = np.array([[0.0], [2.0]]), np.array([0, 1])
    test = np.array([[10.0], [11.0]]), np.array([1, 1])
    assert run_probe(Sign(), train, test, 2).accuracy_percent == 100.0


def test_widths_have_to_agree() -> None:
    parts = (np.zeros((4, 2)), np.arange(4) % 2), (np.zeros((4, 3)), np.arange(4) % 2)
    with pytest.raises(ValueError, match="objects of one width"):
        run_probe(PROBES["logistic_regression"](0), *parts, 2)


def test_the_information_bound_lies_between_nothing_and_everything() -> None:
    labels = np.arange(400) % 4
    assert class_entropy_bits(labels) == 2.0
    sure = np.eye(4)[labels]
    assert 1.98 < information_bits(sure, labels) <= 2.0
    assert information_bits(np.full((400, 4), 0.25), labels) == 0.0
    assert information_bits(np.eye(4)[(labels + 1) % 4], labels) == 0.0


def test_wilson_stays_inside() -> None:
    assert wilson_interval(0, 10)[0] == 0.0
    low, high = wilson_interval(10, 10)
    assert low == pytest.approx(10 / (10 + 1.96**2))  # Wilson's formula at a share of 1
    assert high == 1.0


@pytest.mark.parametrize("method", EMBEDDINGS)
def test_embeddings_keep_clusters_apart(method: str) -> None:
    z, y = _clusters(90, 30.0)
    points = embed(z, method)
    assert points.shape == (90, 2)
    middles = np.stack([points[y == k].mean(0) for k in range(3)])
    nearest = np.argmin(np.linalg.norm(points[:, None] - middles, axis=-1), -1)
    np.testing.assert_array_equal(nearest, y)


def test_what_to_label_next_is_the_centre_of_a_doubtful_group() -> None:
    """Four groups: one has a label, and of the others one is doubted more than the rest."""
    corners = np.array([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
    outwards = 0.1 * np.arange(11) * (-1) ** np.arange(11)
    around = np.stack([outwards, np.zeros(11)], -1)
    z = (corners[:, None] + around).reshape(44, 2)
    sure = np.repeat([8.0, 1.0, 3.0, 0.5], 11)
    log_posterior = np.stack([-sure - 0.1, np.full(44, -0.1)], -1)
    known = np.arange(44) == 43
    found = suggest(z, log_posterior, known, count=3, num_groups=4)
    assert found.row.tolist() == [11, 22, 0]
    assert found.guess.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.margin, [1.0, 3.0, 8.0])
    assert found.size.tolist() == [11, 11, 11]
    assert found.group[1].tolist() == list(range(22, 32))
    assert suggest(z, log_posterior, known, count=2, num_groups=4).row.tolist() == [11, 22]


def test_a_group_of_few_is_shown_with_blanks() -> None:
    z, log_posterior = np.arange(8.0)[:, None], np.log(np.full((8, 2), 0.5))
    found = suggest(z, log_posterior, np.zeros(8, bool), count=5)
    assert found.group[:, 8:].tolist() == [[-1, -1]]
    assert sorted(found.group[0, :8].tolist()) == list(range(8))


def test_what_to_label_next_where_nothing_is_left() -> None:
    z, log_posterior = RNG.normal(size=(8, 2)), np.log(np.full((8, 2), 0.5))
    known = np.zeros(8, bool)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        suggest(z, log_posterior, known, count=0)
    with pytest.raises(ValueError, match="expected objects without a label, got none"):
        suggest(z, log_posterior, ~known, count=1)
    known[0] = True
    with pytest.raises(ValueError, match="each of the 1 has one; choose from more"):
        suggest(z, log_posterior, known, count=1, num_groups=1)


def test_a_grid_of_a_thousand_classes_is_drawn_in_part(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    plot_grid(path, np.zeros((1000, 2, 4, 4, 1), np.uint8), 256, "", [str(k) for k in range(1000)])
    with Image.open(path) as picture:
        assert picture.height < 8_000

"""What is said of a model's objects, against figures worked out by hand."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scnf_jax import bijectors as bj
from scnf_jax.analysis.calibration import confusion_matrix, error_at_coverage, reliability
from scnf_jax.analysis.embedding import EMBEDDINGS, embed
from scnf_jax.analysis.obfuscation import Hidden, measure_leak, restore
from scnf_jax.analysis.outliers import CORRUPTIONS, auroc, corrupt, outlier_scores
from scnf_jax.analysis.probes import (
    PROBES,
    class_entropy_bits,
    information_bits,
    run_probe,
    wilson_interval,
)
from scnf_jax.analysis.relabelling import relabelling_acceptance
from scnf_jax.analysis.suggestions import suggest
from scnf_jax.data import Dataset
from scnf_jax.inference import Engine, Scores
from scnf_jax.loading import LoadedRun
from scnf_jax.metrics import error_percent
from scnf_jax.reporting.pictures import plot_grid
from scnf_jax.reporting.studies import outlier_study, outlier_table
from scnf_jax.runs import summarize_scores
from scnf_jax.scnf import Latents, semi_conditional_flow

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
    if name != "noise":  # which is drawn for all of them
        np.testing.assert_array_equal(corrupt(x[1:2], name, 17)[0], spoilt[1])


def test_the_noise_of_a_corruption_is_a_fifth_of_the_range() -> None:
    grey = np.full((50, 8, 8, 1), 128, np.uint8)
    np.testing.assert_allclose((corrupt(grey, "noise", 256) - 128.0).std(), 51.0, rtol=0.1)


def _clusters(num: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(num) % 3
    return apart * np.eye(3, 6)[y] + RNG.randn(num, 6), y


def test_a_probe_that_never_saw_a_class() -> None:
    class Sees:
        """Gives the first class that it was fit on 0.8."""

        def fit(self, z: np.ndarray, y: np.ndarray) -> None:
            assert set(y) == {0, 2}

        def predict_proba(self, z: np.ndarray) -> np.ndarray:
            return np.where(z[:, :1] < 0, [[0.8, 0.2]], [[0.2, 0.8]])

    z = np.array([[-1.0], [1.0], [1.0], [1.0]])
    found = run_probe(Sees(), (z[:2], np.array([0, 2])), (z, np.array([0, 2, 2, 1])), 3)
    assert found.accuracy_percent == 75.0


def test_a_row_that_is_not_a_number_is_wrong_and_a_certain_one_is_not() -> None:
    with np.errstate(divide="ignore"):
        log_posterior = np.log([[1.0, 0.0], [np.nan, np.nan]])
    labels = np.array([0, 0])
    assert error_percent(log_posterior, labels) == 50.0
    assert error_at_coverage(log_posterior, labels)[1].tolist() == [0.0, 50.0]
    found = reliability(log_posterior, labels)
    assert found.counts[[0, -1]].tolist() == [1, 1]
    assert found.ece == 0.0  # wrong, and not confident


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


class Guesser:
    """An engine whose objects are ``(the class that z_f says, the class, the model's guess)``."""

    run = SimpleNamespace(num_classes=3)

    def encode(self, x: np.ndarray, label: np.ndarray) -> Latents:
        says, true, _ = x.T
        noise = np.random.RandomState(len(x)).standard_normal(len(x))
        trace = np.stack([noise, label != true], -1)  # of a label that is not the object's own
        return Latents(trace, ((true == 1)[:, None],), np.eye(3)[says])

    def posterior_of_latents(self, x: np.ndarray) -> np.ndarray:
        return np.log(0.01 + 0.97 * np.eye(3)[x[:, 2]])

    def labels(self, x: np.ndarray, choice: str) -> np.ndarray:
        assert choice == "likely"
        return x[:, 2]


def test_the_leak_of_a_representation_is_what_is_left_in_it() -> None:
    """Classes 0, 1, 2 are 50%, 30%, 20% of the objects; the model takes all of 2 for 1."""
    y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2] * 50)
    x = np.stack([y, y, np.minimum(y, 1)], -1)
    test_x, test_y = x[:200].copy(), y[:200]
    test_x[:20, 0] = (test_y[:20] + 1) % 3  # a tenth of the test objects, and no train object
    known = np.where(np.arange(500) < 400, y, -1)
    dataset = Dataset("", x, known, test_x, test_y, num_classes=3, num_levels=None)
    leak = measure_leak(Guesser(), dataset, probes=("logistic_regression",))  # type: ignore[arg-type]

    found = {name: probes["logistic_regression"] for name, probes in leak.probes.items()}
    accuracy = {"z_f": 90, "z_h, true label": 50}
    accuracy |= {"z_h, predicted label": 70, "z_h and z_aux, true label": 80}
    assert {k: v.accuracy_percent for k, v in found.items()} == pytest.approx(accuracy, abs=2)
    assert found["z_h, true label"].information_bits < 0.02
    for name, share in (("z_h, predicted label", 0.2), ("z_h and z_aux, true label", 0.3)):
        bits = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
        assert found[name].information_bits == pytest.approx(bits, abs=0.05)

    entropy = -np.dot([0.5, 0.3, 0.2], np.log2([0.5, 0.3, 0.2]))
    right, wrong = np.log2(0.99 * np.array([0.98, 0.01]) + 0.01 / 3)
    assert leak.entropy_bits == pytest.approx(entropy)
    assert leak.posterior_bits == pytest.approx(entropy + 0.8 * right + 0.2 * wrong)
    assert leak.chance_percent == pytest.approx(50)
    assert leak.model_accuracy_percent == pytest.approx(80)
    assert (leak.num_train, leak.num_test) == (400, 200)


def prototypes(y: np.ndarray) -> np.ndarray:
    """Images of which the row of their class is white."""
    return np.tile(16 * np.eye(3, dtype=np.uint8)[y][:, :, None, None], (1, 1, 3, 1))


class Painter:
    """An engine that paints the prototype of some labels, and else the object as it was."""

    run = SimpleNamespace(num_classes=3)

    def __init__(self, known: set[int]) -> None:
        self.known = known

    def encode(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        return x

    def decode(self, latents: np.ndarray, label: np.ndarray) -> np.ndarray:
        return prototypes(label) if label[0] in self.known else latents

    def to_levels(self, x: np.ndarray) -> np.ndarray:
        return x


@pytest.mark.parametrize("known", [{0, 1, 2}, {1}, set()], ids=["every", "one", "no"])
def test_relabelled_objects_pass_for_the_labels_that_a_model_paints(known: set[int]) -> None:
    train_y, y = np.arange(60) % 3, np.repeat([0, 1, 2], [4, 6, 10])
    dataset = Dataset("", prototypes(train_y), train_y, prototypes(y), y, 3, num_levels=17)
    found = relabelling_acceptance(Painter(known), dataset, 100)  # type: ignore[arg-type]
    assert found.by_label == [100.0 * (k in known) for k in range(3)]
    others = np.array([16, 14, 10])  # objects of another class than 0, 1, 2
    share = others[list(known)].sum() / others.sum()
    assert found.accepted_percent == pytest.approx(100 * share)
    low, high = wilson_interval(round(20 * share), 20)
    assert (found.low_percent, found.high_percent) == pytest.approx((100 * low, 100 * high))
    assert (found.judge_accuracy_percent, found.num_objects) == (100.0, 20)


def test_the_judge_is_measured_on_real_objects() -> None:
    train_y, y = np.arange(60) % 3, np.arange(20) % 3
    x = prototypes(np.where(np.arange(20) < 5, (y + 1) % 3, y))
    dataset = Dataset("", prototypes(train_y), train_y, x, y, 3, num_levels=17)
    found = relabelling_acceptance(Painter({0, 1, 2}), dataset, 100)  # type: ignore[arg-type]
    assert (found.accepted_percent, found.judge_accuracy_percent) == (100.0, 75.0)


@pytest.fixture(scope="module")
def plain() -> LoadedRun:
    """A flow that changes nothing: ``x = (z_aux, z_h)``; labels are 90%, 7% and 3%."""
    body = bj.multiscale(bj.identity(), bj.identity())
    model = semi_conditional_flow(body, bj.identity(), 3, class_probs=(0.9, 0.07, 0.03))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    config = dict.fromkeys(("steps", "batch_size", "eval_every", "checkpoint_every"), 1)
    config |= {"dataset": "", "num_labelled": 0, "model": {}}
    return LoadedRun(model, params, config, 0, Path(), (4,), None, "")


def test_every_sample_is_another_one_and_the_temperature_counts(plain: LoadedRun) -> None:
    engine, label = Engine(plain, batch_size=2), np.ones(50, np.int32)
    x = engine.sample(label)
    assert x.shape == (50, 4)
    assert len(np.unique(x)) == 200
    assert x.std() == pytest.approx(np.log(2), rel=0.2)
    assert engine.sample(label, 1e-3).std() == pytest.approx(1e-3 * np.log(2), rel=0.2)
    assert not np.isin(Engine(plain, batch_size=2, seed=1).sample(label), x).any()


def test_what_is_not_published_is_drawn_anew(plain: LoadedRun) -> None:
    z_h = np.random.RandomState(0).standard_normal((50, 2)).astype(np.float32)
    hidden, label = Hidden(z_h, np.zeros((50, 0), np.float32)), np.ones(50, np.int32)
    first, second = (restore(Engine(plain, 50, seed), hidden, label) for seed in (0, 1))
    for x in (first, second):
        np.testing.assert_array_equal(x[:, 2:], z_h)
        assert len(np.unique(x[:, :2])) == 100
        assert x[:, :2].std() == pytest.approx(np.log(2), rel=0.3)
    assert not np.isin(first[:, :2], second[:, :2]).any()
    whole = Hidden(z_h, z_h[::-1])
    np.testing.assert_array_equal(restore(Engine(plain, 50), whole, label)[:, :2], z_h[::-1])


def test_the_posterior_of_latents_is_that_of_the_noise() -> None:
    model = semi_conditional_flow(bj.logit(), bj.conditional_shift(5.0), 3)
    params = model.init(jax.random.key(0), jnp.full((1, 2), 0.5))
    config = dict.fromkeys(("steps", "batch_size", "eval_every", "checkpoint_every"), 1)
    config |= {"dataset": "", "num_labelled": 0, "model": {}}
    run = LoadedRun(model, params, config, 0, Path(), (2,), 2, "")
    x = RNG.randint(0, 2, (5, 2)).astype(np.uint8)
    at_noise, middle = (Engine(run, 2, posterior_at=at) for at in ("noise", "middle"))
    expected = at_noise.scores(x).log_posterior
    np.testing.assert_allclose(middle.posterior_of_latents(x), expected, rtol=1e-6)
    assert np.abs(middle.scores(x).log_posterior - expected).max() > 0.01


def test_an_outlier_study_where_nothing_is_finite_and_of_reserved_names() -> None:
    record = {"bits_per_dim": {"test set": None}, "auroc": {}}
    assert "Mean of the test set: not finite bits/dim." in outlier_table(record)
    with pytest.raises(ValueError, match="other: expected another name than 'test set'"):
        outlier_study(None, None, {"test set": np.zeros(1)}, 5, Path())  # type: ignore[arg-type]


def test_labels_are_sampled_from_the_posterior(plain: LoadedRun) -> None:
    drawn = Engine(plain).labels(np.zeros((1000, 4), np.float32), "sampled")
    share = np.bincount(drawn, minlength=3) / 1000
    np.testing.assert_allclose(share, [0.9, 0.07, 0.03], atol=0.03)


def test_no_density_of_grey_levels_has_less_than_0_bits() -> None:
    log_posterior, y = np.log([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])
    x = np.zeros((2, 2, 2, 1), np.uint8)
    images = Dataset("", x, y, x, y, num_classes=2, num_levels=4)
    most = 4 * np.log(4)  # nats of four pixels that are known for certain
    found = summarize_scores(np.array([most - 0.1, most - 0.3]), log_posterior, images)
    assert found["error_percent"] == 0
    assert found["log_prob"] == pytest.approx(most - 0.2)
    assert found["bits_per_dim"] == pytest.approx(0.2 / (4 * np.log(2)))
    over = np.array([most + 0.3, most - 0.1])
    with pytest.raises(RuntimeError, match=r"bits/dim of -0.036: .* a log-det is wrong"):
        summarize_scores(over, log_posterior, images)
    vectors = images._replace(num_levels=None)
    assert summarize_scores(over, log_posterior, vectors)["bits_per_dim"] < 0


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
    log_posterior[2] = np.nan  # of the first group, of whose others the model is sure
    found = suggest(z, log_posterior, known, count=3, num_groups=4)
    assert found.row.tolist() == [11, 22, 0]
    np.testing.assert_allclose(found.margin, [1.0, 3.0, 8.0 * 10 / 11])


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

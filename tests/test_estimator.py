"""The scikit-learn estimator: its library's own checks, and what they do not know of."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import make_moons
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from configs import vectors
from scnf_jax import estimator, parallel
from scnf_jax.data import Dataset
from scnf_jax.estimator import SCNFClassifier
from scnf_jax.models import build_model
from scnf_jax.runs import build
from scnf_jax.scnf import SemiConditionalFlow
from scnf_jax.settings import parse_config
from scnf_jax.training import Diverged

X, Y = make_moons(200, noise=0.1, random_state=0)
FEW = np.where(np.arange(200) < 20, Y, -1)


def tiny(**changes: Any) -> SCNFClassifier:
    settings: dict[str, Any] = {
        "steps": 200,
        "batch_size": 64,
        "learning_rate": 2e-2,
        "body_steps": 1,
        "head_steps": 2,
        "hidden": (16,),
        "coupling": "affine",
        "random_state": 0,
    }
    return SCNFClassifier(**settings | changes)


@parametrize_with_checks(
    [tiny()],
    expected_failed_checks=lambda _: {
        "check_classifiers_classes": "one of its two classes is -1, which is no class here"
    },
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> SCNFClassifier:
    return tiny().fit(X, FEW)


def test_learns_from_few_labels(fitted: SCNFClassifier) -> None:
    unknown = FEW < 0
    assert fitted.score(X[unknown], Y[unknown]) > 0.9
    np.testing.assert_array_equal(fitted.transduction_[~unknown], Y[~unknown])
    np.testing.assert_array_equal(fitted.transduction_[unknown], fitted.predict(X[unknown]))
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 200
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]


def test_density_is_one_over_features_in_their_own_units(fitted: SCNFClassifier) -> None:
    axes = [np.linspace(-9, 10, 400), np.linspace(-9, 9, 400)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert np.exp(fitted.score_samples(grid)).sum() * cell == pytest.approx(1.0, abs=0.01)
    factors = np.array([1e6, 1e-3])
    other = tiny().fit(X * factors - 5.0, FEW)
    np.testing.assert_allclose(
        other.score_samples(X * factors - 5.0) + np.log(factors).sum(),
        fitted.score_samples(X),
        atol=0.02,
    )


def test_samples_are_of_their_class(fitted: SCNFClassifier) -> None:
    samples, classes = fitted.sample(300, random_state=0)
    assert samples.shape == (300, 2)
    assert np.mean(fitted.predict(samples) == classes) > 0.9
    again, _ = fitted.sample(300, random_state=0)
    np.testing.assert_array_equal(samples, again)
    of_one, classes = fitted.sample(50, label=1, random_state=0)
    assert set(classes) == {1}
    assert np.mean(fitted.predict(of_one) == 1) > 0.9
    with pytest.raises(ValueError, match=r"label: expected one of \[0, 1\], got 2"):
        fitted.sample(label=2)
    with pytest.raises(ValueError, match="label: expected one of"):
        fitted.sample(2, label=[0, 1])


def test_classes_need_not_be_as_frequent_as_their_labels() -> None:
    kept = np.r_[np.arange(20), 20 + np.flatnonzero((Y[20:] == 0) | (np.arange(180) % 6 == 0))]
    x, y, few = X[kept], Y[kept], FEW[kept]  # ten labels of either, and few others of class 1
    flow = tiny().fit(x, few)
    share = np.mean(y == 1)
    assert share < 0.25
    assert flow.class_probs_[1] == pytest.approx(share, abs=0.06)
    assert np.mean(flow.sample(1000, random_state=0)[1]) == pytest.approx(share, abs=0.08)
    for given, probs in ("equal", [0.5, 0.5]), (np.array([0.8, 0.2]), [0.8, 0.2]):
        fixed = tiny(class_probs=given, steps=2).fit(x, few)
        np.testing.assert_allclose(fixed.class_probs_, probs, rtol=1e-6)


def test_the_flow_itself_is_there(fitted: SCNFClassifier) -> None:
    log_joint = fitted.flow_.log_joint(fitted.params_, fitted.scaler_.transform(X[:5]))
    posterior = np.exp(log_joint) / np.exp(log_joint).sum(-1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_proba(X[:5]), posterior, atol=1e-4)


def test_labels_may_be_words(fitted: SCNFClassifier) -> None:
    words = np.array(["upper", "lower"], object)[Y]
    words[FEW < 0] = -1
    by_word = tiny().fit(X, words)
    assert list(by_word.classes_) == ["lower", "upper"]
    assert np.mean(by_word.predict(X) == np.array(["upper", "lower"])[Y]) > 0.9
    assert by_word.sample(label="upper")[1] == ["upper"]
    for as_words in (words.astype(str), words.astype(str).astype(object)):
        with pytest.raises(ValueError, match="got the word '-1'"):
            tiny().fit(X, as_words)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.where(FEW < 0, "-1.0", "a"), "got the word '-1.0'"),
        (np.where(FEW < 0, 255, Y).astype(np.uint8), "255 is a class, got uint8.*astype.int"),
        (np.where(FEW < 0, None, Y), "expected -1 for a label that is not known, got None"),
        (np.where(FEW < 0, np.nan, Y), "expected -1 for a label that is not known, got NaN"),
        (np.where(FEW < 0, np.nan, Y.astype(object)), "a label that is not known, got NaN"),
    ],
)
def test_what_is_not_known_is_minus_one(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().fit(X, labels)


def test_features_that_underflow_are_refused() -> None:
    with pytest.raises(ValueError, match="so small that it underflows"):
        tiny().fit(X * [1.0, 1e-170], FEW)


def test_sets_of_other_sizes_and_labels_compile_nothing_anew() -> None:
    used: list[tuple[Any, ...]] = []
    original = estimator._trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimator, "_trainer", lambda *a: used.append(a) or original(*a))
        tiny().fit(X, FEW)
        run_chunk = original(*used[0]).run_chunk
        programs = run_chunk._cache_size()  # of other tests, too
        tiny(random_state=1).fit(X[:150], FEW[::-1][-150:])
    assert used[0] == used[1]
    assert programs == run_chunk._cache_size() >= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
        ({"body_steps": 1.5}, "body_steps: expected an integer >= 1, got 1.5"),
        ({"coupling": "cubic"}, "coupling.*'cubic'"),
        ({"noise": -1.0}, "noise: expected a number >= 0"),
        ({"noise": "much"}, "noise: expected a number >= 0.0, got 'much'"),
        ({"learning_rate": "auto"}, "learning_rate: expected a number >= 0.0, got 'auto'"),
        ({"classification_weight": -1}, "^classification_weight: expected a number >= 0.0, got -1"),
        ({"hidden": (8, 0)}, "hidden: expected an integer >= 1, got 0"),
        ({"labelled_share": 2.0}, "labelled_share: expected a number >= 0.0 and <= 1.0"),
        ({"temperature": 0.0}, "temperature: expected"),
        ({"class_probs": "balanced"}, "class_probs: expected one of 'equal', 'learned', got 'bal"),
        ({"class_probs": {0: 0.9, 1: 0.1}}, "'learned' or 2 positive numbers .* got {0: 0.9"),
        ({"class_probs": None}, "'learned' or 2 positive numbers .* got None"),
        ({"class_probs": [[0.9], [0.05, 0.05]]}, "class_probs: expected 'equal'"),
        ({"class_probs": (0.2, 0.3, 0.5)}, "2 positive numbers with sum 1, .* got 3 with sum 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**settings).fit(X, FEW)


@pytest.mark.parametrize(("num_features", "noise"), [(2, 0.1), (10, 0.2), (40, 0.3)])
def test_noise_grows_with_the_number_of_features(num_features: int, noise: float) -> None:
    x = np.random.default_rng(0).normal(size=(200, num_features))
    chosen, given = (tiny(steps=2, noise=each).fit(x, FEW) for each in (None, noise))
    assert chosen.loss_curve_ == given.loss_curve_


def test_numbers_may_be_objects(fitted: SCNFClassifier) -> None:
    as_objects = tiny().fit(X, FEW.astype(object))
    np.testing.assert_array_equal(as_objects.predict_proba(X), fitted.predict_proba(X))
    truths = FEW.astype(object)
    truths[FEW >= 0] = [np.bool_(y) for y in FEW[FEW >= 0]]
    np.testing.assert_array_equal(tiny().fit(X, truths).predict_proba(X), fitted.predict_proba(X))
    with pytest.raises(ValueError, match=r"label: expected one of \[0, 1\], got \[0, 1, 1\]"):
        fitted.sample(2, label=[0, 1, 1])


def test_score_leaves_out_what_is_not_known(fitted: SCNFClassifier) -> None:
    known = FEW >= 0
    assert fitted.score(X, FEW) == fitted.score(X[known], FEW[known])
    weight = np.arange(200.0)
    right = fitted.predict(X[known]) == Y[known]
    assert fitted.score(X, FEW, weight) == pytest.approx(np.average(right, weights=weight[known]))
    with pytest.raises(ValueError, match="inconsistent"):
        fitted.score(X, Y[:-1])


def test_a_fit_that_fails_leaves_the_last_one() -> None:
    flow = tiny().fit(X, FEW)
    before = flow.predict_proba(X)
    for bad in ({"temperature": -1.0}, {"learning_rate": 1e30}):
        with pytest.raises((ValueError, Diverged)):
            flow.set_params(**bad).fit(np.c_[10 * X, X], 1 - Y)
        np.testing.assert_array_equal(flow.predict_proba(X), before)
    with pytest.raises(ValueError, match="temperature"):
        (never := tiny(temperature=-1.0)).fit(X, FEW)
    with pytest.raises(NotFittedError):
        never.predict(X)


def test_far_out_everything_is_a_number(fitted: SCNFClassifier) -> None:
    far = np.array([[1e3, 0.0], [1e36, 0.0], [-1e300, 1e300], [1e8, 1e8], [1e12, -1e15]])
    log_prob = fitted.score_samples(far)
    assert -np.inf < log_prob[0] < -100
    assert np.isneginf(log_prob[2])
    assert not np.isnan(log_prob).any()
    posterior = fitted.predict_proba(far)
    np.testing.assert_allclose(posterior.sum(-1), 1.0)
    np.testing.assert_allclose(posterior[2], fitted.class_probs_)
    np.testing.assert_array_equal(fitted.predict(far), posterior.argmax(-1))
    rare_first = tiny(steps=2, class_probs=(0.2, 0.8)).fit(X, FEW)
    assert rare_first.predict(far)[2] == rare_first.predict_proba(far)[2].argmax() == 1


def test_minus_one_is_no_class_and_a_single_one_is_said() -> None:
    with pytest.warns(UserWarning, match="1 is the only class, since -1 is a label"):
        flow = tiny(steps=2).fit(X, 2 * Y - 1)
    np.testing.assert_array_equal(flow.classes_, [1])


def test_bad_data() -> None:
    with pytest.raises(ValueError, match="X: expected features that can be standardised"):
        tiny().fit(1e200 * X, FEW)
    with pytest.raises(ValueError, match="at least one label, got 200 times -1"):
        tiny().fit(X, np.full(200, -1))
    with pytest.raises(ValueError, match="1 feature"):
        tiny().fit(X[:, :1], FEW)


def test_divergence_is_an_error() -> None:
    for steps in (200, 10):
        with pytest.raises(Diverged, match="lower learning_rate"):
            tiny(learning_rate=1e30, steps=steps).fit(X, FEW)


@pytest.mark.parametrize("num_features", [2, 13, 30])
def test_the_config_for_vectors_has_its_settings(
    num_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run of ``configs/vectors.py`` and the estimator cannot drift apart."""
    asked: list[dict[str, Any]] = []
    built: list[dict[str, Any]] = []

    def note(kept: list[dict[str, Any]], model: Any, **settings: Any) -> None:
        kept.append(settings)
        raise InterruptedError

    for name, kept in (("estimator", asked), ("runs", built)):
        monkeypatch.setattr(f"scnf_jax.{name}.make_trainer", functools.partial(note, kept))
    estimator._trainer.cache_clear()
    x = np.random.default_rng(0).normal(size=(200, num_features)).astype(np.float32)
    with pytest.raises(InterruptedError):
        SCNFClassifier().fit(x, FEW)
    config = vectors.get_config(str(num_features)).to_dict()
    dataset = Dataset("vectors", x, FEW, x, Y, 2, None)
    with pytest.raises(InterruptedError):
        build(parse_config(config), dataset, parallel.data_mesh())
    assert {key: built[0][key] for key in asked[0]} == asked[0]
    defaults = SCNFClassifier().get_params()
    assert config["steps"] == defaults["steps"]
    assert config["model"] == {
        "name": "vector",
        "steps": defaults["body_steps"],
        "head_steps": defaults["head_steps"],
        "hidden": defaults["hidden"],
        "num_features": num_features,
        "coupling": defaults["coupling"],
        "class_probs": defaults["class_probs"],
    }


def test_the_config_for_vectors_takes_class_probabilities_by_number() -> None:
    config = vectors.get_config("2")
    config.model.class_probs = (0.9, 0.1)
    model = build_model(config.model.to_dict(), (2,), 2)
    assert isinstance(model, SemiConditionalFlow)
    params = model.init(jax.random.key(0), jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(jnp.exp(model.log_class_probs(params)), [0.9, 0.1], rtol=1e-6)


def test_the_config_for_vectors_is_of_one_number_of_features() -> None:
    x = np.zeros((200, 13), np.float32)
    with pytest.raises(
        ValueError, match="num_features: expected the number of features, 13, got 30"
    ):
        build(
            parse_config(vectors.get_config().to_dict()),
            Dataset("vectors", x, FEW, x, Y, 2, None),
            parallel.data_mesh(),
        )

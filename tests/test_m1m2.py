"""The stacked autoencoders, and the scikit-learn baselines."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.baselines import get_config
from scnf_jax.baselines import run_baseline
from scnf_jax.data import load_dataset
from scnf_jax.loading import load_run
from scnf_jax.losses import AugmentOptions, ObjectiveOptions, make_loss
from scnf_jax.models import m1m2
from scnf_jax.objectives import mean_weight
from scnf_jax.reporting.card import model_card
from scnf_jax.runs import prepare, train

MODEL = m1m2((4, 4, 1), 3, m1_steps=10, num_train=50, hidden=(8,), latent_dim=4, m2_hidden=6)
X = jax.random.uniform(jax.random.key(0), (6, 4, 4, 1))
LABEL = jnp.array([0, 1, 2, -1, -1, -1])


def perturbed() -> Any:
    """Parameters away from the start, where the last layers are zero."""
    params = MODEL.init(jax.random.key(1), X)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved) | {"spread": params["spread"]}


def loss(params: Any, step: int, weight: float) -> tuple[Any, Any]:
    rows = MODEL.draw(jax.random.key(3), X)
    labelled = mean_weight(LABEL >= 0, LABEL >= 0)
    return MODEL.loss(params, rows, LABEL, labelled, jnp.array(step), weight)


def gradients(step: int) -> Any:
    return jax.grad(lambda params: loss(params, step, 1.0)[0])(perturbed())


@pytest.mark.parametrize(("step", "moving"), [(0, "m1"), (9, "m1"), (10, "m2"), (99, "m2")])
def test_each_stage_trains_its_own_part(step: int, moving: str) -> None:
    grads = gradients(step)
    for part in ("m1", "m2"):
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads[part]))
        assert (largest > 0) == (part == moving)


def dense(params: Any, name: str, x: Any) -> Any:
    layer = params["params"][name]
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer.get("bias", 0.0))


def mlp(params: Any, x: Any, label: Any = None) -> Any:
    """One hidden layer of softplus units, which the label shifts."""
    h = dense(params, "input", x)
    if label is not None:
        h = h + dense(params, "context", label)
    return dense(params, "output", np.log1p(np.exp(h)))


def log_normal(x: Any, mean: Any, log_variance: Any) -> Any:
    """Of every element by itself."""
    return -0.5 * (np.log(2 * np.pi) + log_variance + (x - mean) ** 2 / np.exp(log_variance))


def divergence(mean: Any, log_variance: Any) -> Any:
    return 0.5 * np.sum(np.exp(log_variance) + mean**2 - 1 - log_variance, -1)


def test_m1_is_the_bound_of_a_bernoulli_autoencoder() -> None:
    """Worked out in NumPy, with the regression on the deviations' logarithms."""
    params = perturbed()
    rows = {k: np.asarray(v, np.float64) for k, v in MODEL.draw(jax.random.key(3), X).items()}
    mean, log_variance = np.split(mlp(params["m1"]["encoder"], rows["pixels"]), 2, -1)
    z_1 = mean + np.exp(log_variance / 2) * rows["noise_1"]
    white = 1 / (1 + np.exp(-mlp(params["m1"]["decoder"], z_1)))
    log_p = np.log(np.where(rows["pixels"] == 1, white, 1 - white)).sum(-1)
    regression = np.sum((30.0 * params["spread"] - np.log(mean.std(0) + 1e-3)) ** 2)
    expected = np.mean(divergence(mean, log_variance) - log_p) + regression
    np.testing.assert_allclose(loss(params, 0, 1.0)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("spread", [[0.0] * 4, [0.0, -1.0, -1.0, 0.0]], ids=["all", "two"])
def test_m2_sums_over_the_labels_that_are_not_known(spread: list[float]) -> None:
    """Worked out in NumPy label by label: 2014, eq. 6 and 7, and the weights' prior.

    Of elements without spread it sees 0, and none of them is to be explained.
    """
    params = perturbed() | {"spread": jnp.array(spread)}
    seen = np.array(spread) == 0
    m2 = params["m2"]
    rows = {k: np.asarray(v, np.float64) for k, v in MODEL.draw(jax.random.key(3), X).items()}
    mean, log_variance = np.split(mlp(params["m1"]["encoder"], rows["pixels"]), 2, -1)
    z_1 = seen * (mean + np.exp(log_variance / 2) * rows["noise_1"])
    logits = mlp(m2["classifier"], z_1)
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = 0.0
    for i, label in enumerate(np.asarray(LABEL)):
        bound = np.zeros(3)
        for k, one_hot in enumerate(np.eye(3)):
            mean, log_variance = np.split(mlp(m2["inference"], z_1[i], one_hot), 2, -1)
            z_2 = mean + np.exp(log_variance / 2) * rows["noise_2"][i, k]
            log_p = log_normal(z_1[i], *np.split(mlp(m2["generator"], z_2, one_hot), 2, -1))
            bound[k] = np.sum(seen * log_p) - divergence(mean, log_variance) - np.log(3)
        total += bound[label] if label >= 0 else np.sum(q[i] * (bound - np.log(q[i])))
    cross_entropy = -np.mean(np.log(q[np.arange(3), np.asarray(LABEL)[:3]]))
    prior = 0.5 * sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(m2)) / 50
    value, metrics = loss(params, 10, 2.0)
    np.testing.assert_allclose(metrics["cross_entropy"], cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(value, -total / 6 + prior + 2.0 * cross_entropy, rtol=1e-5)


def test_the_classification_weight_adds_the_labelled_cross_entropy() -> None:
    without, metrics = loss(perturbed(), 50, 0.0)
    with_term, _ = loss(perturbed(), 50, 2.0)
    np.testing.assert_allclose(with_term - without, 2.0 * metrics["cross_entropy"], rtol=1e-4)


def test_elements_without_spread_are_not_seen() -> None:
    params = perturbed()
    narrow = params | {"spread": jnp.full(4, -1.0)}  # exp(-30), far below 0.1
    posterior = MODEL.log_posterior(narrow, X)
    np.testing.assert_allclose(
        posterior, jnp.broadcast_to(posterior[:1], posterior.shape), rtol=1e-6
    )
    assert float(jnp.std(MODEL.log_posterior(params, X), 0).max()) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": ObjectiveOptions(consistency_weight=1.0)},
        {"objective": ObjectiveOptions(name="em")},
        {"augment": AugmentOptions(shift=1.0)},
    ],
)
def test_a_flows_objective_is_refused(changes: dict[str, Any]) -> None:
    settings = {"objective": ObjectiveOptions(), "augment": AugmentOptions()} | changes
    with pytest.raises(ValueError, match="m1m2: has an objective of its own"):
        make_loss(MODEL, settings["objective"], settings["augment"], 17, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"m1_steps": -1}, "model.m1_steps: expected an integer >= 0, got -1"),
        ({"num_train": 0}, "model.num_train: expected an integer >= 1, got 0"),
        ({"num_train": 0.5}, "model.num_train: expected an integer >= 1, got 0.5"),
        ({"latent_dim": 0}, "model.latent_dim: expected an integer >= 1, got 0"),
    ],
)
def test_sizes_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        m1m2((8, 8, 1), 10, **{"m1_steps": 5, "num_train": 100} | settings)


def test_a_run_trains_evaluates_and_loads(tmp_path: Path) -> None:
    config = {
        "dataset": "digits",
        "num_labelled": 100,
        "steps": 300,
        "batch_size": 64,
        "eval_every": 300,
        "checkpoint_every": 100,
        "steps_per_call": 100,
        "model": {
            "name": "m1m2",
            "m1_steps": 200,
            "num_train": 1297,
            "hidden": (32,),
            "latent_dim": 8,
            "m2_hidden": 16,
        },
        "optimizer": {"learning_rate": 1e-2, "schedule": "constant"},
        "objective": {"classification_weight": 10.0},
    }
    summary = train(prepare(config, tmp_path / "run"))
    assert summary["bits_per_dim"] is None
    run = load_run(tmp_path / "run")
    digits = load_dataset("digits")
    posterior = np.asarray(run.model.log_posterior(run.params, digits.test_x / np.float32(16)))
    np.testing.assert_allclose(np.exp(posterior).sum(-1), 1.0, rtol=1e-5)
    wrong = np.argmax(posterior, -1) != digits.test_y
    assert summary["test_error_percent"] == pytest.approx(100 * wrong.mean(), abs=0.21)
    assert wrong.mean() < 0.75, "of ten classes it has learned to tell some"
    assert "x float32 grey level / 16, ['N', 8, 8, 1]" in model_card(run, summary, None)


@pytest.mark.parametrize(
    ("name", "features", "error"),
    # On values, spreading has 16.0 and self-training 8.4 without the objects that have no label.
    [
        ("label_spreading", "values", 5.2),
        ("label_spreading", "gradients", 1.4),
        ("self_training_svc", "values", 4.2),
        ("supervised_svc", "values", 8.4),
    ],
)
def test_a_baseline_learns_and_writes_a_run_folder(
    name: str, features: str, error: float, tmp_path: Path
) -> None:
    config = get_config(name).to_dict() | {"label_seed": 2, "features": features}
    summary = run_baseline(config, tmp_path / "run", "python train.py")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert summary["test_error_percent"] == pytest.approx(error, abs=1.0)
    assert summary["num_labelled"] == 100


def test_a_baseline_with_a_wrong_value_leaves_its_folder_free(tmp_path: Path) -> None:
    config = {"dataset": "digits", "num_labelled": 100, "baseline": {"name": "supervised_svc"}}
    with pytest.raises(ValueError, match="'C' parameter"):
        run_baseline(config | {"baseline": {"name": "supervised_svc", "C": -1.0}}, tmp_path)
    assert run_baseline(config, tmp_path)["status"] == "finished"


def test_vectors_have_no_gradients(tmp_path: Path) -> None:
    config = {"dataset": "breast_cancer", "num_labelled": 20, "features": "gradients"}
    with pytest.raises(ValueError, match="features: expected 'values' for vectors, as breast_can"):
        run_baseline(config | {"baseline": {"name": "supervised_svc"}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("baseline", "message"),
    [({"name": "label_spredding"}, "label_spreading"), ({"name": "supervised_svc", "c": 1}, "'c'")],
)
def test_a_wrong_baseline_is_refused(
    baseline: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {"dataset": "digits", "num_labelled": 100, "baseline": baseline}
    with pytest.raises(ValueError, match=message):
        run_baseline(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""The plain classifier: its network, its loss, and a run that teaches a flow."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax import __main__
from scnf_jax.data import load_dataset
from scnf_jax.inference import Engine
from scnf_jax.loading import load_run
from scnf_jax.losses import AugmentOptions, ObjectiveOptions, Teacher, make_loss
from scnf_jax.models import classifier
from scnf_jax.runs import prepare, train

from .bijectors.registry import perturbed

MODEL = classifier((8, 8, 1), 3, width=4, hidden=6)
X = jax.random.randint(jax.random.key(0), (6, 8, 8, 1), 0, 17).astype(jnp.uint8)
LABEL = jnp.array([0, 1, 2, -1, -1, -1])
PARAMS = perturbed(MODEL.init(jax.random.key(1), X / 17.0))
CONFIG = {
    "dataset": "digits",
    "num_labelled": 100,
    "steps": 200,
    "batch_size": 64,
    "labelled_fraction": 0.2,
    "eval_every": 200,
    "checkpoint_every": 200,
    "steps_per_call": 50,
    "model": {"name": "classifier", "width": 8, "hidden": 32},
    "optimizer": {"learning_rate": 3e-3, "ema_decay": 0.98},
    "objective": {
        "teacher": "averaged",
        "classification_weight": 1.0,
        "consistency_weight": 2.0,
        "sharpening": 3.0,
    },
    "augment": {"shift": 0.5, "rotate": 10.0},
}


def test_the_network_is_three_convolutions_and_two_dense_layers() -> None:
    """Worked out with XLA's convolution, and groups in NumPy."""
    layers = PARAMS["params"]
    h = np.asarray(jax.random.uniform(jax.random.key(2), (6, 8, 8, 1)))
    x = h

    def halve(h: Any) -> Any:
        blocks = [h[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return np.stack(blocks, -1).reshape(*blocks[0].shape[:3], -1)

    for number in range(3):
        h = halve(h) if number < 2 else h
        conv, norm = layers[f"Conv3x3_{number}"], layers[f"GroupNorm_{number}"]
        dims = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(
            h, conv["kernel"], (1, 1), "SAME", dimension_numbers=dims, precision="highest"
        )
        groups = np.asarray(h + conv["bias"]).reshape(6, -1, 4, h.shape[-1] // 4)
        mean = groups.mean((1, 3), keepdims=True)
        deviation = np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
        h = ((groups - mean) / deviation).reshape(h.shape) * norm["scale"] + norm["bias"]
        h = np.where(h > 0, h, 0.1 * h)
    h = h.reshape(6, -1) @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
    h = np.where(h > 0, h, 0.1 * h) @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]
    expected = h - np.log(np.exp(h).sum(-1, keepdims=True))
    np.testing.assert_allclose(MODEL.log_posterior(PARAMS, x), expected, rtol=1e-4, atol=1e-4)


def test_its_loss_is_cross_entropy_and_agreement() -> None:
    """The likelihood of a label counts as it is, that of an object is constant."""
    objective = ObjectiveOptions(
        teacher="averaged", classification_weight=3.0, consistency_weight=2.0
    )
    loss = make_loss(MODEL, objective, AugmentOptions(), 17, 10)
    views = loss.draw(jax.random.key(3), X)
    taught_by = perturbed(PARAMS)
    teacher = Teacher(taught_by, jnp.full(3, 1 / 3))
    value, output = loss.mean(PARAMS, teacher, views, LABEL, LABEL, jnp.array(0))
    first, second = (np.asarray(MODEL.log_posterior(PARAMS, views[k])) for k in ("first", "second"))
    q = np.exp(MODEL.log_posterior(taught_by, views["first"]))
    q[:3] = np.eye(3)
    miss = -np.diag(first[:3])
    expected = miss.sum() / 6 + 3.0 * miss.mean() - 2.0 * np.sum(q * second, -1).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert "bits_per_dim" not in output.metrics


@pytest.mark.parametrize(
    ("objective", "num_levels", "message"),
    [
        (ObjectiveOptions(name="em"), 17, "has no density; expected objective.name='sgd'"),
        (ObjectiveOptions(view_weight=1.0), 17, "view_weight=0, got 'sgd' and 1.0"),
        (ObjectiveOptions(), None, "expected images of grey levels, got vectors"),
    ],
)
def test_what_needs_a_density_is_refused(
    objective: ObjectiveOptions, num_levels: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_loss(MODEL, objective, AugmentOptions(), num_levels, 10)


@pytest.mark.parametrize("shape", [(2,), (6, 8, 1), (8, 10, 1)])
def test_other_objects_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="edges divisible by 4, got events of shape"):
        classifier(shape, 3)


@pytest.mark.parametrize("widths", [{"width": 6}, {"width": 0}, {"hidden": 0}])
def test_widths_that_do_not_fit_are_refused(widths: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(widths))}: expected"):
        classifier((8, 8, 1), 3, **widths).init(jax.random.key(0), X / 17.0)


def test_a_run_trains_and_teaches_a_flow(tmp_path: Path) -> None:
    summary = train(prepare(CONFIG, tmp_path / "classifier"))
    assert summary["bits_per_dim"] is None
    assert summary["test_error_percent"] < 15
    run = load_run(tmp_path / "classifier")
    digits = load_dataset("digits")
    taught = prepare(
        CONFIG
        | {
            "model": {"name": "glow", "steps": (1,), "width": 4, "head_steps": 1},
            "objective": {},
            "augment": {},
            "labelled_fraction": 0.9,
            "pseudo_labels": str(tmp_path / "classifier"),
        },
        tmp_path / "flow",
    )
    likely = Engine(run).scores(digits.train_x).label
    agree = np.mean(np.asarray(taught.labels) == likely)
    assert agree > 0.97  # all but some of the hundred that were given
    assert (np.asarray(taught.labels) >= 0).all()


def test_verbs_do_with_it_what_needs_no_density(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(prepare(CONFIG | {"steps": 50, "eval_every": 50, "checkpoint_every": 50}, run))
    assert __main__.main(["evaluate", str(run)]) == 0
    assert "bits/dim" not in capsys.readouterr().out
    assert __main__.main(["export", str(run), f"--output={tmp_path / 'shared'}"]) == 0
    assert "# Classifier" in (tmp_path / "shared" / "README.md").read_text()
    assert __main__.main(["report", str(run), "--max-objects=20"]) == 0
    page = (run / "report.html").read_text()
    assert all(name in page for name in ("test error", "predicted class", "Loss and test error"))
    assert not any(name in page for name in ("bits/dim</div>", "z_h", "scnf_jax leak"))
    for verb in (["sample", str(run), "--label=1"], ["suggest", str(run)]):
        assert __main__.main(verb) != 0
        assert "expected a flow, got classifier" in capsys.readouterr().err

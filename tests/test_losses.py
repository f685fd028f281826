"""Every setting of a flow's loss: its value by hand, one setting at a time."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax.losses import (
    AugmentOptions,
    Loss,
    LossOutput,
    ObjectiveOptions,
    Teacher,
    make_loss,
)
from scnf_jax.models import vector

MODEL = vector((2,), 2, steps=1, head_steps=1, hidden=(8,), coupling="affine")
X = jax.random.normal(jax.random.key(0), (16, 2))
UNKNOWN = jnp.full(16, -1)
LABEL = jnp.where(jnp.arange(16) < 8, jnp.arange(16) % 2, -1)
START = jax.jit(MODEL.init)(jax.random.key(1), X)


def moved(by: float) -> Any:
    """Away from the start, where a head does not tell labels apart."""
    return jax.tree.map(
        lambda leaf: leaf + by * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), START
    )


PARAMS, TAUGHT_BY = moved(0.2), moved(0.3)
LOG_JOINT = MODEL.log_joint(PARAMS, X)
LOG_PROB = jax.nn.logsumexp(LOG_JOINT, -1)
TARGET = MODEL.log_joint(TAUGHT_BY, X)


def output_of(
    step: int = 0,
    *,
    label: Any = UNKNOWN,
    share: tuple[float, float] = (0.5, 0.5),
    steps: int = 10,
    **settings: Any,
) -> tuple[float, LossOutput]:
    """The loss of the batch, without views, and what else is said of it."""
    loss = make_loss(MODEL, ObjectiveOptions(**settings), AugmentOptions(), None, steps)
    views = loss.draw(jax.random.key(2), X)
    teacher = Teacher(TAUGHT_BY, jnp.array(share))
    value, output = loss.mean(PARAMS, teacher, views, label, label, jnp.array(step))
    return float(value), output


def loss_of(step: int = 0, **settings: Any) -> tuple[float, dict[str, Any]]:
    """The loss and the metrics, see :func:`output_of`."""
    value, output = output_of(step, **settings)
    return value, output.metrics


def agreement(q: Any, temperature: float) -> float:
    """Mean cross-entropy of the posterior to targets ``q``."""
    log_posterior = jax.nn.log_softmax(LOG_JOINT / temperature, -1)
    return float(-jnp.sum(q * log_posterior, -1).mean())


def test_the_likelihood_alone_and_its_bits() -> None:
    value, metrics = loss_of()
    np.testing.assert_allclose(value, -LOG_PROB.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["bits_per_dim"], value / (2 * math.log(2)), rtol=1e-5)


def test_the_e_step_has_a_temperature() -> None:
    value, _ = loss_of(name="em", refresh_every=5, e_step_temperature=4.0)
    q = jax.nn.softmax(TARGET / 4.0, -1)
    np.testing.assert_allclose(value, -jnp.sum(q * LOG_JOINT, -1).mean(), rtol=1e-5)


def test_targets_are_sharpened_and_have_to_be_sure() -> None:
    weight = {"consistency_weight": 2.0, "teacher": "averaged", "temperature": 3.0}
    plain, _ = loss_of()
    q = jax.nn.softmax(TARGET / 3.0, -1)
    value, _ = loss_of(**weight)
    np.testing.assert_allclose(value - plain, 2.0 * agreement(q, 3.0), rtol=1e-4)
    value, _ = loss_of(**weight, sharpening=2.0)
    sharp = q**2 / jnp.sum(q**2, -1, keepdims=True)
    np.testing.assert_allclose(value - plain, 2.0 * agreement(sharp, 3.0), rtol=1e-4)
    bound = float(jnp.median(q.max(-1)))
    value, _ = loss_of(**weight, confidence=bound)
    sure = (q.max(-1) >= bound)[:, None]
    assert 0 < float(sure.mean()) < 1
    np.testing.assert_allclose(value - plain, 2.0 * agreement(q * sure, 3.0), rtol=1e-4)


def test_the_consistency_term_is_ramped_up_and_falls() -> None:
    q = jax.nn.softmax(LOG_JOINT / 3.0, -1)
    weight = {"consistency_weight": 2.0, "temperature": 3.0}
    plain, _ = loss_of()
    for step, part in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
        value, metrics = loss_of(step, **weight, consistency_rampup=4)
        np.testing.assert_allclose(value - plain, part * 2.0 * agreement(q, 3.0), rtol=1e-4)
        np.testing.assert_allclose(metrics["consistency"], agreement(q, 3.0), rtol=1e-5)
    value, _ = loss_of(5, **weight, anneal_to=0.01)
    np.testing.assert_allclose(value - plain, 0.1 * 2.0 * agreement(q, 3.0), rtol=1e-4)


def test_the_averaged_parameters_teach() -> None:
    """The consistency term's target: by hand, from the teacher's posterior of the first view."""
    value, output = output_of(
        share=(0.8, 0.2),
        consistency_weight=2.0,
        teacher="averaged",
        temperature=3.0,
        align_classes=True,
    )
    q = jax.nn.softmax(TARGET / 3.0 - jnp.log(jnp.array([0.8, 0.2])), -1)
    np.testing.assert_allclose(value, -LOG_PROB.mean() + 2.0 * agreement(q, 3.0), rtol=1e-5)
    named = jax.nn.softmax(TARGET / 3.0, -1).mean(0)
    np.testing.assert_allclose(output.named_share, named, rtol=1e-5)


def test_weights_fall_geometrically_to_their_share() -> None:
    plain, _ = loss_of(label=LABEL)
    falling = {"classification_weight": 3.0, "anneal_to": 0.01, "anneal_from": 5}
    for step, weight in ((0, 3.0), (5, 3.0), (10, 0.3), (15, 0.03)):
        value, metrics = loss_of(step, label=LABEL, steps=15, **falling)
        np.testing.assert_allclose(value - plain, weight * metrics["cross_entropy"], atol=2e-4)


def test_the_second_view_counts_in_the_likelihood_as_asked() -> None:
    plain, _ = loss_of(label=LABEL)
    value, _ = loss_of(label=LABEL, view_weight=0.5)  # no views: the second is the first
    np.testing.assert_allclose(value, 1.5 * plain, rtol=1e-5)


@pytest.mark.parametrize("every", [2, 4])
def test_every_so_many_rows_have_a_second_view(every: int) -> None:
    """Of labelled rows and of others, beside the likelihood of all rows; by hand."""
    weights = {"consistency_weight": 2.0, "teacher": "averaged", "temperature": 3.0}
    plain, _ = loss_of(label=LABEL)
    value, _ = loss_of(label=LABEL, **weights, view_every=every)
    q = jnp.where((LABEL >= 0)[:, None], jax.nn.one_hot(LABEL, 2), jax.nn.softmax(TARGET / 3.0, -1))
    terms = -jnp.sum(q * jax.nn.log_softmax(LOG_JOINT / 3.0, -1), -1)[::every]
    assert {bool(known) for known in LABEL[::every] >= 0} == {False, True}
    np.testing.assert_allclose(value - plain, 2.0 * terms.mean(), rtol=1e-4)
    value, _ = loss_of(label=LABEL, name="em", refresh_every=5, view_weight=0.5, view_every=every)
    q = jnp.where((LABEL >= 0)[:, None], jax.nn.one_hot(LABEL, 2), jax.nn.softmax(TARGET, -1))
    terms = -jnp.sum(q * LOG_JOINT, -1)
    np.testing.assert_allclose(value, terms.mean() + 0.5 * terms[::every].mean(), rtol=1e-5)


def test_self_training_holds_the_first_view_to_targets_that_are_kept() -> None:
    settings = {
        "label": LABEL,
        "name": "em",
        "refresh_every": 4,
        "refresh_from": 2,
        "teacher": "averaged",
        "temperature": 3.0,
    }
    before, after = (
        [loss_of(step, **settings, self_training_weight=w)[0] for w in (0.0, 2.0)]
        for step in (1, 2)
    )
    assert before[0] == before[1]
    known = (LABEL >= 0)[:, None]
    q = jnp.where(known, jax.nn.one_hot(LABEL, 2), jax.nn.softmax(TARGET / 3.0, -1))
    np.testing.assert_allclose(after[1] - after[0], 2.0 * agreement(q, 3.0), rtol=1e-3)


def test_self_training_falls_too() -> None:
    settings = {"name": "em", "refresh_every": 2, "teacher": "averaged", "temperature": 3.0}
    plain, _ = loss_of(5, **settings)
    value, _ = loss_of(5, **settings, self_training_weight=2.0, anneal_to=0.01)
    q = jax.nn.softmax(TARGET / 3.0, -1)
    np.testing.assert_allclose(value - plain, 0.1 * 2.0 * agreement(q, 3.0), rtol=1e-3)


def views_of(
    augment: AugmentOptions, num_levels: int | None, x: Any, **settings: Any
) -> dict[str, Any]:
    objective = ObjectiveOptions(**(settings or {"view_weight": 1.0}))
    loss: Loss = make_loss(MODEL, objective, augment, num_levels, 10)
    return loss.draw(jax.random.key(3), x)


@pytest.mark.parametrize("likelihood", [False, True])
def test_the_first_view_of_an_image_is_the_image_unless_the_likelihood_sees_views(
    likelihood: bool,
) -> None:
    images = jax.random.randint(jax.random.key(4), (8, 6, 6, 1), 0, 17).astype(jnp.uint8)
    views = views_of(AugmentOptions(shift=2.0, likelihood=likelihood), 17, images)
    levels = {name: jnp.floor(17 * view).astype(jnp.uint8) for name, view in views.items()}
    assert bool((levels["first"] == images).all()) != likelihood
    assert bool((levels["second"] != images).any((1, 2, 3)).all())
    noise = [17 * view - jnp.floor(17 * view) for view in views.values()]
    assert float(jnp.abs(noise[0] - noise[1]).mean()) > 0.2


def test_second_views_in_the_middle_of_their_grey_levels_have_no_noise() -> None:
    images = jax.random.randint(jax.random.key(4), (8, 6, 6, 1), 0, 17).astype(jnp.uint8)
    augment = AugmentOptions(translate=1, at="middle")
    views = views_of(augment, 17, images, consistency_weight=1.0, view_every=2)
    assert views["first"].shape == (8, 6, 6, 1)
    assert views["second"].shape == (4, 6, 6, 1)
    np.testing.assert_allclose(17 * views["second"] % 1, 0.5, atol=1e-5)
    assert float(jnp.abs(17 * views["first"] % 1 - 0.5).mean()) > 0.2
    plain = views_of(AugmentOptions(at="middle"), 17, images, consistency_weight=1.0)
    np.testing.assert_allclose(plain["second"], (images + 0.5) / 17, rtol=1e-6)


def test_views_of_vectors_have_noise_of_the_given_size() -> None:
    x = jax.random.normal(jax.random.key(5), (4000, 2))
    views = views_of(AugmentOptions(noise=0.1), None, x)
    np.testing.assert_array_equal(views["first"], x)
    np.testing.assert_allclose((views["second"] - x).std(), 0.1, rtol=0.05)

"""Every setting of a flow's loss: its value by hand, one setting at a time."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax.losses import AugmentOptions, Loss, ObjectiveOptions, Teacher, make_loss
from scnf_jax.models import vector

MODEL = vector((2,), 2, steps=1, head_steps=1, hidden=(8,), coupling="affine")
X = jax.random.normal(jax.random.key(0), (16, 2))
UNKNOWN = jnp.full(16, -1)
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


def loss_of(step: int = 0, **settings: Any) -> tuple[float, dict[str, Any]]:
    """The loss and the metrics of the batch, none of which has a label."""
    loss = make_loss(MODEL, ObjectiveOptions(**settings), AugmentOptions(), None, 10)
    views = loss.draw(jax.random.key(2), X)
    teacher = Teacher(TAUGHT_BY, jnp.array([0.5, 0.5]))
    value, output = loss.mean(PARAMS, teacher, views, UNKNOWN, UNKNOWN, jnp.array(step))
    return float(value), output.metrics


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


def test_self_training_falls_too() -> None:
    settings = {"name": "em", "refresh_every": 2, "teacher": "averaged", "temperature": 3.0}
    plain, _ = loss_of(5, **settings)
    value, _ = loss_of(5, **settings, self_training_weight=2.0, anneal_to=0.01)
    q = jax.nn.softmax(TARGET / 3.0, -1)
    np.testing.assert_allclose(value - plain, 0.1 * 2.0 * agreement(q, 3.0), rtol=1e-3)


def views_of(augment: AugmentOptions, num_levels: int | None, x: Any) -> dict[str, Any]:
    loss: Loss = make_loss(MODEL, ObjectiveOptions(view_weight=1.0), augment, num_levels, 10)
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


def test_views_of_vectors_have_noise_of_the_given_size() -> None:
    x = jax.random.normal(jax.random.key(5), (4000, 2))
    views = views_of(AugmentOptions(noise=0.1), None, x)
    np.testing.assert_array_equal(views["first"], x)
    np.testing.assert_allclose((views["second"] - x).std(), 0.1, rtol=0.05)

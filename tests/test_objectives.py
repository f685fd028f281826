"""Objectives against sums worked out by hand, and EM against the marginal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax import objectives
from scnf_jax.models import vector

LOG_JOINT = jnp.log(jnp.array([[0.1, 0.3], [0.2, 0.2], [0.4, 0.1]]))
LABEL = jnp.array([1, -1, 0])


def test_marginal() -> None:
    got = objectives.marginal_log_likelihood(LOG_JOINT, LABEL)
    np.testing.assert_allclose(got, np.log([0.3, 0.4, 0.4]), rtol=1e-6)


def test_expected_log_likelihood() -> None:
    target = jnp.log(jnp.array([[0.5, 0.5], [0.3, 0.1], [0.5, 0.5]]))
    got = objectives.expected_log_likelihood(LOG_JOINT, LABEL, target)
    middle = 0.75 * np.log(0.2) + 0.25 * np.log(0.2)
    np.testing.assert_allclose(got, [np.log(0.3), middle, np.log(0.4)], rtol=1e-6)


def test_cross_entropy_and_its_mean_over_labelled_rows() -> None:
    got = objectives.cross_entropy(LOG_JOINT, LABEL)
    np.testing.assert_allclose(got, [-np.log(0.75), 0.0, -np.log(0.8)], rtol=1e-6)
    mean = jnp.mean(got * objectives.mean_weight(LABEL >= 0, LABEL >= 0))
    np.testing.assert_allclose(mean, -(np.log(0.75) + np.log(0.8)) / 2, rtol=1e-6)
    assert not objectives.mean_weight(LABEL >= 9, LABEL >= 9).any()


def test_cross_entropy_at_a_temperature() -> None:
    """At temperature 2 the posterior is proportional to the square root of the joint."""
    got = objectives.cross_entropy(LOG_JOINT, LABEL, temperature=2.0)[0]
    share = np.sqrt(0.3) / (np.sqrt(0.3) + np.sqrt(0.1))
    np.testing.assert_allclose(got, -np.log(share), rtol=1e-6)


def test_consistency() -> None:
    target = jnp.log(jnp.array([[0.5, 0.5], [0.3, 0.1], [0.5, 0.5]]))
    got = objectives.consistency(LOG_JOINT, target, LABEL)
    np.testing.assert_allclose(got, [-np.log(0.75), -np.log(0.5), -np.log(0.8)], rtol=1e-6)
    sure = objectives.consistency(LOG_JOINT, target, LABEL, confidence=0.8)
    np.testing.assert_allclose(sure, [-np.log(0.75), 0.0, -np.log(0.8)], rtol=1e-6)
    # 0.3 and 0.1 squared and normalised are 0.9 and 0.1.
    sharp = objectives.consistency(LOG_JOINT, target, LABEL, sharpening=2.0)[1]
    log_posterior = jax.nn.log_softmax(LOG_JOINT[1])
    np.testing.assert_allclose(sharp, -log_posterior @ jnp.array([0.9, 0.1]), rtol=1e-6)
    # A class that no target has named for long has no share left.
    share = jnp.array([1.0, 0.0])
    aligned = objectives.consistency(LOG_JOINT, target, LABEL, class_share=share)
    assert bool(jnp.isfinite(aligned).all())
    gradient = jax.grad(lambda t: objectives.consistency(LOG_JOINT, t, LABEL).sum())(target)
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_label_that_cannot_be_adds_nothing() -> None:
    log_joint, label = jnp.array([[0.5, -jnp.inf]]), jnp.array([-1])
    for objective, expected in (
        (lambda x: objectives.expected_log_likelihood(x, label, x)[0], 0.5),
        (lambda x: objectives.consistency(x, x, label)[0], 0.0),
    ):
        np.testing.assert_allclose(objective(log_joint), expected, atol=1e-7)
        assert bool(jnp.isfinite(jax.grad(objective)(log_joint)).all())


def test_a_warm_e_step_is_softer_and_still_a_lower_bound() -> None:
    target, label = jnp.array([[0.0, -2.0]]), jnp.array([-1])
    for temperature in (1.0, 3.0):
        q = jax.nn.softmax(target / temperature)
        got = objectives.expected_log_likelihood(target, label, target, temperature)
        np.testing.assert_allclose(got, (q * target).sum(-1), rtol=1e-6)
        bound = got - (q * jnp.log(q)).sum(-1)
        gap = jax.nn.logsumexp(target, -1) - bound
        assert (float(gap[0]) < 1e-6) if temperature == 1.0 else (float(gap[0]) > 1e-3)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_em_refreshed_every_step_has_the_gradient_of_the_marginal(share: float) -> None:
    model = vector((2,), 3, steps=1, head_steps=1, hidden=(8,), coupling="affine")
    x = jax.random.normal(jax.random.key(0), (16, 2))
    params = model.init(jax.random.key(1), x)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), params
    )
    label = jnp.where(jnp.arange(16) < 16 * share, jnp.arange(16) % 3, -1)

    def marginal(p: object) -> jax.Array:
        return objectives.marginal_log_likelihood(model.log_joint(p, x), label).sum()

    def em(p: object) -> jax.Array:
        log_joint = model.log_joint(p, x)
        return objectives.expected_log_likelihood(log_joint, label, log_joint).sum()

    expected, got = jax.jit(jax.grad(marginal))(params), jax.jit(jax.grad(em))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)
    norm = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(expected))
    assert norm > 1.0

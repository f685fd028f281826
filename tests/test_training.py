"""The step, the optimiser, the sampler, and what the compiled program is."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax import parallel
from scnf_jax.losses import AugmentOptions, ObjectiveOptions
from scnf_jax.models import m1m2, vector
from scnf_jax.training import (
    OptimizerOptions,
    TrainData,
    Trainer,
    draw_rows,
    make_data,
    make_optimizer,
    make_trainer,
    usable_params,
)

MODEL = vector((2,), 2, steps=1, head_steps=1, hidden=(8,), coupling="affine")
X = np.random.RandomState(0).randn(40, 2).astype(np.float32)
X[:, 1] = X[:, 0] ** 2 + 0.1 * X[:, 1]
Y = np.where(np.arange(40) < 8, np.arange(40) % 2, -1).astype(np.int32)


def trainer(**changes: Any) -> tuple[Trainer, TrainData]:
    mesh = parallel.data_mesh()
    settings: dict[str, Any] = {
        "steps": 8,
        "batch_size": 16,
        "num_levels": None,
        "mesh": mesh,
        "steps_per_call": 4,
        "init_batch_size": 32,
    }
    return make_trainer(MODEL, **settings | changes), make_data(X, Y, mesh)


def test_chunk_equals_single_steps() -> None:
    made, data = trainer(
        optimizer=OptimizerOptions(ema_decay=0.9, clip_norm=1.0, weight_decay=1e-3),
        objective=ObjectiveOptions(classification_weight=1.0),
        labelled_fraction=0.5,
    )
    state = made.init(data)
    step = jax.jit(made.step)
    singly = state
    for _ in range(4):
        singly, _ = step(singly, data)
    chunk, metrics = made.run_chunk(state, data)
    chex.assert_trees_all_close(chunk, singly, rtol=1e-5, atol=1e-6)
    assert metrics["loss"].shape == (4,)
    assert int(chunk.step) == 4


def test_every_step_draws_rows_and_noise_of_its_own() -> None:
    made, data = trainer()
    rows = [np.asarray(made.rows(data, start)) for start in (0, 4)]
    assert len({tuple(row) for row in np.concatenate(rows)}) == 8
    alike = make_data(np.ones((40, 2), np.float32), Y, parallel.data_mesh())
    made, _ = trainer(
        augment=AugmentOptions(noise=0.5, likelihood=True),
        optimizer=OptimizerOptions(learning_rate=0.0),
    )
    losses = np.asarray(made.run_chunk(made.init(alike), alike)[1]["loss"])
    assert np.diff(np.sort(losses)).min() > 1e-3


def test_the_asked_share_of_a_batch_has_labels() -> None:
    made, data = trainer(batch_size=2000, labelled_fraction=0.5)  # of the data a fifth has
    assert abs(float((Y[made.rows(data, 0)] >= 0).mean()) - 0.5) < 0.03


def test_a_batch_has_no_smaller_share_of_labels_than_the_data() -> None:
    made, data = trainer(batch_size=2000, labelled_fraction=0.01)
    assert abs(float((Y[made.rows(data, 0)] >= 0).mean()) - (Y >= 0).mean()) < 0.03


def test_one_compilation_and_no_callback() -> None:
    made, data = trainer()
    state = made.init(data)
    for _ in range(3):
        state, _ = made.run_chunk(state, data)
    assert made.run_chunk._cache_size() == 1  # type: ignore[attr-defined]
    program = str(jax.make_jaxpr(made.run_chunk)(state, data))
    assert "callback" not in program


def test_evaluation_compiles_once() -> None:
    traced = chex.assert_max_traces(MODEL.log_joint, n=1)
    mesh = parallel.data_mesh()
    made = make_trainer(
        MODEL._replace(log_joint=traced),
        steps=1,
        batch_size=4,
        num_levels=None,
        mesh=mesh,
        eval_batch_size=16,
    )
    params = MODEL.init(jax.random.key(0), jnp.asarray(X))
    for _ in range(3):
        made.evaluate(params, X)


def test_state_is_donated() -> None:
    made, data = trainer()
    state = made.init(data)
    made.run_chunk(state, data)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_training_lowers_the_loss() -> None:
    made, data = trainer(steps=400, optimizer=OptimizerOptions(learning_rate=1e-2))
    state = made.init(data)
    state, first = made.run_chunk(state, data)
    for _ in range(50):
        state, last = made.run_chunk(state, data)
    assert float(last["loss"].mean()) < float(first["loss"].mean()) - 0.1


def test_em_with_refresh_every_step_trains_like_the_marginal() -> None:
    states = []
    for objective in (ObjectiveOptions(), ObjectiveOptions(name="em")):
        made, data = trainer(objective=objective)
        states.append(made.run_chunk(made.init(data), data)[0])
    chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-3, atol=1e-4)


def test_em_keeps_its_parameters_between_refreshes() -> None:
    made, data = trainer(objective=ObjectiveOptions(name="em", refresh_every=3))
    step = jax.jit(made.step)
    state = made.init(data)
    kept = []
    for _ in range(4):
        before = state.params
        state, _ = step(state, data)
        kept.append((before, state.em_params))
    chex.assert_trees_all_equal(kept[0][0], kept[0][1], kept[1][1], kept[2][1])
    chex.assert_trees_all_equal(kept[3][0], kept[3][1])
    leaves = zip(jax.tree.leaves(kept[2][1]), jax.tree.leaves(kept[3][1]), strict=True)
    assert any(bool((a != b).any()) for a, b in leaves)


def test_the_averaged_teacher_is_kept_from_a_step_on() -> None:
    made, data = trainer(
        optimizer=OptimizerOptions(ema_decay=0.5),
        objective=ObjectiveOptions(name="em", refresh_every=4, refresh_from=2, teacher="averaged"),
    )
    step = jax.jit(made.step)
    state = made.init(data)
    averaged, kept = [], []
    for _ in range(5):
        averaged.append(state.ema_params)
        state, _ = step(state, data)
        kept.append(state.em_params)
    for number in (0, 1, 4):
        chex.assert_trees_all_equal(kept[number], averaged[number])
    chex.assert_trees_all_equal(kept[1], kept[2], kept[3])


def test_the_class_share_follows_what_targets_name() -> None:
    made, data = trainer(
        optimizer=OptimizerOptions(ema_decay=0.9),
        objective=ObjectiveOptions(
            consistency_weight=1.0, teacher="averaged", align_classes=True, temperature=2.0
        ),
    )
    state = made.init(data)
    np.testing.assert_allclose(state.class_share, [0.5, 0.5])
    step = jax.jit(made.step)
    after, metrics = state, {}
    for _ in range(3):  # the first posterior of an untrained head names no class
        before = after
        after, metrics = step(before, data)
        moved = jnp.abs(after.class_share - before.class_share).max()
        assert float(moved) <= 0.0051
    assert float(moved) > 0
    np.testing.assert_allclose(after.class_share.sum(), 1.0, rtol=1e-5)
    assert all(value.shape == () for value in metrics.values())
    one = make_data(np.ones((40, 2), np.float32), np.full(40, -1), parallel.data_mesh())
    named = jax.nn.softmax(MODEL.log_joint(after.ema_params, jnp.ones((1, 2))) / 2.0, -1)[0]
    moved, _ = step(after, one)
    expected = 0.99 * after.class_share + 0.01 * named
    np.testing.assert_allclose(moved.class_share, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ObjectiveOptions(teacher="averagd"), "objective.teacher: expected one of"),
        (lambda: ObjectiveOptions(refresh_from=-1), "objective.refresh_from: expected a number"),
        (lambda: ObjectiveOptions(self_training_weight=1.0), "objective.self_training_weight: exp"),
        (lambda: trainer(objective=ObjectiveOptions(teacher="averaged")), "set optimizer.ema"),
    ],
)
def test_a_teacher_that_cannot_be(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_bad_batch_leaves_the_state_as_it_was() -> None:
    made, data = trainer(optimizer=OptimizerOptions(ema_decay=0.9))
    state = made.init(data)
    step = jax.jit(made.step)
    state, _ = step(state, data)
    poisoned = data._replace(x=jnp.full_like(data.x, jnp.nan))
    after, _ = step(state, poisoned)
    for field in ("params", "opt_state", "ema_params"):
        chex.assert_trees_all_equal(getattr(after, field), getattr(state, field))
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (2, 1, 1)
    healthy, _ = step(after, data)
    assert (int(healthy.skipped), int(healthy.skipped_in_a_row)) == (1, 0)


def test_a_gradient_that_is_not_finite_is_a_bad_batch() -> None:
    def log_joint(params: Any, x: Any) -> Any:
        """Finite, with the gradient 0 / 0."""
        return MODEL.log_joint(params, x) + jnp.sqrt(0.0 * jax.tree.leaves(params)[0].sum())

    model = MODEL._replace(log_joint=log_joint)
    made = make_trainer(model, steps=8, batch_size=16, num_levels=None, mesh=parallel.data_mesh())
    data = make_data(X, Y, parallel.data_mesh())
    state = made.init(data)
    after, metrics = jax.jit(made.step)(state, data)
    assert bool(jnp.isfinite(metrics["loss"]))
    assert int(after.skipped) == 1
    chex.assert_trees_all_equal(after.params, state.params)


def test_a_bad_batch_does_not_put_off_a_teacher_that_is_due() -> None:
    made, data = trainer(objective=ObjectiveOptions(name="em", refresh_every=2))
    step = jax.jit(made.step)
    state = made.init(data)
    for _ in range(2):
        state, _ = step(state, data)
    due = state.params
    state, _ = step(state, data._replace(x=jnp.full_like(data.x, jnp.nan)))
    assert int(state.skipped) == 1
    chex.assert_trees_all_equal(state.em_params, due)


def test_seeds_share_a_compilation_and_nothing_else() -> None:
    made, data = trainer()
    other = make_data(X, Y, parallel.data_mesh(), seed=1)
    losses = []
    for seeded in (data, other, data):
        state = made.init(seeded)
        losses.append(made.run_chunk(state, seeded)[1]["loss"])
    np.testing.assert_array_equal(losses[0], losses[2])
    assert float(jnp.abs(losses[0] - losses[1]).max()) > 1e-3
    assert made.run_chunk._cache_size() == 1  # type: ignore[attr-defined]


def test_ema_follows() -> None:
    made, data = trainer(optimizer=OptimizerOptions(ema_decay=0.5))
    state = made.init(data)
    after, _ = jax.jit(made.step)(state, data)
    decay = 1 / 10
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.params, after.params)
    chex.assert_trees_all_close(after.ema_params, expected, rtol=1e-6)
    assert usable_params(after) is after.ema_params
    late = state._replace(step=jnp.array(1000, jnp.int32))  # the average is young no more
    after, _ = jax.jit(made.step)(late, data)
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, late.params, after.params)
    chex.assert_trees_all_close(after.ema_params, expected, rtol=1e-6)
    plain, data = trainer()
    start = plain.init(data)
    assert usable_params(start) is start.params


def test_draws_are_weighted_and_depend_on_the_key_alone() -> None:
    labels = np.array([0, 1] + [-1] * 8)
    data = make_data(np.zeros((10, 1), np.float32), labels, parallel.data_mesh())
    key = jax.random.key(0)
    rows = draw_rows(key, data, 30_000, 1 / 3)
    assert abs(float((rows < 2).mean()) - 1 / 3) < 0.01
    assert set(np.unique(rows)) == set(range(10))
    np.testing.assert_array_equal(rows, draw_rows(key, data, 30_000, 1 / 3))
    uniform = draw_rows(key, data, 30_000, None)
    assert abs(float((uniform < 2).mean()) - 0.2) < 0.01


def test_padding_is_never_drawn_and_changes_no_draw() -> None:
    x, key = np.zeros((10, 1), np.float32), jax.random.key(0)
    for labels in (np.array([-1, 0, 1] + [-1] * 7), np.zeros(10, int), np.full(10, -1)):
        plain = make_data(x, labels, parallel.data_mesh())
        padded = make_data(x, labels, parallel.data_mesh(), capacity=64)
        assert padded.y.shape == padded.order.shape == (64,)
        for fraction in (None, 0.25):
            drawn = draw_rows(key, padded, 1000, fraction)
            assert drawn.max() < 10
            np.testing.assert_array_equal(drawn, draw_rows(key, plain, 1000, fraction))


def test_other_label_draws_compile_nothing_anew() -> None:
    made, data = trainer(labelled_fraction=0.5)
    state, _ = made.run_chunk(made.init(data), data)
    made.run_chunk(state, make_data(X, np.where(np.arange(40) < 3, 0, -1), parallel.data_mesh()))
    assert made.run_chunk._cache_size() == 1


def test_evaluate_pads_and_leaves_nothing_out() -> None:
    made, data = trainer(eval_batch_size=16)
    params = made.init(data).params
    log_prob, log_posterior = made.evaluate(params, X)
    assert log_prob.shape == (40,)
    assert log_posterior.shape == (40, 2)
    np.testing.assert_allclose(log_prob, MODEL.log_prob(params, X), rtol=1e-4, atol=1e-4)
    expected = MODEL.log_posterior(params, X)
    np.testing.assert_allclose(log_posterior, expected, rtol=1e-3, atol=1e-4)


def test_noise_in_an_evaluation_is_an_objects_own() -> None:
    """Of images that are alike, in batches that are smaller than the set."""
    model = MODEL._replace(log_joint=lambda _, x: jnp.stack([x.sum((1, 2, 3))] * 2, -1))
    images = np.zeros((40, 2, 2, 1), np.uint8)
    scores = []
    for size in (16, 40):
        made = make_trainer(
            model,
            steps=1,
            batch_size=8,
            num_levels=17,
            mesh=parallel.data_mesh(),
            eval_batch_size=size,
        )
        scores.append(made.evaluate({}, images)[0])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)
    assert len(np.unique(scores[0])) == 40


@pytest.mark.parametrize(
    ("schedule", "changes", "expected"),
    [
        ("constant", {}, [1.0, 1.0, 1.0, 1.0]),
        ("linear", {}, [1.0, 0.5, 0.2, 0.0]),
        ("cosine", {}, [1.0, 0.5, 0.095492, 0.0]),
        ("linear", {"warmup_steps": 4}, [0.0, 5 / 6, 2 / 6, 0.0]),
        ("linear", {"decay_share": 0.4}, [1.0, 1.0, 0.5, 0.0]),
        ("linear", {"decay_share": 0.4, "warmup_steps": 5}, [0.0, 1.0, 0.5, 0.0]),
        ("cosine", {"decay_share": 0.8, "warmup_steps": 4}, [0.0, 0.933013, 0.25, 0.0]),
        ("linear", {"decay_share": 0.0}, [1.0, 1.0, 1.0, 1.0]),
        ("constant", {"decay_share": 0.4}, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(schedule: str, changes: dict[str, Any], expected: list[float]) -> None:
    options = OptimizerOptions(learning_rate=1.0, schedule=schedule, **changes)
    transform = make_optimizer(options, steps=10)
    params = {"w": jnp.zeros(())}
    state = transform.init(params)
    rates = []
    for _ in range(11):
        # Adam's update of a constant gradient has length 1.
        updates, state = transform.update({"w": jnp.ones(())}, state, params)
        rates.append(-float(updates["w"]))
    np.testing.assert_allclose([rates[k] for k in (0, 5, 8, 10)], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamax"])
def test_the_second_update_tells_the_optimisers_apart(name: str) -> None:
    """Gradients 10 and 1: Kingma and Ba 2015, algorithms 1 and 2, with their constants."""
    options = OptimizerOptions(name=name, learning_rate=1.0, schedule="constant")
    transform = make_optimizer(options, steps=10)
    params = {"w": jnp.zeros(())}
    state = transform.init(params)
    for gradient in (10.0, 1.0):
        updates, state = transform.update({"w": jnp.array(gradient)}, state, params)
    mean = (0.9 * 0.1 * 10 + 0.1 * 1) / (1 - 0.9**2)
    if name == "adam":
        size = ((0.999 * 0.001 * 100 + 0.001 * 1) / (1 - 0.999**2)) ** 0.5
    else:
        size = max(0.999 * 10, 1)
    np.testing.assert_allclose(-updates["w"], mean / size, rtol=1e-4)


def test_muon_turns_matrices_and_leaves_the_rest_to_adam() -> None:
    """Of every layer by itself; the length is that of an update of Adam's, 0.2 an entry."""
    options = OptimizerOptions(name="muon", learning_rate=1.0, schedule="constant")
    transform = make_optimizer(options, steps=10)
    random = np.random.RandomState(0)
    params = {
        "dense": {"kernel": random.randn(2, 6, 4), "bias": random.randn(2, 4)},  # two layers
        "conv": {"kernel": random.randn(2, 3, 3, 5, 8)},
        "context": {"kernel": random.randn(10, 4)},
        "of nnx": {"layer.kernel": random.randn(6, 4)},
        "lower": random.randn(4, 4),
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    scales = {"kernel": jnp.array([1.0, 1e-3])[:, None, None], "bias": 1.0}
    gradient = {**params, "dense": {k: v * scales[k] for k, v in params["dense"].items()}}
    updates, _ = transform.update(gradient, transform.init(params), params)

    for update in (*updates["dense"]["kernel"], updates["of nnx"]["layer.kernel"]):
        values = np.linalg.svd(update, compute_uv=False) / (0.2 * 6**0.5)
        assert 0.4 < values.min() <= values.max() < 1.4
    of_gradient = np.linalg.svd(params["dense"]["kernel"], compute_uv=False)
    assert of_gradient.max() / of_gradient.min() > 3.5
    for update in updates["conv"]["kernel"]:
        values = np.linalg.svd(update.reshape(45, 8), compute_uv=False) / (0.2 * 45**0.5)
        assert 0.4 < values.min() <= values.max() < 1.4
    first = 0.9 * 0.1 / (1 - 0.9**2) + 1  # of Adam, with Nesterov's momentum, in every entry
    for leaf in (updates["context"]["kernel"], updates["lower"], updates["dense"]["bias"]):
        np.testing.assert_allclose(jnp.abs(leaf), first, rtol=1e-3)


def test_weight_decay_is_coupled_and_clipping_is_off_unless_asked_for() -> None:
    params = {"w": jnp.array([10.0])}
    gradient = {"w": jnp.array([100.0])}

    def first_moment(options: OptimizerOptions) -> float:
        transform = make_optimizer(options, steps=10)
        _, state = transform.update(gradient, transform.init(params), params)
        moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (1,)]
        return 10 * float(moments[0][0])

    np.testing.assert_allclose(first_moment(OptimizerOptions()), 100.0, rtol=1e-5)
    np.testing.assert_allclose(first_moment(OptimizerOptions(weight_decay=0.5)), 105.0, rtol=1e-5)
    np.testing.assert_allclose(first_moment(OptimizerOptions(clip_norm=1.0)), 1.0, rtol=1e-5)
    assert OptimizerOptions().clip_norm == 0.0


def test_a_prior_on_the_parameters_is_shared_by_the_objects() -> None:
    data = make_data(X, Y, parallel.data_mesh(), capacity=64)  # padding is no object

    def first_moment(precision: float) -> Any:
        made, _ = trainer(objective=ObjectiveOptions(prior_precision=precision))
        state = made.init(data)
        moved, _ = jax.jit(made.step)(state, data)
        return state.params, moved.opt_state[0].mu  # 0.1 of the first gradient

    params, without = first_moment(0.0)
    _, with_prior = first_moment(20.0)
    expected = jax.tree.map(lambda mu, p: mu + 0.1 * 20.0 / len(X) * p, without, params)
    chex.assert_trees_all_close(with_prior, expected, rtol=1e-4, atol=1e-6)
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(params)) > 0.1


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (OptimizerOptions, {"name": "sgd"}, "optimizer.name: .* 'adam', 'adamax', 'muon'"),
        (OptimizerOptions, {"schedule": "step"}, "optimizer.schedule: expected one of"),
        (OptimizerOptions, {"learning_rate": -1.0}, "optimizer.learning_rate: .* >= 0.0"),
        (OptimizerOptions, {"learning_rate": float("nan")}, "got nan"),
        (OptimizerOptions, {"decay_share": 4000}, "optimizer.decay_share: .* <= 1.0, got 4000"),
        (OptimizerOptions, {"ema_decay": 1.5}, "optimizer.ema_decay: .* <= 1.0, got 1.5"),
        (ObjectiveOptions, {"name": "elbo"}, "objective.name: expected one of 'sgd', 'em'"),
        (ObjectiveOptions, {"refresh_every": 5}, "set objective.name='em'"),
        (ObjectiveOptions, {"temperature": 0.0}, "objective.temperature"),
        (ObjectiveOptions, {"view_every": 0}, "objective.view_every: expected an integer >= 1"),
        (AugmentOptions, {"shift": -1.0}, "augment.shift"),
        (AugmentOptions, {"at": "mid"}, "augment.at: expected one of 'noise', 'middle'"),
    ],
)
def test_bad_options(options: type, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**changes)


def test_contradictions() -> None:
    with pytest.raises(ValueError, match="optimizer.name: expected 'adam' or 'adamax' for m1m2"):
        make_trainer(
            m1m2((8, 8, 1), 10, m1_steps=1, num_train=40),
            steps=1,
            batch_size=8,
            num_levels=17,
            mesh=parallel.data_mesh(),
            optimizer=OptimizerOptions(name="muon"),
        )
    with pytest.raises(ValueError, match="for them set noise"):
        trainer(augment=AugmentOptions(shift=1.0))
    with pytest.raises(ValueError, match="augment: no term sees these views"):
        trainer(augment=AugmentOptions(noise=0.1))
    trainer(augment=AugmentOptions(noise=0.1), objective=ObjectiveOptions(view_weight=1.0))
    with pytest.raises(ValueError, match="augment.at: expected 'noise', got 'middle'"):
        trainer(augment=AugmentOptions(at="middle"), objective=ObjectiveOptions(view_weight=1.0))
    with pytest.raises(ValueError, match="no term sees second views, got 2"):
        trainer(objective=ObjectiveOptions(view_every=2))
    with pytest.raises(ValueError, match="view_every: expected a divisor of the .* rows"):
        trainer(objective=ObjectiveOptions(consistency_weight=1.0, view_every=7))
    with pytest.raises(ValueError, match="labelled_fraction"):
        trainer(labelled_fraction=1.5)

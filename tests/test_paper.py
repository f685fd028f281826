"""What the paper's model and its rows carry, item by item, against figures worked out by hand.

The networks as a whole are held against the authors' own in test_parity.py.
"""

import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax import parallel
from scnf_jax.bijectors import affine_coupling
from scnf_jax.data import dequantize, mask_labels
from scnf_jax.metrics import bits_per_dim
from scnf_jax.models import paper
from scnf_jax.objectives import marginal_log_likelihood
from scnf_jax.settings import parse_config
from scnf_jax.training import draw_rows, make_data, make_optimizer

SMALL = {"width": 4, "num_blocks": 1, "head_steps": 1, "head_width": 8, "head_blocks": 1}
KEY = jax.random.key(0)
FLOWS = ("glow_sgd", "glow_em", "glow_em_clf", "gmm_sgd", "gmm_em", "gmm_em_clf")


def sigmoid(r: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-r))


class Constant:
    """A conditioner that returns given numbers everywhere."""

    def __init__(self, theta: Any) -> None:
        self.theta = jnp.asarray(theta, jnp.float32)

    def init(self, key: jax.Array, x: jax.Array, context: Any = None) -> dict[str, Any]:
        return {}

    def apply(self, params: Any, x: jax.Array, context: Any = None) -> jax.Array:
        return jnp.broadcast_to(self.theta, (*x.shape[:-1], self.theta.size))


class Linear:
    """A conditioner that multiplies what it sees by its weight."""

    def __init__(self, num_outputs: int) -> None:
        self.num_outputs = num_outputs

    def init(self, key: jax.Array, x: jax.Array, context: Any = None) -> dict[str, Any]:
        return {"weight": jax.random.normal(key, (x.shape[-1], self.num_outputs))}

    def apply(self, params: Any, x: jax.Array, context: Any = None) -> jax.Array:
        return x @ params["weight"]


def table_config(row: str, file: str = "mnist_table") -> dict[str, Any]:
    return importlib.import_module(f"configs.{file}").get_config(row).to_dict()


@pytest.fixture(scope="module")
def fresh() -> tuple[Any, Any, Any]:
    """A narrow paper model, its parameters as initialised, and the images they saw."""
    model = paper(**SMALL)
    x = jax.random.uniform(KEY, (64, 28, 28, 1))
    return model, jax.jit(model.init)(KEY, x), x


def test_input_is_255x_plus_noise_over_256() -> None:
    grey = jnp.array([[[[0.0], [255.0]]]])
    x = dequantize(KEY, grey, 256)
    noise = np.asarray(x) * 256 - np.asarray(grey)
    assert ((noise >= 0) & (noise < 1)).all()


def test_latents_are_588_and_196(fresh: Any) -> None:
    model, params, x = fresh
    latents = jax.eval_shape(lambda p: model.encode(p, x, 3), params)
    assert [z.shape[1:] for z in latents.z_aux] == [(14, 14, 2), (7, 7, 4)]
    assert latents.z_f.shape[1:] == (7, 7, 4)
    assert [z.shape[1:] for z in latents.z_h] == [(98,), (98,)]


@pytest.mark.parametrize("board", [0, 1])
def test_masked_coupling(board: int) -> None:
    coupling = affine_coupling(Constant([0.7, -0.3]), split="checkerboard", swap=board == 1)
    x = np.random.RandomState(0).standard_normal((2, 4, 4, 1)).astype(np.float32)
    passes = np.tile([[0, 1], [1, 0]] if board == 0 else [[1, 0], [0, 1]], (2, 2))[..., None]
    expected = np.where(passes, x, x * sigmoid(np.float32(2.7)) - 0.3)
    z, log_det = coupling.forward({}, jnp.asarray(x))
    np.testing.assert_allclose(z, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_det, -8 * np.log1p(np.exp(-2.7)), rtol=1e-6)


def test_channel_coupling() -> None:
    coupling = affine_coupling(Constant([0.7, -0.3]), swap=True, shift_first=True, epsilon=1e-6)
    x = np.random.RandomState(0).standard_normal((2, 3, 3, 2)).astype(np.float32)
    scale = sigmoid(np.float64(2.7)) + 1e-6
    z, log_det = coupling.forward({}, jnp.asarray(x))
    np.testing.assert_allclose(z[..., 0], (x[..., 0] - 0.3) * scale, rtol=1e-6)
    np.testing.assert_array_equal(z[..., 1], x[..., 1])
    np.testing.assert_allclose(log_det, 9 * np.log(scale), rtol=1e-6)


def test_the_first_half_is_mapped_given_the_second_and_then_back(fresh: Any) -> None:
    _, params, _ = fresh
    first, second = params["body"][1][0][5][1]
    # 4 channels: each network sees 2 of them, and gives a scale and a shift for the other 2.
    for net in (first, second):
        assert net["params"]["input"]["kernel"].shape == (2, 3, 3, 2, 4)  # of both steps
        assert net["params"]["output"]["kernel"].shape == (2, 3, 3, 4, 4)

    module = importlib.import_module("scnf_jax.models.paper")
    pair = module._channel_coupling(4, Linear)
    rng = np.random.RandomState(0)
    weights = rng.standard_normal((2, 2, 4)).astype(np.float32)
    x = rng.standard_normal((3, 4)).astype(np.float32)

    def mapped(half: np.ndarray, seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
        raw, shift = np.split(seen @ weight, 2, -1)
        return (half + shift) * (sigmoid(raw + 2) + 1e-6)

    front = mapped(x[:, :2], x[:, 2:], weights[0])
    back = mapped(x[:, 2:], front, weights[1])
    z, _ = pair.forward(({"weight": weights[0]}, {"weight": weights[1]}), jnp.asarray(x))
    np.testing.assert_allclose(z, np.concatenate([front, back], -1), rtol=1e-5, atol=1e-6)


def test_couplings_start_with_zero_networks_and_linear_maps_at_the_identity(fresh: Any) -> None:
    _, params, _ = fresh
    flat = jax.tree_util.tree_leaves_with_path(params)
    outputs = [leaf for path, leaf in flat if "'output'" in str(path)]
    weights = [leaf for path, leaf in flat if str(path[-1]) == "['weight']"]
    assert len(outputs) == 2 * (9 + 2 * 3 + 2 * 2)
    assert all(not leaf.any() for leaf in outputs)
    assert len(weights) == 9 + 3 + 2
    for leaf in weights:
        np.testing.assert_array_equal(leaf, np.broadcast_to(np.eye(leaf.shape[-1]), leaf.shape))


def test_actnorm_starts_at_the_first_batch_with_the_unbiased_deviation(fresh: Any) -> None:
    _, params, x = fresh
    # The first step: W is the identity and the coupling a sigmoid(2) on half of the pixels.
    h = np.log((0.95 * x + 0.025) / (1 - 0.95 * x - 0.025))
    board = np.indices((28, 28)).sum(0)[..., None] % 2
    h = np.where(board == 1, h, h * sigmoid(np.float64(2.0)))
    actnorm = params["body"][1][0][0][2]
    np.testing.assert_allclose(actnorm["bias"], h.mean(), rtol=1e-4)
    np.testing.assert_allclose(
        actnorm["log_scale"], -np.log(h.std(ddof=1) + 1e-6), rtol=1e-4, atol=1e-5
    )


def test_priors_start_at_softplus_of_0_and_are_learned(fresh: Any) -> None:
    model, params, x = fresh
    raw = jax.tree.leaves(params["base"])
    assert sum(leaf.size for leaf in raw) == 588 + 196
    assert all(not leaf.any() for leaf in raw)
    label = jnp.zeros(4, jnp.int32)
    moved = params | {"label_embedding": params["label_embedding"] + 0.1}
    moved = jax.tree.map(lambda leaf: leaf + 0.01, moved)
    grads = jax.jit(jax.grad(lambda p: model.log_prob(p, x[:4], label).sum()))(moved)
    assert all(leaf.any() for leaf in jax.tree.leaves(grads["base"]))
    assert grads["label_embedding"][0].any(), "the embedding is trained"


def test_label_embedding_starts_at_the_identity(fresh: Any) -> None:
    np.testing.assert_array_equal(fresh[1]["label_embedding"], np.eye(10))


def test_class_probabilities_are_the_frequencies_of_a_stratified_draw(fresh: Any) -> None:
    """log p(y) is that of 10 labels in 100; log p(z) that of deviations softplus(0)."""
    y = np.repeat(np.arange(10), 600)
    for seed in range(3):
        labels = mask_labels(y, 100, seed, 10)
        np.testing.assert_array_equal(np.bincount(labels[labels >= 0], minlength=10), 10)

    model, params, x = fresh
    (*z_aux, z_f), body_log_det = model.body.forward(params["body"], x[:4])
    z_h, head_log_det = model.head.forward(params["head"], z_f, params["label_embedding"][:1])
    latents = np.concatenate([z.reshape(4, -1) for z in (*z_aux, *z_h)], -1)
    deviation = math.log(2.0)
    log_normal = -0.5 * (latents / deviation) ** 2 - math.log(deviation * math.sqrt(2 * math.pi))
    # The networks are 0 at the start, so that every label is as likely as the first.
    expected = body_log_det + head_log_det + log_normal.sum(-1) + math.log(10 / 100)
    log_joint = model.log_joint(params, x[:4])
    np.testing.assert_allclose(log_joint, np.tile(expected[:, None], 10), atol=0.02)


def test_log_p_of_x_given_y_has_the_gradient_of_log_p_of_x_and_y() -> None:
    """The authors leave the fixed log p(y) of labelled rows out of the loss.

    So only the labelled class moves, by one nat for each; without a label all do, by p(y|x).
    """
    log_joint = 2.0 * np.random.RandomState(0).standard_normal((4, 10)).astype(np.float32)
    posterior = np.exp(log_joint) / np.exp(log_joint).sum(-1, keepdims=True)
    label = np.array([3, 0, -1, 5])
    expected = np.where(label[:, None] < 0, posterior, np.eye(10)[label])
    got = jax.grad(lambda j: marginal_log_likelihood(j, jnp.asarray(label)).sum())(log_joint)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_third_of_each_batch_is_labelled() -> None:
    """Weights .5/100 for each labelled and 1/59,900 for each other object: .5 / 1.5."""
    fraction = parse_config(table_config("glow_sgd")).labelled_fraction
    y = np.where(np.arange(6000) < 100, np.arange(6000) % 10, -1)
    data = make_data(np.zeros((6000, 1), np.float32), y, parallel.data_mesh())
    rows = draw_rows(KEY, data, 30_000, fraction)
    assert float((data.y[rows] >= 0).mean()) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("row", FLOWS)
def test_rows_train_with_the_authors_settings(row: str) -> None:
    options = parse_config(table_config(row))
    assert options.batch_size == 256
    assert options.steps * 256 == pytest.approx(500 * 60_000, rel=1e-5)
    assert options.num_labelled == 100
    assert options.optimizer.clip_norm == options.optimizer.ema_decay == 0
    assert not options.augment.of_images
    assert options.model["head"] == row.split("_")[0]
    assert options.objective.name == row.split("_")[1]
    assert (options.objective.classification_weight > 0) == row.endswith("clf")
    assert (options.objective.refresh_every > 1) == ("em" in row)


def test_the_optimiser_is_adamax_with_coupled_l2_and_linear_decay() -> None:
    options = parse_config(table_config("glow_sgd"))
    transform = make_optimizer(options.optimizer, options.steps)
    weight, grad = np.float64(2.0), np.float64(0.5)
    state = transform.init(jnp.array(weight))
    first = second = 0.0
    for step in range(3):
        updates, state = transform.update(jnp.array(grad), state, jnp.array(weight))
        total = grad + 1e-5 * weight
        first = 0.9 * first + 0.1 * total
        second = max(0.999 * second, abs(total))
        rate = 1e-3 * (1 - step / options.steps)
        expected = -rate * first / (1 - 0.9 ** (step + 1)) / second
        np.testing.assert_allclose(updates, expected, rtol=1e-4)


def test_bits_per_dim_is_8_minus_nats_over_784_ln_2() -> None:
    assert bits_per_dim(1000.0, 784, 256) == pytest.approx(8 - 1000 / (784 * math.log(2)))


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected head 'glow' or 'gmm', got 'vae'"):
        paper(head="vae")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="divisible by 4"):
        paper((30, 30, 1))
    with pytest.raises(ValueError, match="expected :ROW of glow_sgd.*got :glow"):
        table_config("glow")

"""The networks: shapes, context, starts, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from scnf_jax.conditioners import MLP, ActNorm, Conv3x3, ResidualConv, ResidualMLP

from .bijectors.registry import perturbed

KEY = jax.random.key(0)
NETWORKS = {
    "mlp": (MLP(6, hidden=(8, 8)), (5, 3)),
    "mlp_on_images": (MLP(6, hidden=(8,)), (5, 4, 4, 3)),
    "residual_mlp": (ResidualMLP(6, width=8, num_blocks=2, normalize=True), (5, 3)),
    "residual_conv": (ResidualConv(6, width=8, num_blocks=1), (5, 4, 4, 3)),
    "glow_conv": (ResidualConv(6, width=8, num_blocks=0, num_pointwise=1), (5, 4, 4, 3)),
    "residual_conv_reflect": (
        ResidualConv(6, width=8, num_blocks=1, padding="reflect", normalize=True),
        (5, 4, 4, 3),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shape_start_and_context(name: str) -> None:
    network, shape = NETWORKS[name]
    x = jax.random.normal(KEY, shape)
    context = jax.random.normal(jax.random.key(1), (shape[0], 4))
    params = network.init(KEY, x, context)
    assert all(isinstance(key, str) for key in params["params"])
    start = network.apply(params, x, context)
    assert start.shape == (*shape[:-1], 6)
    np.testing.assert_array_equal(start, 0.0)

    params = perturbed(params)
    run = jax.jit(network.apply)
    out = run(params, x, context)
    assert float(jnp.abs(out - run(params, x, context[::-1])).max()) > 1e-3
    one = run(params, x, context[:1])
    tiled = run(params, x, jnp.broadcast_to(context[:1], context.shape))
    np.testing.assert_allclose(one, tiled, rtol=1e-5, atol=1e-6)
    plain = network.init(KEY, x)
    assert network.apply(plain, x).shape == start.shape


def test_first_layer_adds_the_context() -> None:
    """``W_x x + W_c context``, worked out by hand."""
    x, context = jnp.array([[1.0, 2.0]]), jnp.array([[3.0]])
    params = {
        "input": {"kernel": jnp.array([[1.0], [10.0]]), "bias": jnp.array([0.5])},
        "context": {"kernel": jnp.array([[100.0]])},
        "output": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([1.0])},
    }
    out = MLP(1, hidden=(1,)).apply({"params": params}, x, context)
    np.testing.assert_allclose(out, [[2 * (1 + 20 + 0.5 + 300) + 1]])


@pytest.mark.parametrize(
    ("channels", "features"),
    [(3, 2), (3, 4), (20, 18), (18, 20)],  # few channels, many; fewer features than channels, more
)
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_conv3x3_is_a_convolution(padding: str, channels: int, features: int) -> None:
    x = jax.random.normal(KEY, (2, 5, 6, channels))
    layer = Conv3x3(features, padding=padding)
    params = perturbed(layer.init(KEY, x))
    mode = "constant" if padding == "zeros" else "reflect"
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    expected = jax.lax.conv_general_dilated(
        padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(params, x), expected + bias, rtol=1e-4, atol=1e-5)


def test_another_padding_is_refused() -> None:
    with pytest.raises(
        ValueError, match="padding: expected one of 'zeros', 'reflect', got 'wrong'"
    ):
        Conv3x3(2, padding="wrong").init(KEY, jnp.zeros((1, 4, 4, 2)))


def test_off_cpu_it_runs_as_xla_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jax.random.normal(KEY, (2, 5, 6, 3))
    layer = Conv3x3(4)
    params = layer.init(KEY, x)
    patches = layer.apply(params, x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = str(jax.make_jaxpr(layer.apply)(params, x))
    assert "conv_general_dilated" in program
    np.testing.assert_allclose(layer.apply(params, x), patches, rtol=1e-4, atol=1e-5)


def test_actnorm_in_a_network_normalizes_its_first_batch() -> None:
    h = 3.0 + 2.0 * jax.random.normal(KEY, (64, 4))
    out = ActNorm().apply(ActNorm().init(KEY, h), h)
    np.testing.assert_allclose(out.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(out.std(0, ddof=1), 1.0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_computes_low_and_keeps_parameters_high(name: str) -> None:
    network, shape = NETWORKS[name]
    low = network.clone(dtype=jnp.bfloat16)
    x = jax.random.normal(KEY, shape)
    params = perturbed(low.init(KEY, x))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out = low.apply(params, x)
    assert out.dtype == jnp.bfloat16
    exact = network.apply(params, x)
    assert float(jnp.abs(out - exact).max()) < 0.05 * float(jnp.abs(exact).max()) + 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_float32_in_a_float64_program(name: str) -> None:
    network, shape = NETWORKS[name]
    with jax.enable_x64(True):
        x = jax.random.normal(KEY, shape, jnp.float32)
        params = network.init(KEY, x, jnp.ones((1, 4), jnp.float32))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_batch_stays_empty(name: str) -> None:
    network, shape = NETWORKS[name]
    params = network.init(KEY, jnp.zeros(shape))
    assert network.apply(params, jnp.zeros((0, *shape[1:]))).shape == (0, *shape[1:-1], 6)


def test_any_linen_module_fits() -> None:
    from scnf_jax import bijectors as bj

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
            return nn.Dense(4)(jnp.tanh(nn.Dense(8)(x)))

    layer = bj.affine_coupling(Net())
    x = jax.random.normal(KEY, (5, 4))
    params = layer.init(KEY, x)
    z, log_det = layer.forward(params, x)
    back, _ = layer.inverse(params, z)
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-5)
    assert log_det.shape == (5,)

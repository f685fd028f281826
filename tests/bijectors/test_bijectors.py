"""Known values, starts and errors of single bijectors."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scnf_jax import bijectors as bj
from scnf_jax.bijectors.mixture import mixture_transform
from scnf_jax.bijectors.spline import spline_transform

from .registry import conv, mlp, perturbed

KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), shape)


def test_actnorm_normalizes_its_first_batch() -> None:
    x = 5.0 + 3.0 * normal(16, 4, 4, 2)
    layer = bj.actnorm()
    z, log_det = layer.forward(layer.init(KEY, x), x)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(z.std((0, 1, 2), ddof=1), 1.0, atol=1e-4)
    deviation = np.asarray(x).std((0, 1, 2), ddof=1)
    np.testing.assert_allclose(log_det, -16 * np.log(deviation).sum() * np.ones(16), rtol=1e-4)


def test_actnorm_leaves_the_scale_of_a_constant_channel() -> None:
    x = jnp.concatenate([jnp.full((8, 1), 7.0), normal(8, 1)], -1)
    layer = bj.actnorm()
    params = layer.init(KEY, x)
    assert float(params["log_scale"][0]) == 0.0
    np.testing.assert_allclose(layer.forward(params, x)[0][:, 0], 0.0)


def test_actnorm_of_one_object() -> None:
    params = bj.actnorm().init(KEY, normal(1, 3))
    chex.assert_tree_all_finite(params)


@pytest.mark.parametrize("kind", ["full", "lu", "qr", "householder"])
def test_linear_identity_start(kind: str) -> None:
    x = normal(4, 5)
    layer = bj.invertible_linear(kind, start="identity")
    z, log_det = layer.forward(layer.init(KEY, x), x)
    np.testing.assert_allclose(z, x, atol=1e-5)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "lu", "qr", "householder"])
def test_linear_rotation_start_keeps_lengths_and_mixes(kind: str) -> None:
    x = normal(4, 6)
    layer = bj.invertible_linear(kind)
    z, log_det = layer.forward(layer.init(KEY, x), x)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-5)
    assert float(jnp.abs(z - x).max()) > 0.1


@pytest.mark.parametrize("factor", [0.0, 0.01])
def test_householder_stays_orthogonal_when_decayed(factor: float) -> None:
    """Weight decay may shrink the vectors, and must not touch the determinant."""
    x = normal(4, 6)
    layer = bj.invertible_linear("householder")
    params = jax.tree.map(lambda leaf: factor * leaf, layer.init(KEY, x))
    z, log_det = layer.forward(params, x)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(log_det, 0.0)


def test_chain_applies_the_first_first() -> None:
    layer = bj.chain(bj.permute((1, 2, 0)), bj.reverse())
    x = jnp.arange(3.0)[None]
    z, _ = layer.forward(layer.init(KEY, x), x)
    np.testing.assert_array_equal(z, [[0.0, 2.0, 1.0]])


def test_repeat_equals_a_chain() -> None:
    x = normal(6, 4)
    step = bj.chain(bj.actnorm(), bj.affine_coupling(mlp(4)))
    repeated = bj.repeat(step, 3)
    params = perturbed(repeated.init(KEY, x))
    layers = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(3))
    expected = bj.chain(step, step, step).forward(layers, x)
    chex.assert_trees_all_close(repeated.forward(params, x), expected, rtol=1e-5)


def test_repeat_compiles_the_same_program_at_any_depth() -> None:
    def operations(depth: int) -> int:
        layer = bj.repeat(bj.chain(bj.actnorm(), bj.affine_coupling(mlp(4))), depth)
        params = layer.init(KEY, normal(6, 4))
        return len(str(jax.make_jaxpr(layer.forward)(params, normal(6, 4))).splitlines())

    assert operations(2) == operations(64)


def test_repeat_initialises_every_layer_on_what_it_sees() -> None:
    x = 10.0 + 4.0 * normal(32, 3)
    layer = bj.repeat(bj.actnorm(), 2)
    params = layer.init(KEY, x)
    np.testing.assert_allclose(params["bias"][0], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(params["bias"][1], 0.0, atol=1e-5)


def test_multiscale_shapes_and_order() -> None:
    x = normal(2, 8, 8, 1)
    layer = bj.multiscale(bj.squeeze(), bj.squeeze(), bj.identity())
    z, log_det = layer.forward(layer.init(KEY, x), x)
    assert [leaf.shape for leaf in z] == [(2, 4, 4, 2), (2, 2, 2, 4), (2, 2, 2, 4)]
    # The first half leaves: of each 2x2 block, the upper row.
    np.testing.assert_array_equal(z[0][..., 0], x[:, ::2, ::2, 0])
    np.testing.assert_array_equal(log_det, 0.0)


def test_squeeze_layout() -> None:
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    z, _ = bj.squeeze().forward({}, x)
    np.testing.assert_array_equal(z[0, 0, 1], [2.0, 3.0, 6.0, 7.0])


def test_logit_known_values() -> None:
    x = jnp.array([[0.0, 0.5, 0.25]])
    z, log_det = bj.logit(0.05).forward({}, x)
    p = 0.95 * np.asarray(x) + 0.025
    np.testing.assert_allclose(z, np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_det, np.log(0.95 / (p * (1 - p))).sum(-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "scale"),
    [
        (bj.affine_coupling(mlp(4)), 1 / (1 + np.exp(-2.0))),
        (bj.affine_coupling(mlp(4), scale="exp"), 1.0),
        (bj.additive_coupling(mlp(2)), 1.0),
        (bj.spline_coupling(mlp(2 * 23)), 1.0),
    ],
    ids=["sigmoid", "exp", "additive", "spline"],
)
def test_couplings_start_simple(layer: bj.Bijector, scale: float) -> None:
    """The zero last layer gives the identity; with the sigmoid a constant scale."""
    x = normal(6, 4)
    z, log_det = layer.forward(layer.init(KEY, x), x)
    np.testing.assert_allclose(z, x * np.array([1, 1, scale, scale]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_det, 2 * np.log(scale), atol=1e-5)


def test_checkerboard_mask() -> None:
    x = normal(2, 3, 3, 1)
    layer = bj.affine_coupling(conv(2), split="checkerboard")
    params = perturbed(layer.init(KEY, x))
    z, _ = layer.forward(params, x)
    passes = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    np.testing.assert_array_equal(np.asarray(z - x)[:, passes], 0.0)
    assert (np.asarray(z - x)[:, ~passes] != 0.0).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(-8, 8), st.integers(0, 10_000))
def test_spline_is_monotone_and_inverts(value: float, seed: int) -> None:
    with jax.enable_x64(True):
        transform = spline_transform(6, 5.0)
        theta = jnp.asarray(3.0 * np.random.RandomState(seed).randn(1, 17, 1))
        x = jnp.array([[value]])
        z, log_slope = transform.forward(theta, x)
        above, _ = transform.forward(theta, x + 0.05)
        assert float(above[0, 0]) > float(z[0, 0])
        back, inverse_log_slope = transform.inverse(theta, z)
        assert abs(float(back[0, 0]) - value) < 1e-8
        assert abs(float(log_slope[0, 0] + inverse_log_slope[0, 0])) < 1e-6


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_spline_of_zeros_is_the_identity_and_any_has_slope_1_at_its_ends(direction: str) -> None:
    with jax.enable_x64(True):
        apply = jax.jit(getattr(spline_transform(6, 5.0), direction))
        x = np.linspace(-6.0, 6.0, 80)[:, None]
        y, log_slope = apply(jnp.zeros((80, 17, 1)), x)
        np.testing.assert_allclose(y, x, atol=1e-12)
        np.testing.assert_allclose(log_slope, 0.0, atol=1e-12)

        theta = np.random.RandomState(0).randn(80, 17, 1)
        ends = np.repeat([-5 + 1e-6, 5 - 1e-6, -5.5, 5.5], 20)[:, None]
        y, log_slope = apply(theta, ends)
        np.testing.assert_allclose(y, ends, atol=1e-5)
        np.testing.assert_allclose(log_slope, 0.0, atol=1e-3)


def test_a_spline_differentiates_its_inverse_at_knots() -> None:
    """A fresh spline is the identity, and 0, where latents are densest, one of its knots."""
    transform = spline_transform(8, 5.0)
    knots = jnp.linspace(-3.75, 3.75, 7)[:, None]
    slope = jax.grad(lambda z: transform.inverse(jnp.zeros((7, 23, 1)), z)[0].sum())(knots)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-5)


def test_a_mixture_has_second_derivatives_of_its_inverse() -> None:
    with jax.enable_x64(True):
        transform = mixture_transform(2)
        theta = jnp.asarray(np.random.RandomState(0).randn(8, 1))

        def forward(x: jax.Array) -> jax.Array:
            return transform.forward(theta, x[None])[0][0]

        def inverse(z: jax.Array) -> jax.Array:
            return transform.inverse(theta, z[None])[0][0]

        x = jnp.array(0.3)
        first, second = jax.grad(forward)(x), jax.grad(jax.grad(forward))(x)
        found = jax.grad(jax.grad(inverse))(forward(x))
        np.testing.assert_allclose(found, -second / first**3, rtol=1e-9)
        log_slope = jax.grad(lambda z: transform.inverse(theta, z[None])[1][0])
        np.testing.assert_allclose(log_slope(forward(x)), -second / first**2, rtol=1e-9)


def test_mixture_inverse_gradient_is_implicit_gradient() -> None:
    """d inverse / d theta = -(d forward / d theta) / (d forward / d x)."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.RandomState(0).randn(5, 2))
        layer = bj.mixture_coupling(mlp(11), num_components=3)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), perturbed(layer.init(KEY, x)))
        z, _ = layer.forward(params, x)
        forward = jax.jacfwd(lambda p: layer.forward(p, x)[0])(params)
        inverse = jax.jacfwd(lambda p: layer.inverse(p, z)[0])(params)
        rows = jnp.arange(5)
        slope = jax.jacfwd(lambda v: layer.forward(params, v)[0])(x)[rows, 1, rows, 1]
        for dz, dx in zip(jax.tree.leaves(forward), jax.tree.leaves(inverse), strict=True):
            expected = -dz[:, 1] / slope.reshape(-1, *(1,) * (dz.ndim - 2))
            np.testing.assert_allclose(dx[:, 1], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bj.chain(), "chain: expected at least one"),
        (lambda: bj.multiscale(), "multiscale: expected at least one"),
        (lambda: bj.repeat(bj.actnorm(), 0), "repeat: expected num >= 1, got 0"),
        (lambda: bj.squeeze(1), "squeeze: expected factor >= 2, got 1"),
        (lambda: bj.logit(1.0), "logit: expected alpha"),
        (lambda: bj.permute((0, 0)), "permute: expected each of 0..1 once"),
        (lambda: bj.invertible_linear("svd"), "expected kind"),
        (lambda: bj.invertible_linear("full", "random"), "expected start"),
        (lambda: bj.affine_coupling(mlp(2), scale="tanh"), "expected scale"),
        *(
            (
                lambda m=m: bj.affine_coupling(mlp(2), max_log_scale=m),
                f"max_log_scale: .* > 0, got {m}",
            )
            for m in (0.0, -1.0, np.nan, np.inf)
        ),
        *(
            (lambda b=b: bj.spline_coupling(mlp(2), bound=b), f"bound: .* number > 0, got {b}")
            for b in (0.0, np.nan, np.inf)
        ),
        (lambda: bj.affine_coupling(mlp(2), epsilon=-1.0), "affine_coupling: epsilon: expected"),
        (lambda: bj.actnorm(np.nan), "actnorm: epsilon: expected a number >= 0.0, got nan"),
        (
            lambda: bj.invertible_linear("qr", num_reflections=-1),
            "num_reflections: expected an int",
        ),
        (lambda: bj.affine_coupling(mlp(2), split="rows"), "expected split"),
        (lambda: bj.spline_coupling(mlp(2), num_bins=1), "expected 2 <= num_bins"),
        (lambda: bj.mixture_coupling(mlp(2), num_components=0), "num_components >= 1"),
    ],
)
def test_bad_settings(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (bj.squeeze(), (2, 3, 4, 1), r"squeeze: expected .* got \(2, 3, 4, 1\)"),
        (bj.flatten((2, 2)), (2, 4), r"flatten: expected .*\[batch, 2, 2\], got \(2, 4\)"),
        (bj.permute((1, 0)), (2, 3), r"permute: expected .*2\], got \(2, 3\)"),
        (bj.multiscale(bj.identity(), bj.identity()), (2, 3), "even C"),
        (
            bj.multiscale(bj.multiscale(bj.identity(), bj.identity()), bj.identity()),
            (2, 8),
            "multiscale: expected one array .* got 2",
        ),
        (
            bj.repeat(bj.squeeze(), 2),
            (2, 4, 4, 1),
            r"repeat: .*\[2, 4, 4, 1\], got .*\[2, 2, 2, 4\]",
        ),
        (bj.actnorm(), (0, 3), r"actnorm: expected .* objects to start from, got \(0, 3\)"),
        (bj.affine_coupling(mlp(2)), (2, 1), "C >= 2"),
        (bj.affine_coupling(mlp(2), split="checkerboard"), (2, 4), r"\[batch, H, W, C\]"),
        (bj.affine_coupling(mlp(3)), (2, 4), "expected 4 output channels .* got 3"),
        (bj.conditional_shift(), (2, 4), "expected a context"),
    ],
)
def test_shapes_that_do_not_fit(layer: bj.Bijector, shape: tuple[int, ...], message: str) -> None:
    def trace(x: jax.Array) -> object:
        return layer.forward(layer.init(KEY, x), x)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(trace, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("layer", "seen", "given", "message"),
    [
        (bj.actnorm(), (3, 4), (3, 1), r"actnorm: expected x of shape \[batch, ..., 4\], got"),
        (bj.invertible_linear("qr"), (3, 4), (3, 2), r"invertible_linear: .* \[batch, ..., 4\]"),
        (bj.conditional_shift(), (3, 4), (3, 1), r"conditional_shift: .* \[batch, 4\], got"),
    ],
)
def test_shapes_other_than_init_saw(
    layer: bj.Bijector, seen: tuple[int, ...], given: tuple[int, ...], message: str
) -> None:
    context = jnp.ones((1, 2))
    params = layer.init(KEY, jax.random.normal(KEY, seen), context)
    for direction in (layer.forward, layer.inverse):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(direction, params, jnp.zeros(given), context)


class Pooled(NamedTuple):
    """A conditioner of the whole image: the same parameters everywhere."""

    keepdims: bool

    def init(self, key: jax.Array, x: jax.Array, context: jax.Array | None = None) -> Any:
        return {}

    def apply(self, params: Any, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        return jnp.tile(x.mean((1, 2), keepdims=self.keepdims), 2)


def test_a_conditioner_may_give_the_same_everywhere_and_says_so_by_its_shape() -> None:
    x = normal(4, 4, 4, 2)  # as many objects as columns
    layer = bj.affine_coupling(Pooled(keepdims=True))
    z, log_det = layer.forward({}, x)
    jacobian = jax.jacfwd(lambda v: layer.forward({}, v[None])[0].ravel())(x[0])
    expected = jnp.linalg.slogdet(jacobian.reshape(32, 32))[1]
    np.testing.assert_allclose(log_det[0], expected, rtol=1e-5)
    np.testing.assert_allclose(layer.inverse({}, z)[0], x, atol=1e-5)
    with pytest.raises(ValueError, match=r"output of shape \(4, 4, 4, 2\), .* got \(4, 2\)"):
        bj.affine_coupling(Pooled(keepdims=False)).forward({}, x)


@pytest.mark.parametrize("memory", ["store", "recompute", "invert"])
def test_what_repeat_maps_keeps_its_dtype(memory: str) -> None:
    layer, x = bj.repeat(bj.actnorm(), 2, memory=memory), normal(4, 2)
    params = layer.init(KEY, x)
    with pytest.raises(ValueError, match=r"repeat: .* bfloat16\[4, 2\], got float32\[4, 2\]"):
        layer.forward(params, x.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match=r"repeat: .* int32\[4, 2\], got float32\[4, 2\]"):
        layer.init(KEY, x.astype(jnp.int32))


def repeated(memory: str, num: int, unroll: int = 1) -> bj.Bijector:
    step = bj.chain(bj.actnorm(), bj.invertible_linear("lu"), bj.affine_coupling(mlp(4)))
    return bj.repeat(step, num, unroll, memory)


@pytest.mark.parametrize("memory", ["recompute", "invert"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "inverse"])
def test_repeat_has_the_same_gradients_whatever_it_keeps(memory: str, backwards: bool) -> None:
    """Of parameters, objects and contexts that are vmapped, as labels are."""
    x, contexts = normal(6, 4), jnp.eye(3)
    params = perturbed(repeated("store", 5).init(KEY, x, contexts[:1]))

    def gradients(kept: str) -> tuple[jax.Array, object]:
        layer = repeated(kept, 5)
        apply = layer.inverse if backwards else layer.forward

        def total(params: object, x: jax.Array, contexts: jax.Array) -> jax.Array:
            z, log_det = jax.vmap(lambda c: apply(params, x, c[None]))(contexts)
            return jnp.sum(jnp.sin(z)) + jnp.sum(jnp.cos(log_det))

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(params, x, contexts)

    chex.assert_trees_all_close(gradients(memory), gradients("store"), rtol=1e-4, atol=1e-4)


def test_what_repeat_keeps_decides_its_memory() -> None:
    x = normal(64, 4)

    def temporary(memory: str, num: int, unroll: int = 1) -> int:
        layer = repeated(memory, num, unroll)
        params = layer.init(KEY, x)
        gradient = jax.grad(lambda x: jnp.sum(layer.forward(params, x)[1]))
        return jax.jit(gradient).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary("invert", 32) < 1.2 * temporary("invert", 4)
    assert temporary("store", 32) > 4.0 * temporary("store", 4)
    assert temporary("recompute", 32) < 0.7 * temporary("store", 32)
    assert temporary("recompute", 32, 32) == temporary("recompute", 32)


def test_an_integer_context_has_no_gradient() -> None:
    step = bj.affine_coupling(mlp(4))
    by_number = step._replace(
        init=lambda key, x, c=None: step.init(key, x, jax.nn.one_hot(c, 3)),
        forward=lambda params, x, c=None: step.forward(params, x, jax.nn.one_hot(c, 3)),
        inverse=lambda params, z, c=None: step.inverse(params, z, jax.nn.one_hot(c, 3)),
    )
    x, context = normal(2, 4), jnp.array([0, 2])

    def gradient(memory: str) -> object:
        layer = bj.repeat(by_number, 3, memory=memory)
        params = perturbed(layer.init(KEY, x, context))
        return jax.grad(lambda p: layer.forward(p, x, context)[1].sum())(params)

    chex.assert_trees_all_close(gradient("invert"), gradient("store"), rtol=1e-4, atol=1e-5)


def test_one_level_is_that_level() -> None:
    level = bj.affine_coupling(mlp(4))
    assert bj.multiscale(level) is level


def test_gaussianization_of_independent_levels_is_exact() -> None:
    """Under a normal z the density of a level is its smoothed share times the number of bins."""
    levels = np.random.RandomState(0).choice(4, (200, 3), p=[0.9, 0.07, 0.02, 0.01])
    noise = np.random.RandomState(1).rand(200, 3)
    x = jnp.asarray((levels + noise) / 4, jnp.float32)
    layer = bj.marginal_gaussianization(4, prior_count=10.0)
    params = layer.init(KEY, x)
    z, log_det = layer.forward(params, x)

    counts = np.stack([np.bincount(column, minlength=4) for column in levels.T])
    common = (counts.sum(0) + 1) / (counts.sum() + 4)
    share = (counts + 10 * common) / 210
    expected = np.log(4 * np.take_along_axis(share, levels.T, 1)).sum(0)
    log_normal = jax.scipy.stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(log_normal + log_det, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(layer.inverse(params, z)[0], x, atol=2e-5)
    assert float(jnp.abs(z.mean())) < 0.1
    assert float(jnp.abs(z.std() - 1)) < 0.1


def test_gaussianization_keeps_rare_levels_at_either_end() -> None:
    layer = bj.marginal_gaussianization(256)
    params = {"logits": jnp.zeros((2, 256)).at[0, 0].set(11.0).at[1, 255].set(11.0)}
    levels = jnp.repeat(jnp.arange(256.0)[:, None], 2, 1)
    z, _ = layer.forward(params, (levels + 0.5) / 256)
    np.testing.assert_array_equal(jnp.floor(256 * layer.inverse(params, z)[0]), levels)


def test_gaussianization_maps_back_what_lies_beside_a_frequent_level() -> None:
    layer = bj.marginal_gaussianization(256)
    params = {"logits": jnp.full((1, 256), -16.0).at[0, 0].set(0.0)}
    x = (1 + jnp.linspace(0.02, 0.98, 49)[:, None]) / 256
    z, log_det = layer.forward(params, x)
    again, other = layer.inverse(params, z)
    np.testing.assert_allclose(256 * again, 256 * x, atol=0.01)
    np.testing.assert_allclose(log_det, -other, atol=1e-3)


def test_gaussianization_differentiates_its_histograms_at_both_ends() -> None:
    layer = bj.marginal_gaussianization(4)

    def gradient(x: float, dtype: type[np.floating]) -> np.ndarray:
        params = {"logits": jnp.zeros((1, 4), dtype)}
        point = jnp.full((1, 1), x, dtype)
        return np.asarray(jax.grad(lambda p: layer.forward(p, point)[0].sum())(params)["logits"])

    with jax.enable_x64(True):
        for x in (2.0**-18, 0.3, 1 - 2.0**-18):  # 4.5 standard deviations out, at either end
            expected = gradient(x, np.float64)
            np.testing.assert_allclose(gradient(x, np.float32), expected, rtol=1e-3)


def test_gaussianization_maps_back_what_is_far_out() -> None:
    """As samples of a model may be; in float64 both ends are fine enough to tell all of them."""
    with jax.enable_x64(True):
        z = jnp.array([-30.0, -9.0, -8.2, -8.0, -3.0, 3.0, 8.0, 8.2, 9.0, 30.0])[:, None]
        layer = bj.marginal_gaussianization(4)
        params = {"logits": jnp.zeros((1, 4), jnp.float64)}
        x, log_det = layer.inverse(params, z)
        assert bool(jnp.all(jnp.diff(x[:, 0]) > 0))
        assert float(x[0, 0]) < 0
        assert float(x[-1, 0]) > 1
        again, other = layer.forward(params, x)
        np.testing.assert_allclose(again, z, rtol=0.05)
        np.testing.assert_allclose(again[1:-1], z[1:-1], rtol=0.02)
        np.testing.assert_allclose(other, -log_det, rtol=1e-2)
        slope = jax.vmap(jax.grad(lambda v: layer.forward(params, v[None, None])[0][0, 0]))(x[:, 0])
        np.testing.assert_allclose(jnp.log(slope), other, rtol=1e-6)


@pytest.mark.parametrize(
    ("bins", "prior", "message"), [(1, 1.0, "2 bins"), (4, 0.0, "> 0"), (4, np.inf, "> 0")]
)
def test_gaussianization_refuses(bins: int, prior: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bj.marginal_gaussianization(bins, prior)
    layer = bj.marginal_gaussianization(4)
    params = layer.init(KEY, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"expected x of shape \[batch, 3\], got \(2, 5\)"):
        layer.forward(params, jnp.zeros((2, 5)))

"""The model: exactness, cost, and what it gives back."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measure
from scnf_jax import bijectors as bj
from scnf_jax.bijectors.combinators import Memory
from scnf_jax.bijectors.linear import Kind
from scnf_jax.conditioners import MLP, ResidualMLP, from_nnx
from scnf_jax.densities import diagonal_normal
from scnf_jax.models import build_model, glow, gmm, vector
from scnf_jax.scnf import SemiConditionalFlow, semi_conditional_flow

from .bijectors.registry import perturbed

KEY = jax.random.key(0)
IMAGE = (8, 8, 1)
SMALL: dict[str, Any] = {"steps": (1, 1), "width": 8, "head_steps": 2, "head_width": 8}


def longer_glow() -> SemiConditionalFlow:
    longer: dict[str, Any] = {"pixel_steps": 2, "pixel_width": 8, "vector_steps": 1}
    longer |= {"vector_width": 8, "num_blocks": 0, "num_pointwise": 1, "histogram_bins": 16}
    return glow(IMAGE, 3, **(SMALL | {"head_steps": 1} | longer))


MODELS = {
    "glow": lambda: glow(IMAGE, 3, **SMALL),
    "longer": longer_glow,
    "gmm": lambda: gmm(IMAGE, 3, steps=(1, 1), width=8, class_probs="learned"),
    "embedded": lambda: semi_conditional_flow(
        bj.chain(bj.logit(), bj.flatten(IMAGE)),
        bj.chain(bj.actnorm(), bj.affine_coupling(ResidualMLP(64, width=8, num_blocks=1))),
        num_classes=3,
        embed_labels=True,
        class_probs=(0.2, 0.3, 0.5),
    ),
}


@functools.cache
def fitted(name: str) -> tuple[SemiConditionalFlow, Any, jax.Array]:
    """A model, parameters that are not those of its start, and images; compiled once."""
    model = MODELS[name]()
    x = jax.random.uniform(jax.random.key(1), (6, *IMAGE), minval=0.05, maxval=0.95)
    return model, perturbed(jax.jit(model.init)(KEY, x)), x


@pytest.mark.parametrize("name", MODELS)
def test_densities_agree(name: str) -> None:
    model, params, x = fitted(name)
    log_joint = jax.jit(model.log_joint)(params, x)
    assert log_joint.shape == (6, 3)
    marginal = model.log_prob(params, x)
    np.testing.assert_allclose(marginal, jax.nn.logsumexp(log_joint, -1), rtol=1e-5)
    posterior = model.log_posterior(params, x)
    np.testing.assert_allclose(jnp.exp(posterior).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(posterior + marginal[:, None], log_joint, rtol=1e-4, atol=1e-3)
    assert float(jnp.std(log_joint, axis=-1).min()) > 1e-3, "labels must matter"

    label = jnp.array([0, 1, 2, -1, -1, 0])
    given = model.log_prob(params, x, label)
    expected = jnp.where(label < 0, marginal, log_joint[jnp.arange(6), label])
    np.testing.assert_allclose(given, expected, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_encode_decode_and_relabel(name: str) -> None:
    model, params, x = fitted(name)
    latents = jax.jit(model.encode)(params, x, 1)
    np.testing.assert_allclose(jax.jit(model.decode)(params, latents, 1), x, atol=1e-4)
    other = model.decode(params, latents, 2)
    assert float(jnp.abs(other - x).max()) > 1e-3
    likely = jnp.argmax(model.log_joint(params, x), -1)
    nothing = jnp.isnan(model.decode(params, latents, -1))
    assert bool(nothing.any((1, 2, 3)).all())
    implicit, explicit = model.encode(params, x), model.encode(params, x, likely)
    jax.tree.map(np.testing.assert_array_equal, implicit, explicit)


@pytest.mark.parametrize("name", MODELS)
def test_sample_and_log_prob_agree(name: str) -> None:
    model, params, _ = fitted(name)
    label = jnp.array([0, 1, 2, 2])
    x, log_prob = jax.jit(model.sample_and_log_prob)(params, KEY, label)
    np.testing.assert_allclose(x, model.sample(params, KEY, label), atol=1e-5)
    inside = (x > -0.02).all((1, 2, 3)) & (x < 1.02).all((1, 2, 3))
    again = model.log_prob(params, x, label)
    np.testing.assert_allclose(log_prob[inside], again[inside], rtol=2e-3)
    assert bool(inside.any())


def test_sample_uses_learned_scale_and_temperature() -> None:
    """Another user of such a model sampled N(0, I), and got noise."""
    model = semi_conditional_flow(bj.identity(), bj.identity(), 2)
    params = model.init(KEY, jnp.zeros((4, 3)))
    assert jax.tree.leaves(params["base"]["aux"]) == []
    raw = jnp.array([-1.0, 0.0, 2.0])
    params["base"]["head"]["raw_scale"] = raw
    label = jnp.zeros(20_000, jnp.int32)
    x = jax.jit(model.sample, static_argnums=3)(params, KEY, label, 0.5)
    np.testing.assert_allclose(x.std(0), 0.5 * jax.nn.softplus(raw), rtol=0.03)


def test_the_parts_of_a_latent_are_drawn_independently() -> None:
    density = diagonal_normal()
    params = density.init(KEY, (jnp.zeros((1, 5)), jnp.zeros((1, 5))))
    first, second = jax.jit(density.sample, static_argnums=2)(params, KEY, 2000)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_the_label_and_both_latents_are_drawn_independently() -> None:
    """A density that draws with its key as it is, the numbers that a label is the largest of."""

    def draw(params: Any, key: jax.Array, num: int, temperature: Any) -> Any:
        noise = jax.random.gumbel(key, (num, 3))
        return jax.tree.map(lambda raw: noise, params["raw_scale"])

    model = semi_conditional_flow(
        bj.multiscale(bj.identity(), bj.identity()),
        bj.conditional_shift(),
        3,
        density=diagonal_normal()._replace(sample=draw),
    )
    params = model.init(KEY, jnp.zeros((1, 6)))
    params["head"]["mean"] = 1000.0 * jnp.arange(3.0)[:, None] * jnp.ones(3)
    x = np.asarray(jax.jit(model.sample)(params, KEY, jnp.full(600, -1)))
    label = np.round(x[:, 3] / 1000)
    z_aux, z_h = x[:, :3], x[:, 3:] - 1000 * label[:, None]
    for z in (z_aux, z_h):
        assert abs(np.mean(np.argmax(z, -1) == label) - 1 / 3) < 0.07
    assert abs(np.corrcoef(z_aux.ravel(), z_h.ravel())[0, 1]) < 0.1


def test_negative_label_samples_from_the_prior() -> None:
    model = semi_conditional_flow(
        bj.identity(), bj.conditional_shift(), 2, class_probs=(0.25, 0.75)
    )
    params = model.init(KEY, jnp.zeros((4, 1)))
    params["head"]["mean"] = jnp.array([[-100.0], [100.0]])
    x = model.sample(params, KEY, jnp.full(4000, -1))
    assert abs(float((x > 0).mean()) - 0.75) < 0.03


@pytest.mark.parametrize("name", ["glow", "longer"])
def test_log_prob_is_the_density_of_an_image_model(name: str) -> None:
    """Against autodiff: log p(x) = log p(z) + slogdet(dz/dx), summed over labels by hand."""
    model, params, x = fitted(name)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x))

        def latent(row: jax.Array, label: jax.Array) -> jax.Array:
            z_h, z_aux, _ = model.encode(params, row[None], label)
            return jnp.concatenate([leaf.ravel() for leaf in (z_h, *z_aux)])

        scales = params["base"]["head"]["raw_scale"], params["base"]["aux"]["raw_scale"]
        sigma = jnp.concatenate([jax.nn.softplus(s).ravel() for s in jax.tree.leaves(scales)])

        def log_density(row: jax.Array, label: jax.Array) -> jax.Array:
            z = latent(row, label)
            jacobian = jax.jacfwd(latent)(row, label).reshape(z.size, z.size)
            log_normal = -0.5 * (z / sigma) ** 2 - jnp.log(sigma) - 0.5 * jnp.log(2 * jnp.pi)
            return log_normal.sum() + jnp.linalg.slogdet(jacobian)[1] - jnp.log(3.0)

        by_label = jax.jit(jax.vmap(jax.vmap(log_density, (None, 0)), (0, None)))
        expected = by_label(x, jnp.arange(3))
        exact = model.log_joint(params, x)
        marginal = np.asarray(jax.nn.logsumexp(expected, -1))
        expected, exact = np.asarray(expected), np.asarray(exact)
    np.testing.assert_allclose(exact, expected, rtol=1e-9)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    got = model.log_prob(single, x.astype(jnp.float32))
    np.testing.assert_allclose(got, marginal, rtol=1e-4, atol=1e-4)


def test_density_integrates_to_one() -> None:
    model = vector((2,), 2, steps=2, head_steps=2, hidden=(8,))
    x = jax.random.normal(KEY, (64, 2))
    params = perturbed(jax.jit(model.init)(KEY, x))
    axis = jnp.linspace(-30, 30, 500)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1)
    rows = jax.jit(lambda p: jax.lax.map(lambda row: model.log_prob(p, row), grid))
    integral = float(jnp.exp(rows(params)).sum() * (axis[1] - axis[0]) ** 2)
    assert abs(integral - 1.0) < 0.01


def equations(jaxpr: jax.extend.core.Jaxpr, times: int = 1) -> Iterator[tuple[Any, int]]:
    """All equations, and how often each runs: loops are multiplied out."""
    for equation in jaxpr.eqns:
        yield equation, times
        repeats = times * equation.params.get("length", 1)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if isinstance(inner, jax.extend.core.Jaxpr):
                yield from equations(inner, repeats)


def multiply_adds(jaxpr: jax.extend.core.Jaxpr) -> float:
    return measure.operations_of(jaxpr) / 2


def test_body_runs_once_whatever_the_number_of_labels() -> None:
    def work(num_classes: int) -> tuple[float, float]:
        """Multiply-adds of the one call of the body, and of everything else."""
        model = glow(IMAGE, num_classes, steps=(2, 2), width=16, head_steps=1, head_width=8)

        def body_forward(params: Any, x: jax.Array, context: Any = None) -> Any:
            return body.forward(params, x, context)

        body = model.body
        named = body._replace(forward=body_forward)  # a model calls it under jit, by this name
        model = semi_conditional_flow(named, model.head, num_classes)
        x = jnp.full((4, *IMAGE), 0.5)
        params = jax.eval_shape(model.init, KEY, x)
        program = jax.make_jaxpr(model.log_joint)(params, x).jaxpr
        calls = [
            (equation, times)
            for equation, times in equations(program)
            if equation.params.get("name") == "body_forward"
        ]
        ((call, times),) = calls
        assert times == 1
        of_body = multiply_adds(call.params["jaxpr"].jaxpr)
        return of_body, multiply_adds(program) - of_body

    body_2, head_2 = work(2)
    body_100, head_100 = work(100)
    assert body_2 == body_100 > 0
    assert head_2 < head_100


def test_memory_of_many_labels_is_that_of_a_slice() -> None:
    """Of the gradient, too, which would keep the activations of every slice."""

    def temporary(num_classes: int) -> int:
        model = semi_conditional_flow(
            bj.identity(),
            bj.affine_coupling(MLP(8, hidden=(64,))),
            num_classes,
            label_batch=50,
        )
        x = jnp.ones((64, 8))
        params = model.init(KEY, x)
        gradient = jax.jit(jax.grad(lambda p: model.log_prob(p, x).mean()))
        planned = gradient.lower(params).compile().memory_analysis()
        assert planned is not None
        return int(planned.temp_size_in_bytes)

    assert temporary(500) < 2.0 * temporary(100)


def test_first_head_layer_sees_the_object_once() -> None:
    """``W_x x`` must not be batched over labels, where the body's latent goes in."""
    num_classes, batch, width = 50, 4, 8
    head = bj.affine_coupling(MLP(6, hidden=(width,)))
    model = semi_conditional_flow(bj.identity(), head, num_classes)
    x = jnp.ones((batch, 6))
    params = model.init(KEY, x)
    program = jax.make_jaxpr(model.log_joint)(params, x).jaxpr
    input_layer = batch * 3 * width
    context_layer = num_classes * num_classes * width
    output_layer = num_classes * batch * width * 6
    assert multiply_adds(program) == input_layer + context_layer + output_layer


def test_many_labels_in_slices_give_the_same() -> None:
    body, head = bj.identity(), bj.affine_coupling(MLP(4, hidden=(8,)))
    x = jax.random.normal(KEY, (5, 4))
    whole = semi_conditional_flow(body, head, 30, label_batch=30)
    sliced = semi_conditional_flow(body, head, 30, label_batch=7)
    params = perturbed(whole.init(KEY, x))
    np.testing.assert_allclose(
        whole.log_joint(params, x), sliced.log_joint(params, x), rtol=1e-5, atol=1e-5
    )


def test_nnx_conditioner_in_a_flow() -> None:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layers = nnx.List([nnx.Linear(2, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)])
            self.context = nnx.Linear(3, 8, rngs=rngs)

        def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
            return self.layers[1](jnp.tanh(self.layers[0](x) + self.context(context)))

    model = semi_conditional_flow(bj.identity(), bj.affine_coupling(from_nnx(Net)), 3)
    x = jax.random.normal(KEY, (5, 4))
    params = model.init(KEY, x)
    assert set(params["head"]) >= {"layers.0.kernel", "context.bias"}
    grads = jax.jit(jax.grad(lambda p: model.log_prob(p, x).sum()))(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads["head"]))
    latents = model.encode(params, x, 2)
    np.testing.assert_allclose(model.decode(params, latents, 2), x, atol=1e-5)


def test_nnx_state_that_is_not_trained_is_refused() -> None:
    from flax import nnx

    with pytest.raises(ValueError, match=r"only state is nnx\.Param.* mean"):
        from_nnx(lambda rngs: nnx.BatchNorm(2, rngs=rngs)).init(KEY, jnp.ones((3, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes >= 1, got 0"),
        (
            {"num_classes": 2, "class_probs": (0.5, 0.6)},
            "sum 1, .* got 2 with sum 1.1, the least 0.5",
        ),
        ({"num_classes": 2, "class_probs": (1.0,)}, "2 positive numbers"),
        (
            {"num_classes": 2, "class_probs": None},
            "'equal', 'learned' or 2 positive numbers .* got None",
        ),
        ({"num_classes": 2, "class_probs": "learn"}, "expected one of 'equal', 'learned', got 'le"),
        ({"num_classes": 2, "label_batch": 0}, "label_batch: expected an integer >= 1, got 0"),
    ],
)
def test_bad_model_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        semi_conditional_flow(bj.identity(), bj.identity(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 4}, "model.steps: expected several integers, such as .* got 4"),
        ({"steps": (1, 0)}, "model.steps: expected an integer >= 1, got 0"),
        ({"width": 4.5}, "width: expected an integer >= 1, got 4.5"),
        ({"num_blocks": -1}, "num_blocks: expected an integer >= 0, got -1"),
        ({"num_pointwise": -3}, "num_pointwise: expected an integer >= 0, got -3"),
        ({"head_blocks": -1}, "num_blocks: expected an integer >= 0, got -1"),
        ({"split_last": -2}, "model.split_last: expected an integer >= 0, got -2"),
    ],
)
def test_sizes_of_a_glow_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            glow(IMAGE, 3, **{"steps": (1,)} | settings).init, KEY, jnp.zeros((2, *IMAGE))
        )


def test_latents_of_another_shape_have_no_density() -> None:
    base = diagonal_normal()
    params = base.init(KEY, jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"diagonal_normal: .* \[batch, 4\], got \(3, 1\)"):
        base.log_prob(params, jnp.zeros((3, 1)))


def test_class_probabilities_may_be_float32() -> None:
    probs = np.full(1000, 1 / 1000, np.float32)
    semi_conditional_flow(bj.identity(), bj.identity(), 1000, class_probs=probs)


def test_learned_class_probabilities_are_those_of_the_data() -> None:
    """At any time a proper distribution; in the maximum of the likelihood the share of a class."""
    model = semi_conditional_flow(
        bj.identity(), bj.conditional_shift(), 2, class_probs="learned", label_batch=1
    )
    group = np.arange(400) % 10 == 0
    x = jax.random.normal(KEY, (400, 2)) + jnp.where(group, 8.0, -8.0)[:, None]
    label = jnp.where(jnp.arange(400) < 20, group, -1)  # the others without one
    params = model.init(KEY, x)
    np.testing.assert_allclose(jnp.exp(model.log_class_probs(params)), 0.5)

    def loss(params: Any) -> jax.Array:
        return -model.log_prob(params, x, label).mean()

    @jax.jit
    def descend(params: Any) -> Any:
        def step(params: Any, _: None) -> tuple[Any, None]:
            gradient = jax.grad(loss)(params)
            return jax.tree.map(lambda a, g: a - 0.05 * g, params, gradient), None

        return jax.lax.scan(step, params, length=2000)[0]

    params = descend(params)
    probs = jnp.exp(model.log_class_probs(params))
    np.testing.assert_allclose(probs, [0.9, 0.1], atol=1e-3)
    drawn = model.sample(params, KEY, jnp.full(2000, -1))
    assert jnp.mean(drawn[:, 0] > 0) == pytest.approx(0.1, abs=0.02)
    one = jnp.ones(1, jnp.int32)
    drawn, log_joint = model.sample_and_log_prob(params, KEY, one)
    np.testing.assert_allclose(log_joint, model.log_prob(params, drawn, one), rtol=1e-4)


def test_a_multiscale_inside_of_another_is_no_body() -> None:
    body = bj.multiscale(bj.identity(), bj.multiscale(bj.identity(), bj.identity()))
    with pytest.raises(ValueError, match="expected a body with one array a level"):
        semi_conditional_flow(body, bj.identity(), 2).init(KEY, jnp.zeros((2, 8)))
    of_one = bj.identity()._replace(forward=lambda params, x, c=None: ((x,), jnp.zeros(len(x))))
    with pytest.raises(ValueError, match="or a tuple of two or more, got a tuple of 1"):
        semi_conditional_flow(of_one, bj.identity(), 2).init(KEY, jnp.zeros((2, 8)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "glo"}, "model.name: no builder 'glo'; did you mean 'glow'"),
        ({"name": "glow", "widht": 3}, "model.widht: .* did you mean 'width'"),
        ({"name": "glow", "steps": (1, 1, 1, 1)}, r"divisible by 2\^4"),
        ({"name": "glow", "coupling": "cubic"}, "coupling: expected affine"),
        ({"name": "vector"}, r"vector: expected events of shape \(D,\)"),
    ],
)
def test_bad_builder_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(settings, IMAGE, 10)


@pytest.mark.slow
def test_float32_round_trip_of_the_deepest_model_on_real_images() -> None:
    from sklearn.datasets import load_digits

    images = load_digits().images[:64, ..., None].astype(np.float32)
    x = jnp.asarray((images + 0.5) / 17.0)
    model = glow(IMAGE, 10, steps=(16, 16), width=16, head_steps=16, head_width=32, linear="lu")
    params = perturbed(jax.jit(model.init)(KEY, x), 0.05)
    latents = jax.jit(model.encode)(params, x, jnp.zeros(64, jnp.int32))
    back = jax.jit(model.decode)(params, latents, 0)
    assert float(jnp.abs(back - x).max()) < 1e-3


def test_conditioners_in_bfloat16_leave_the_density_in_float32() -> None:
    full, params, x = fitted("glow")
    half = build_model({"name": "glow", "dtype": "bfloat16", **SMALL}, IMAGE, 3)
    started = jax.eval_shape(half.init, KEY, x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(started))
    exact, rounded = full.log_prob(params, x), half.log_prob(params, x)
    assert rounded.dtype == jnp.float32
    assert 0.0 < float(jnp.abs(exact - rounded).max()) < 0.02 * 64
    # The rounded networks are networks, too: the inverse is exact.
    latents = half.encode(params, x, 1)
    np.testing.assert_allclose(half.decode(params, latents, 1), x, atol=1e-4)


def test_what_gradients_keep_does_not_change_them() -> None:
    model, params, x = fitted("glow")
    other = glow(IMAGE, 3, memory="invert", **SMALL)
    expected = jax.jit(jax.grad(lambda p: model.log_prob(p, x).mean()))(params)
    actual = jax.jit(jax.grad(lambda p: other.log_prob(p, x).mean()))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), actual, expected
    )


@pytest.mark.parametrize("memory", ["store", "recompute", "invert"])
def test_every_repeated_part_of_a_model_keeps_what_is_set(memory: Memory) -> None:
    """Of the pixels, both levels, the vector and the head."""
    model = glow(IMAGE, 3, memory=memory, pixel_steps=1, vector_steps=1, **SMALL)
    x = jnp.zeros((2, *IMAGE))
    params = jax.eval_shape(model.init, KEY, x)
    program = jax.make_jaxpr(model.log_prob)(params, x).jaxpr
    names = [equation.primitive.name for equation, _ in equations(program)]
    inverted = sum(name.startswith("custom_vjp") for name in names)
    recomputed = sum(name.startswith(("remat", "checkpoint")) for name in names)
    expected = {"store": (0, 0), "recompute": (0, 5), "invert": (5, 0)}
    assert (inverted, recomputed) == expected[memory]


@pytest.mark.parametrize(
    ("kind", "leaves"),
    [
        ("full", {"weight"}),
        ("lu", {"lower", "upper", "log_diagonal"}),
        ("qr", {"vectors", "upper", "log_diagonal"}),
        ("householder", {"vectors"}),
    ],
)
def test_linear_maps_of_body_and_head_are_of_the_kind_that_is_set(
    kind: Kind, leaves: set[str]
) -> None:
    model = glow(IMAGE, 3, linear=kind, vector_steps=1, **SMALL)
    params = jax.eval_shape(model.init, KEY, jnp.zeros((2, *IMAGE)))
    level, (last, dense) = params["body"][1]
    for step in (level[1], last[1], dense[1], params["head"][1]):
        assert set(step[1]) == leaves

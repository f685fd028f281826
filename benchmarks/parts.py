"""Where a training step goes: its parts, each compiled alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.models import MNIST, config_of, flow_of
from scnf_jax.bijectors import marginal_gaussianization
from scnf_jax.scnf import SemiConditionalFlow

TITLE = "Where a training step goes"
ABOUT = """\
Parts of a step of `configs/mnist.py`, each compiled alone: a step is the gradient of
log p(x, y) and the optimiser. Where a part reaches a small share of the peak its products are
small, and what lies between them counts: the inner and outer sizes of a level's products are the
channels of its conditioners. The map of pixels by their histograms, part of the body, has none.
*Affine alone*: with `--config.model.pixel_steps=0`, a body without its mixture couplings."""


def run() -> list[dict[str, Any]]:
    """Measures every part, taking turns."""
    config = config_of(MNIST)
    batch = config["batch_size"]
    model, params, x = flow_of(MNIST, batch)
    affine, affine_params, _ = flow_of(MNIST, batch, pixel_steps=0)
    pixels = marginal_gaussianization(config["model"]["histogram_bins"])
    histograms = pixels.init(jax.random.key(0), x)
    z = jax.jit(model.body.forward)(params["body"], x)[0]
    contexts = jnp.eye(10)

    def body(model: SemiConditionalFlow, params: Any, x: jax.Array) -> jax.Array:
        z, log_det = model.body.forward(params, x)
        return jnp.mean(log_det) + sum(jnp.mean(part**2) for part in z)

    def head(params: Any, z: jax.Array) -> jax.Array:
        def under(context: jax.Array) -> jax.Array:
            z_h, log_det = model.head.forward(params, z, context[None])
            return jnp.mean(log_det) + jnp.mean(z_h**2)

        return jnp.mean(jax.vmap(under)(contexts))

    def levels(params: Any, x: jax.Array) -> jax.Array:
        z, log_det = pixels.forward(params, x)
        return jnp.mean(log_det) + jnp.mean(z**2)

    def log_joint(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(model.log_joint(params, x))

    parts: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "log p(x, y), gradient": (jax.grad(log_joint), (params, x)),
        "log p(x, y), forward": (log_joint, (params, x)),
        "body, gradient": (jax.grad(partial(body, model)), (params["body"], x)),
        "body, forward": (partial(body, model), (params["body"], x)),
        "body, affine alone, gradient": (
            jax.grad(partial(body, affine)),
            (affine_params["body"], x),
        ),
        "head under 10 labels, gradient": (jax.grad(head, (0, 1)), (params["head"], z[-1])),
        "pixels by their histograms, gradient": (jax.grad(levels), (histograms, x)),
    }
    product, product_operations = measure.matmul_peak()
    calls: dict[str, Callable[[], Any]] = {"peak": product}
    for name, (function, arguments) in parts.items():
        calls[name] = partial(jax.jit(function), *arguments)
    seconds = measure.seconds(calls)
    peak = product_operations / seconds["peak"]
    rows = []
    for name, (function, arguments) in parts.items():
        rate = measure.operations(function, *arguments) / seconds[name]
        rows.append(
            {
                "part": name,
                "batch": batch,
                "milliseconds": 1e3 * seconds[name],
                "GFLOP/s": rate / 1e9,
                "share of peak": rate / peak,
            }
        )
    return rows

"""What log p(x), the sum over K labels, costs: in passes of the body alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.models import MNIST, flow_of

TITLE = "Cost of the marginal"
ABOUT = """\
Time of log p(x) in passes of the body alone, forward and with gradients. A flow whose body sees
the label, too, needs K passes; what K of them take is measured at K = 10. Operations are those
of matrix products and convolutions. Temporary memory is what the compiler plans for log p(x) of
the batch; above 128 labels they are mapped in slices, and gradients compute each slice again."""

MODELS = (
    ("paper model", "mnist_table:glow_sgd", 8, (10,)),
    ("own MNIST config", MNIST, 32, (2, 10, 100, 1000)),
)


def run() -> list[dict[str, Any]]:
    """Measures every model at every K."""
    return [
        _one(label, name, batch, num_classes)
        for label, name, batch, classes in MODELS
        for num_classes in classes
    ]


def _one(label: str, name: str, batch: int, num_classes: int) -> dict[str, Any]:
    model, params, x = flow_of(name, batch, num_classes)

    def body(params: Any, x: jax.Array) -> Any:
        return model.body.forward(params["body"], x)

    def passes(params: Any, labelled: jax.Array) -> Any:
        return jax.lax.map(lambda x: body(params, x), labelled)

    functions: dict[str, tuple[Callable[[Any, jax.Array], Any], jax.Array]]
    functions = {"body": (body, x), "log_prob": (model.log_prob, x)}
    if num_classes == 10:
        # As many inputs, else the compiler takes what is the same out of the loop.
        labelled = x * jnp.linspace(0.9, 1.0, num_classes).reshape(-1, 1, 1, 1, 1)
        functions["passes"] = (passes, labelled)
    programs = {}
    for key, (function, given) in functions.items():
        programs[key] = measure.compiled(function, params, given)
        programs[f"{key} gradient"] = measure.compiled(jax.grad(_mean(function)), params, given)
    seconds: dict[str, float] = {}
    for gradients in (False, True):
        # Apart: what a gradient's memory does to the machine falls on the call that follows.
        group = {
            key: made.call for key, made in programs.items() if ("gradient" in key) == gradients
        }
        rounds = 25 if not gradients else 5 if num_classes > 10 else 9
        seconds |= measure.seconds(group, rounds)
    counted = measure.operations(model.log_prob, params, x) / measure.operations(body, params, x)

    def bodies(key: str, gradient: str = "") -> float | None:
        if key + gradient not in seconds:
            return None
        return seconds[key + gradient] / seconds["body" + gradient]

    return {
        "model": label,
        "K": num_classes,
        "batch": batch,
        "bodies, operations": counted,
        "bodies": bodies("log_prob"),
        "bodies, gradient": bodies("log_prob", " gradient"),
        "K passes": bodies("passes"),
        "K passes, gradient": bodies("passes", " gradient"),
        "temporary MiB": programs["log_prob"].temporary_mebibytes,
        "temporary MiB, gradient": programs["log_prob gradient"].temporary_mebibytes,
    }


def _mean(function: Callable[[Any, jax.Array], Any]) -> Callable[[Any, jax.Array], jax.Array]:
    """The mean of all that a function gives, to take gradients of."""

    def mean(params: Any, x: jax.Array) -> jax.Array:
        parts = jax.tree.leaves(function(params, x))
        return jnp.sum(jnp.stack([jnp.mean(part) for part in parts]))

    return mean

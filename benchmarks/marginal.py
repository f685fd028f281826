"""What log p(x), the sum over K labels, costs: in passes of the body alone."""

from typing import Any

import jax

from benchmarks import measure
from benchmarks.models import flow_of

TITLE = "Cost of the marginal"
ABOUT = """\
Time of log p(x) in passes of the body alone, forward and with gradients. A flow whose body sees
the label, too, needs K passes; what K of them take is measured at K = 10. Operations are those
of matrix products and convolutions. Temporary memory is what the compiler plans for log p(x) of
the batch; above 128 labels they are mapped in slices, and gradients compute each slice again."""

MODELS = (
    ("paper model", "mnist_table:glow_sgd", 8, (10,)),
    ("own MNIST config", "mnist", 32, (2, 10, 100, 1000)),
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

    def body(params: Any, x: jax.Array) -> jax.Array:
        z, log_det = model.body.forward(params["body"], x)
        return log_det + sum(part.sum() for part in jax.tree.leaves(z))

    def passes(params: Any, x: jax.Array) -> jax.Array:
        return jax.lax.map(lambda scale: body(params, x * scale), jax.numpy.ones(num_classes))

    functions = {"body": body, "log_prob": model.log_prob}
    if num_classes == 10:
        functions["passes"] = passes
    programs = {}
    for key, function in functions.items():
        mean = lambda params, x, function=function: function(params, x).mean()  # noqa: E731
        programs[key] = measure.compiled(function, params, x)
        programs[f"{key} gradient"] = measure.compiled(jax.grad(mean), params, x)
    calls = {key: program.call for key, program in programs.items()}
    seconds = measure.seconds(calls, rounds=3 if num_classes > 10 else 7)
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

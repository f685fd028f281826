"""Latency of posterior and density of a trained model, for few and many objects."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.models import MNIST, config_of, flow_of
from scnf_jax.inference import Engine
from scnf_jax.loading import LoadedRun

TITLE = "Serving"
ABOUT = """\
log p(x) and p(y|x) of objects by `Engine.scores`, as `evaluate` uses it, and p(y|x) alone, as
`predict` does, on the model of `configs/mnist.py`. It classifies in the middle of grey levels, so
that `scores` takes two passes, and the posterior alone one. Objects go through in batches of one
size, the last one padded, so that a new number of objects compiles nothing: the first row of a
batch size compiles its programs, the second takes them as they are."""

ROWS = ((1, 1), (1, 64), (64, 1), (64, 64), (64, 4096), (512, 64), (512, 4096))


def run() -> list[dict[str, Any]]:
    """Measures batch sizes and numbers of objects."""
    model, params, _ = flow_of(MNIST, 512)
    loaded = LoadedRun(model, params, config_of(MNIST), 0, Path(), (28, 28, 1), 256, "")
    x = np.random.default_rng(0).integers(0, 256, (4096, 28, 28, 1)).astype(np.uint8)
    rows = []
    engines = {size: Engine(loaded, size) for size, _ in ROWS}
    for size, num in ROWS:
        both = lambda engine=engines[size], num=num: engine.scores(x[:num])  # noqa: E731
        posterior = lambda engine=engines[size], num=num: engine.scores(x[:num], density=False)  # noqa: E731
        with measure.compilations() as compiled:
            seconds = measure.seconds({"both": both, "posterior": posterior}, rounds=5)
        rows.append(
            {
                "batch size": size,
                "objects": num,
                "milliseconds": 1e3 * seconds["both"],
                "objects/s": num / seconds["both"],
                "posterior alone, milliseconds": 1e3 * seconds["posterior"],
                "posterior alone, objects/s": num / seconds["posterior"],
                "compilations": len(compiled),
            }
        )
    return rows

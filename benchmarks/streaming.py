"""Train objects on disk against train objects on the device."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.models import MNIST, config_of
from scnf_jax import parallel
from scnf_jax.data import ReadAhead, Rows, load_dataset
from scnf_jax.runs import build
from scnf_jax.settings import parse_config
from scnf_jax.training import make_data

TITLE = "Data on disk"
ABOUT = """\
Training steps of `configs/mnist.py` on images of noise: all of them on the device, or in a
folder of `.npy` files that is mapped into memory (`--config.stream=True`), and read a call ahead by
one thread. The files are in the page cache, as they are from the second epoch on where they fit.
Same rows, same noise, same losses."""
CALL = 10
IMAGES = 60_000


def run() -> list[dict[str, Any]]:
    """Measures both, taking turns."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for part, num in (("train", IMAGES), ("test", 100)):
            x = draw.integers(0, 256, (num, 28, 28)).astype(np.uint8)
            np.save(Path(folder) / f"x_{part}.npy", x)
            np.save(Path(folder) / f"y_{part}.npy", np.arange(num) % 10)
        calls = {
            "on the device": _stepping(folder, stream=False),
            "on disk": _stepping(folder, stream=True),
        }
        seconds = measure.seconds(calls, rounds=5)
    options = parse_config(config_of(MNIST))
    return [
        {
            "train objects": place,
            "images/s": CALL * options.batch_size / seconds[place],
            "time": seconds[place] / seconds["on the device"],
        }
        for place in calls
    ]


def _stepping(folder: str, stream: bool) -> Callable[[], Any]:
    options = parse_config({**config_of(MNIST), "steps_per_call": CALL})
    dataset, mesh = load_dataset(folder, stream=stream), parallel.data_mesh()
    _, trainer = build(options, dataset, mesh)
    x = dataset.train_x
    data = make_data(x, dataset.draw_labels(100, 0), mesh)
    if not isinstance(x, Rows):
        state = trainer.init(data)

        def call() -> Any:
            nonlocal state
            state, metrics = trainer.run_chunk(state, data)
            return metrics

        return call
    state = trainer.init(data, x.take(np.asarray(trainer.init_rows(data))))
    ahead = ReadAhead(x, lambda step: trainer.rows(data, step), CALL, options.steps)
    step = 0

    def call_on_disk() -> Any:
        nonlocal state, step
        batches = parallel.split_rows(ahead.objects(step), mesh, axis=1)
        state, metrics = trainer.run_chunk_on(state, data, batches)
        step += CALL
        return jax.block_until_ready(metrics)

    return call_on_disk

"""Training throughput: images a second, and the share of the machine's own peak."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import measure
from benchmarks.models import MNIST, config_of
from scnf_jax import parallel
from scnf_jax.data import Dataset, load_dataset
from scnf_jax.runs import build
from scnf_jax.settings import parse_config
from scnf_jax.training import make_data

TITLE = "Training throughput"
ABOUT = """\
Whole training steps, optimiser included; MNIST's images are noise here. Operations are those of the
matrix products and convolutions that a step asks for, counted in its trace: convolutions as such,
whatever they run as. The peak is a product of two 2,048 x 2,048 matrices, which takes turns with
the steps in the same run. The own MNIST config has second views of half of its images; views are
not counted as images. *By Muon*: with `--config.optimizer.name=muon`, whose update multiplies
matrices, too. *Without views*: with neither these views nor the term that they serve.
*Without 1x1*: with `--config.model.num_pointwise=0`. A conditioner is then two convolutions, from
few channels to many and back, so that its products do few operations for each number that they
read and write, whatever the width; so are those of `:small`. The 1x1
convolution between them has both sides wide, as most of the paper's have."""

WITHOUT_VIEWS = {
    "objective": {"name": "sgd", "classification_weight": 50.0, "temperature": 10.0},
    "augment": {},
}
ROWS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("paper model", "mnist_table:glow_sgd", {"batch_size": 32}, 2),
    ("own MNIST config", MNIST, {}, 10),
    ("own MNIST config, by Muon", MNIST, {"optimizer": {"name": "muon"}}, 10),
    ("own MNIST config, without views", MNIST, WITHOUT_VIEWS, 10),
    ("own MNIST config, :alone", "mnist:alone", {}, 10),
    ("own MNIST config, :alone, without 1x1", "mnist:alone", {"model": {"num_pointwise": 0}}, 10),
    ("own MNIST config, :small", "mnist:small", {}, 10),
    ("own digits config", "digits", {}, 20),
)


def run() -> list[dict[str, Any]]:
    """Measures every config."""
    return [_one(*row) for row in ROWS]


class Stepping(NamedTuple):
    """Compiled training steps.

    Attributes:
      call: makes one call.
      images: of a call.
      operations: gives the floating-point operations of a call; see
        :func:`measure.operations`.
      text: gives the compiled program.
    """

    call: Callable[[], Any]
    images: int
    operations: Callable[[], float]
    text: Callable[[], str | None]


def stepping(name: str, changes: dict[str, Any], steps_per_call: int, devices: int = 1) -> Stepping:
    """A config's compiled training steps, on noise.

    Args:
      name: see :func:`~benchmarks.models.config_of`.
      changes: settings that differ; under ``model`` and ``optimizer`` those of these.
      steps_per_call: steps in one call.
      devices: how many share the batch.

    Returns:
      The steps.
    """
    config = config_of(name)
    groups = {key: {**config[key], **changes.get(key, {})} for key in ("model", "optimizer")}
    settings = {**config, "steps_per_call": steps_per_call, **changes, **groups}
    options = parse_config(settings)
    dataset = _noise() if options.dataset == "mnist" else load_dataset(options.dataset)
    mesh = parallel.data_mesh(jax.devices()[:devices])
    _, trainer = build(options, dataset, mesh)
    data = make_data(dataset.train_x, dataset.draw_labels(100, 0), mesh)
    state = trainer.init(data)
    compiled = jax.jit(trainer.run_chunk, donate_argnums=0).lower(state, data).compile()
    shapes = jax.eval_shape(lambda state: state, state)

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, data)
        return metrics

    def counted() -> float:
        return options.chunk * measure.operations(trainer.step, shapes, data)

    return Stepping(call, options.batch_size * options.chunk, counted, compiled.as_text)


def _noise() -> Dataset:
    """Images like MNIST's in shape and grey levels."""
    x = np.random.default_rng(0).integers(0, 256, (2000, 28, 28, 1)).astype(np.uint8)
    y = np.arange(2000, dtype=np.int32) % 10
    return Dataset("noise", x, y, x[:10], y[:10], 10, 256)


def _one(label: str, name: str, changes: dict[str, Any], steps_per_call: int) -> dict[str, Any]:
    call, images, operations, _ = stepping(name, changes, steps_per_call)
    counted = operations()
    product, product_operations = measure.matmul_peak()
    seconds = measure.seconds({"step": call, "product": product}, rounds=5)
    rate, peak = counted / seconds["step"], product_operations / seconds["product"]
    return {
        "config": label,
        "batch": images // steps_per_call,
        "images/s": images / seconds["step"],
        "GFLOP an image": counted / images / 1e9,
        "GFLOP/s": rate / 1e9,
        "peak GFLOP/s": peak / 1e9,
        "share of peak": rate / peak,
    }

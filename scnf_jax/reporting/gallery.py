"""Pictures that a trained model draws: samples, relabelling, interpolation, temperature."""

from pathlib import Path

import jax
import numpy as np

from scnf_jax.analysis.relabelling import relabelled
from scnf_jax.inference import Engine
from scnf_jax.reporting.pictures import plot_grid

TEMPERATURES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


def class_samples(engine: Engine, per_class: int, temperature: float) -> np.ndarray:
    """Grey levels ``[K, per_class, H, W, C]`` of samples, a row a class; at most 20 classes."""
    classes = min(engine.run.num_classes, 20)
    label = np.repeat(np.arange(classes, dtype=np.int32), per_class)
    x = engine.to_levels(engine.sample(label, temperature))
    return x.reshape(classes, per_class, *x.shape[1:])


def plot_samples(path: Path, engine: Engine, temperature: float = 1.0) -> None:
    """Draws ten samples of each class of images; see :func:`class_samples`."""
    samples = class_samples(engine, 10, temperature)
    plot_grid(
        path,
        samples,
        engine.run.num_levels or 2,
        f"samples x ~ p(x | y), temperature {temperature:g}, none picked",
        [str(k) for k in range(len(samples))],
        row_label="class y",
    )


def interpolated(
    engine: Engine, first: np.ndarray, second: np.ndarray, label: np.ndarray, num: int = 9
) -> np.ndarray:
    r"""Objects between two of one class, on the great circle between their latents.

    .. math:: z(t) = \cos(\pi t / 2)\, z_1 + \sin(\pi t / 2)\, z_2

    keeps the prior's spread all the way, for two independent latents of mean 0.

    Args:
      engine: of the model.
      first: objects ``[N, *event]``.
      second: other objects of the same classes.
      label: the classes ``[N]``.
      num: steps, both ends included.

    Returns:
      Objects as stored ``[N, num, *event]``.

    References:
      Kingma, Dhariwal 2018, "Glow", section 5, https://arxiv.org/abs/1807.03039 (linear there)
    """
    start, end = engine.encode(first, label), engine.encode(second, label)
    columns = []
    for t in np.linspace(0.0, np.pi / 2, num):
        between = jax.tree.map(lambda a, b, t=t: np.cos(t) * a + np.sin(t) * b, start, end)
        columns.append(engine.to_levels(engine.decode(between, label)))
    return np.stack(columns, 1)


def temperature_strip(engine: Engine) -> np.ndarray:
    """One sample a class at each of :data:`TEMPERATURES`, from the same noise: ``[T, K, ...]``."""
    return np.stack([class_samples(engine, 1, t)[:, 0] for t in TEMPERATURES])


def plot_gallery(folder: Path, engine: Engine, x: np.ndarray, y: np.ndarray) -> dict[str, str]:
    """Draws everything that a model of images can draw.

    Args:
      folder: of the PNG files.
      engine: of the model.
      x: real objects as stored, say of the test set.
      y: their classes.

    Returns:
      Captions by file name.
    """
    levels = engine.run.num_levels or 2
    num_classes = engine.run.num_classes
    names = [str(k) for k in range(min(num_classes, 20))]
    plot_samples(folder / "samples.png", engine)
    plot_samples(folder / "samples-cool.png", engine, 0.7)
    shown = np.concatenate([np.flatnonzero(y == k)[:1] for k in range(min(num_classes, 20))])
    plot_grid(
        folder / "relabelled.png",
        np.concatenate([x[shown][None], relabelled(engine, x[shown], y[shown])]),
        levels,
        "first row: test objects; below: the same z under each label",
        ["object", *(f"y = {k}" for k in range(num_classes))],
        [str(k) for k in y[shown]],
        column_label="true class of the object",
    )
    captions = {
        "samples.png": "Samples of each class from the learned priors, temperature 1, none picked.",
        "samples-cool.png": "Samples at temperature 0.7, none picked.",
        "relabelled.png": "Relabelling: test objects (first row), and their z under each label.",
    }
    pairs = [np.flatnonzero(y == k)[:2] for k in range(min(num_classes, 20))]
    if pairs := [pair for pair in pairs if len(pair) == 2]:
        first, second = np.array(pairs).T
        plot_grid(
            folder / "interpolation.png",
            interpolated(engine, x[first], x[second], y[first]),
            levels,
            "between two test objects of one class (the ends)",
            [str(k) for k in y[first]],
            row_label="class y",
        )
        captions["interpolation.png"] = "From one test object to another of its class."
    plot_grid(
        folder / "temperature.png",
        temperature_strip(engine),
        levels,
        "the same noise at several temperatures",
        [str(t) for t in TEMPERATURES],
        names,
        "temperature",
        "class y",
    )
    captions["temperature.png"] = "One noise draw a class, at several temperatures."
    return captions

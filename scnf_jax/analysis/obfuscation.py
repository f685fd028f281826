"""Objects without their class, and how much of the class is left in them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from scnf_jax.analysis.probes import (
    PROBES,
    ProbeResult,
    class_entropy_bits,
    information_bits,
    run_probe,
)
from scnf_jax.data import Dataset, at_most, take
from scnf_jax.inference import Engine
from scnf_jax.metrics import error_percent
from scnf_jax.scnf import Latents

MIN_OBJECTS = 20


class Hidden(NamedTuple):
    """Class-free representations of objects, as flat arrays.

    Attributes:
      z_h: ``[N, D_h]``; what the object is beside its class.
      z_aux: ``[N, D_aux]``; what the body factored out. Restoring an object needs it;
        no label went into it, but nothing takes the class out of it either.
    """

    z_h: np.ndarray
    z_aux: np.ndarray


def flat(tree: Any) -> np.ndarray:
    """Leaves ``[N, ...]`` of a pytree, one row an object; ``[N, 0]`` needs a leaf to know N."""
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], -1)


def hide(engine: Engine, x: np.ndarray, label: np.ndarray) -> Hidden:
    """Encodes objects under labels and keeps what is to be without class.

    Args:
      engine: of the model.
      x: objects as stored.
      label: to encode under ``[N]``.

    Returns:
      Flat representations.
    """
    latents = engine.encode(x, label)
    z_h = flat(latents.z_h)
    z_aux = flat(latents.z_aux) if latents.z_aux else np.zeros((len(x), 0), z_h.dtype)
    return Hidden(z_h, z_aux)


def restore(engine: Engine, hidden: Hidden, label: np.ndarray) -> np.ndarray:
    """Objects back from their representations, under any label.

    Args:
      engine: of the model that hid them.
      hidden: of :func:`hide`; with ``z_aux`` of no columns, fresh ones are drawn from the
        prior, as far as the model has any.
      label: ``[N]``.

    Returns:
      Objects as stored: grey levels or vectors.

    Raises:
      ValueError: for representations of another model.
    """
    shapes = latent_shapes(engine)
    z_h = _unflatten(hidden.z_h, shapes.z_h, "z_h")
    if hidden.z_aux.shape[1] == 0 and shapes.z_aux:
        drawn = engine.to_levels(engine.sample(label))
        z_aux = engine.encode(drawn, label).z_aux
    else:
        z_aux = _unflatten(hidden.z_aux, shapes.z_aux, "z_aux")
    nothing = jax.numpy.zeros((len(label), 0))  # decode reads no z_f
    latents = Latents(z_h, z_aux, nothing)
    return engine.to_levels(engine.decode(latents, label))


def latent_shapes(engine: Engine) -> Latents:
    """Shapes of one object's latents, with a leading axis of 1."""
    run = engine.run
    x = jax.ShapeDtypeStruct((1, *run.event_shape), np.float32)
    label = jax.ShapeDtypeStruct((1,), np.int32)
    return jax.eval_shape(engine.flow.encode, run.params, x, label)


def _unflatten(rows: np.ndarray, shapes: Any, name: str) -> Any:
    leaves, tree = jax.tree.flatten(shapes)
    sizes = [int(np.prod(leaf.shape[1:])) for leaf in leaves]
    if rows.ndim != 2 or rows.shape[1] != sum(sizes):
        raise ValueError(
            f"{name}: expected [N, {sum(sizes)}], the latents of this model, got "
            f"{list(rows.shape)}; restore with the run that hid the objects"
        )
    parts = np.split(rows, np.cumsum(sizes)[:-1], -1) if leaves else []
    shaped = [
        part.reshape(len(rows), *leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, shaped)


class Leak(NamedTuple):
    """How much of the class each representation tells.

    Attributes:
      chance_percent: accuracy of always naming the most frequent class of the test objects.
      model_accuracy_percent: of the flow's own posterior on the same test objects.
      probes: results by representation, then by probe.
      posterior_bits: lower bound on ``I(z_f; y)`` from the model's own ``p(y|x)``.
      entropy_bits: H(y) of the test objects: more than that cannot leak.
      num_train: objects that probes were trained on.
      num_test: other objects that they were tested on.
    """

    chance_percent: float
    model_accuracy_percent: float
    probes: dict[str, dict[str, ProbeResult]]
    posterior_bits: float
    entropy_bits: float
    num_train: int
    num_test: int


REPRESENTATIONS: Mapping[str, str] = {
    "z_f": "the head's input; is meant to carry the class",
    "z_h, true label": "encoded under the object's true label: what leaks when the owner, who "
    "knows the class, hides it",
    "z_h, predicted label": "encoded under the model's own label: what leaks when nobody knew the "
    "class; a wrong guess leaves its trace",
    "z_h and z_aux, true label": "all that is needed to restore the object",
}


def measure_leak(
    engine: Engine,
    dataset: Dataset,
    max_train: int = 5000,
    max_test: int = 5000,
    probes: tuple[str, ...] = tuple(PROBES),
    seed: int = 0,
) -> Leak:
    """Trains probes for the class on representations of train objects, tests them on test objects.

    Probes see true labels, all of them: they stand for someone who has labelled objects of
    the same kind and wants the class of hidden ones.

    Args:
      engine: of the model.
      dataset: that it was trained on.
      max_train: train objects with a known label, drawn, that probes learn from.
      max_test: test objects, drawn.
      probes: names in :data:`~scnf_jax.analysis.probes.PROBES`.
      seed: of the probes.

    Returns:
      Accuracies with intervals, and bounds on the information.

    Raises:
      ValueError: for a model of one class, and where probes would have fewer than 20 objects.

    References:
      Atanov et al. 2019, section 4 (obfuscation), https://arxiv.org/abs/1905.00505
    """
    num_classes = engine.run.num_classes
    if num_classes < 2:
        raise ValueError("leak: expected a model of at least two classes, got one")
    known = at_most(max_train, np.flatnonzero(dataset.train_y >= 0))
    others = at_most(max_test, np.arange(len(dataset.test_y)))
    if min(len(known), len(others)) < MIN_OBJECTS:
        raise ValueError(
            f"leak: expected at least {MIN_OBJECTS} train and as many test objects with a known "
            f"label for the probes, got {len(known)} and {len(others)}"
        )
    parts = (
        (take(dataset.train_x, known), dataset.train_y[known]),
        (dataset.test_x[others], dataset.test_y[others]),
    )
    encoded = [_representations(engine, x, y) for x, y in parts]
    results: dict[str, dict[str, ProbeResult]] = {}
    for name in REPRESENTATIONS:
        train, test = ((z[name], y) for z, (_, y) in zip(encoded, parts, strict=True))
        results[name] = {
            probe: run_probe(PROBES[probe](seed), train, test, num_classes) for probe in probes
        }
    test_y = parts[1][1]
    log_posterior = engine.posterior_of_latents(parts[1][0])
    return Leak(
        chance_percent=100.0 * float(np.bincount(test_y).max() / len(test_y)),
        model_accuracy_percent=100.0 - error_percent(log_posterior, test_y),
        probes=results,
        posterior_bits=information_bits(np.exp(log_posterior), test_y),
        entropy_bits=class_entropy_bits(test_y),
        num_train=len(known),
        num_test=len(test_y),
    )


def _representations(engine: Engine, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    under_true = engine.encode(x, y)
    under_likely = engine.encode(x, engine.labels(x, "likely"))
    values = (
        flat(under_true.z_f),
        flat(under_true.z_h),
        flat(under_likely.z_h),
        flat((under_true.z_h, under_true.z_aux)),
    )
    return dict(zip(REPRESENTATIONS, values, strict=True))

"""Objects under other labels, and whether they pass for them."""

from typing import NamedTuple

import numpy as np

from scnf_jax.analysis.probes import wilson_interval
from scnf_jax.data import Dataset, at_most, take
from scnf_jax.inference import Engine

_MAX_TRAIN = 10_000


def relabelled(engine: Engine, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The same latents under each label.

    Args:
      engine: of the model.
      x: objects as stored ``[N, *event]``.
      label: that they are encoded under ``[N]``.

    Returns:
      Objects as stored ``[K, N, *event]``.

    References:
      Atanov et al. 2019, section 4 (figure of reconstructions), https://arxiv.org/abs/1905.00505
    """
    latents = engine.encode(x, label)
    every = range(engine.run.num_classes)
    rows = [engine.decode(latents, np.full(len(x), k, np.int32)) for k in every]
    return engine.to_levels(np.concatenate(rows)).reshape(len(rows), *x.shape)


class Acceptance(NamedTuple):
    """Whether relabelled objects pass for their new class.

    Attributes:
      accepted_percent: of relabelled objects that the judge gives the new label.
      low_percent: lower end of its 95% interval over objects.
      high_percent: upper end of it.
      by_label: the same by new label ``[K]``.
      judge_accuracy_percent: of the judge on real test objects.
      num_objects: test objects, each under every label but its own.
    """

    accepted_percent: float
    low_percent: float
    high_percent: float
    by_label: list[float]
    judge_accuracy_percent: float
    num_objects: int


def relabelling_acceptance(engine: Engine, dataset: Dataset, max_objects: int) -> Acceptance:
    """Asks a classifier that was trained on real objects what relabelled ones are.

    The judge is a support vector machine on the grey levels of at most 10,000 train objects
    with all their true labels; it never sees what the model makes. Test objects are encoded
    under their true label and decoded under each other one.

    Args:
      engine: of the model.
      dataset: that it was trained on.
      max_objects: test objects, drawn.

    Returns:
      How many are accepted, and how good the judge is.

    Raises:
      ValueError: for a model of one class.
    """
    if engine.run.num_classes < 2:
        raise ValueError("relabel: expected a model of at least two classes, got one")
    from sklearn.svm import SVC

    known = at_most(_MAX_TRAIN, np.flatnonzero(dataset.train_y >= 0))
    scale = (dataset.num_levels or 2) - 1

    def pixels(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1) / scale

    judge = SVC(C=10.0).fit(pixels(take(dataset.train_x, known)), dataset.train_y[known])
    rows = at_most(max_objects, np.arange(len(dataset.test_y)))
    x, y = dataset.test_x[rows], dataset.test_y[rows]
    changed = relabelled(engine, x, y)
    says = np.stack([judge.predict(pixels(row)) for row in changed])
    right = says == np.arange(len(changed))[:, None]
    other = np.arange(len(changed))[:, None] != y
    accepted = int(right[other].sum())
    # Relabellings of one object are not independent: the interval counts objects.
    share = accepted / max(int(other.sum()), 1)
    by_label = 100.0 * (right & other).sum(1) / np.maximum(other.sum(1), 1)
    low, high = wilson_interval(round(share * len(x)), len(x))
    return Acceptance(
        100.0 * share,
        100.0 * low,
        100.0 * high,
        by_label.tolist(),
        100.0 * float(np.mean(judge.predict(pixels(x)) == y)),
        len(x),
    )

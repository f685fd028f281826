"""A model on labelled objects: its figures, as numbers and as pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from scnf_jax.analysis.calibration import confusion_matrix, error_at_coverage, reliability
from scnf_jax.inference import Engine, Scores
from scnf_jax.metrics import error_percent
from scnf_jax.reporting import charts

COVERAGES = (50, 80, 90, 95, 99, 100)


def evaluate_scores(scores: Scores, labels: np.ndarray) -> dict[str, Any]:
    """Error, density, calibration and confusion, as plain values.

    Args:
      scores: of the objects.
      labels: their classes ``[N]``, all known.

    Returns:
      ``num_objects``, ``error_percent``, ``ece_percent``, ``confusion`` (rows: true class;
      without objects whose posterior is not a number),
      ``error_percent_at_coverage`` by percent of objects answered, ``by_class`` with the
      error of each class; of a density also ``bits_per_dim``, ``log_prob_nats``, and both
      by class.
    """
    num_classes = scores.log_posterior.shape[-1]
    _, error = error_at_coverage(scores.log_posterior, labels)
    by_class: dict[str, dict[str, float]] = {}
    result: dict[str, Any] = {
        "num_objects": len(labels),
        "error_percent": error_percent(scores.log_posterior, labels),
        "ece_percent": 100.0 * reliability(scores.log_posterior, labels).ece,
        "error_percent_at_coverage": {
            str(percent): float(error[max(int(np.ceil(percent / 100 * len(labels))) - 1, 0)])
            for percent in COVERAGES
        },
        "confusion": confusion_matrix(scores.label, labels, num_classes).tolist(),
        "by_class": by_class,
    }
    for label in np.unique(labels):
        chosen = labels == label
        row = {
            "num_objects": int(chosen.sum()),
            "error_percent": error_percent(scores.log_posterior[chosen], labels[chosen]),
        }
        by_class[str(label)] = row | _density(scores, chosen)
    return result | _density(scores, np.ones(len(labels), bool))


def _density(scores: Scores, chosen: np.ndarray) -> dict[str, float]:
    if scores.log_prob is None or scores.bits_per_dim is None:
        return {}
    return {
        "log_prob_nats": float(np.mean(scores.log_prob[chosen])),
        "bits_per_dim": float(np.mean(scores.bits_per_dim[chosen])),
    }


def evaluation_record(
    engine: Engine, objects: str, scores: Scores, labels: np.ndarray
) -> dict[str, Any]:
    """What ``evaluation.json`` holds.

    Args:
      engine: that the scores come from.
      objects: what was evaluated, such as ``test`` or a file.
      scores: of the objects.
      labels: their classes ``[N]``, all known.

    Returns:
      ``objects``, ``posterior_at``, and all that :func:`evaluate_scores` gives.
    """
    measured = evaluate_scores(scores, labels)
    return {"objects": objects, "posterior_at": engine.posterior_at, **measured}


def plot_evaluation(folder: Path, scores: Scores, labels: np.ndarray) -> list[str]:
    """Draws the reliability diagram, the confusion matrix, and error against coverage.

    Args:
      folder: of the PNG files.
      scores: of the objects.
      labels: their classes ``[N]``, all known.

    Returns:
      Names of the files.
    """
    names = ["reliability.png", "confusion.png", "coverage.png"]
    charts.plot_reliability(folder / names[0], reliability(scores.log_posterior, labels))
    counts = confusion_matrix(scores.label, labels, scores.log_posterior.shape[-1])
    charts.plot_confusion(folder / names[1], counts)
    charts.plot_coverage(folder / names[2], *error_at_coverage(scores.log_posterior, labels))
    return names

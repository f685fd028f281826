"""Figures of training: its curves, and the density of points in the plane."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scnf_jax.bijectors.base import Params
from scnf_jax.reporting.canvas import save, subplots
from scnf_jax.scnf import SemiConditionalFlow


def plot_curves(path: Path, records: Sequence[Mapping[str, Any]], discrete: bool) -> None:
    """Draws bits/dim, or the loss of a model without a density, and error over the steps.

    Args:
      path: of the PNG.
      records: of ``metrics.jsonl``.
      discrete: whether bits/dim counts grey levels; for the axis label.
    """
    figure, axes = subplots(1, 2, figsize=(10, 3.8))
    dense = any("bits_per_dim" in r for r in records)
    measure = "bits_per_dim" if dense else "loss"
    for split, color in (("train", "tab:gray"), ("test", "tab:blue")):
        rows = [r for r in records if r["split"] == split and measure in r]
        if rows:
            steps, values = [r["step"] for r in rows], [r[measure] for r in rows]
            axes[0].plot(steps, values, color=color, label=split)
    rows = [r for r in records if "error_percent" in r]
    steps, errors = [r["step"] for r in rows], [r["error_percent"] for r in rows]
    axes[1].plot(steps, errors, color="tab:blue", marker="o", markersize=3)
    values = [r[measure] for r in records if math.isfinite(r.get(measure, math.nan))]
    if values:
        # The first steps, before the flow knows the scale of the data, would flatten the rest.
        low, high = min(values), float(np.percentile(values, 95))
        margin = 0.05 * (high - low) or 0.1
        axes[0].set_ylim(low - margin, high + margin)
    title, unit = "loss", "nats an object"
    if dense:
        title, unit = "negative log-likelihood", "bits/dim"
        if not discrete:
            unit += " (differential)"
    axes[0].set(xlabel="step", ylabel=unit, title=title)
    if axes[0].lines:
        axes[0].legend()
    axes[1].set(xlabel="step", ylabel="error, %", title="test error")
    axes[1].set_ylim(0.0, 1.05 * max(errors, default=0.0) or None)
    save(figure, path)


def density_grid(
    model: SemiConditionalFlow, params: Params, points: np.ndarray, size: int = 400
) -> tuple[tuple[float, float, float, float], np.ndarray, float]:
    """Evaluates ``log p(x, y)`` on a grid over the plane and integrates ``p(x)``.

    Args:
      model: of vectors with two elements.
      params: of the model.
      points: ``[N, 2]``; the grid reaches one and a half times as far.
      size: grid points an axis.

    Returns:
      The extent (left, right, bottom, top), ``log p(x, y)`` as ``[size, size, K]``
      (row: second coordinate), and the integral of ``p(x)`` by the midpoint rule.
    """
    middle = (points.max(0) + points.min(0)) / 2
    half = 1.5 * (points.max(0) - points.min(0)) / 2
    low, high = middle - half, middle + half
    step = (high - low) / size
    first = low[0] + step[0] * (np.arange(size) + 0.5)
    second = low[1] + step[1] * (np.arange(size) + 0.5)
    grid = np.stack(np.meshgrid(first, second), -1).reshape(size, size, 2).astype(np.float32)
    rows = jax.jit(lambda p, g: jax.lax.map(lambda row: model.log_joint(p, row), g))
    log_joint = np.asarray(rows(params, grid), np.float64)
    integral = float(np.exp(log_joint).sum() * step.prod())
    return (low[0], high[0], low[1], high[1]), log_joint, integral


def plot_density(
    path: Path,
    extent: tuple[float, float, float, float],
    log_joint: np.ndarray,
    points: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Draws ``p(x)`` with the decision boundary and the labelled points.

    Args:
      path: of the PNG.
      extent: see :func:`density_grid`.
      log_joint: see :func:`density_grid`.
      points: train points ``[N, 2]``.
      labels: ``[N]``, -1 for "not known".
    """
    density = np.exp(log_joint).sum(-1)
    posterior = np.exp(log_joint[..., 0]) / np.maximum(density, 1e-300)
    figure, axis = subplots(1, 1, figsize=(6.2, 5))
    image = axis.imshow(density, origin="lower", extent=extent, cmap="Blues", aspect="auto")
    first = np.linspace(extent[0], extent[1], density.shape[1])
    second = np.linspace(extent[2], extent[3], density.shape[0])
    if log_joint.shape[-1] == 2:
        shown = np.where(density > 1e-12, posterior, np.nan)
        axis.contour(first, second, shown, levels=[0.5], colors="k", linewidths=1)
    axis.scatter(*points[labels < 0].T, s=3, color="0.5", alpha=0.4, label="unlabelled")
    for label in range(log_joint.shape[-1]):
        axis.scatter(*points[labels == label].T, s=60, edgecolor="k", label=f"y = {label}")
    axis.set(xlabel="$x_1$", ylabel="$x_2$", title="p(x), and where p(y = 0 | x) = 1/2")
    axis.legend(loc="upper right", fontsize=8)
    figure.colorbar(image, label="p(x), per unit area")
    save(figure, path)

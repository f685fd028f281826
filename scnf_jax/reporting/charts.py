"""Charts of what a trained model's scores and latents say."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scnf_jax.analysis.calibration import Reliability
from scnf_jax.reporting.canvas import save, subplots

_MAX_NAMED = 20


def plot_reliability(path: Path, bins: Reliability) -> None:
    """Draws accuracy against confidence, and how many objects stand behind each bar.

    Args:
      path: of the PNG.
      bins: of :func:`~scnf_jax.analysis.calibration.reliability`.
    """
    figure, (top, bottom) = subplots(
        2, 1, figsize=(4.8, 5.4), sharex=True, gridspec_kw={"height_ratios": (3, 1)}
    )
    width = bins.edges[1] - bins.edges[0]
    left = bins.edges[:-1]
    top.bar(left, np.nan_to_num(bins.accuracy), width, align="edge", edgecolor="white")
    top.plot([0, 1], [0, 1], color="black", linewidth=1, label="perfectly calibrated")
    top.set(ylabel="accuracy", ylim=(0, 1), title=f"ECE {100 * bins.ece:.2f}%")
    top.legend(loc="upper left", fontsize=8)
    bottom.bar(left, bins.counts, width, align="edge", edgecolor="white", color="tab:gray")
    bottom.set(xlabel="confidence max p(y | x)", ylabel="objects", yscale="symlog", xlim=(0, 1))
    save(figure, path)


def plot_confusion(path: Path, counts: np.ndarray) -> None:
    """Draws a confusion matrix; colours show the share of a true class.

    Args:
      path: of the PNG.
      counts: ``[K, K]``, row the true label.
    """
    size = len(counts)
    edge = max(3.2, 0.45 * min(size, _MAX_NAMED) + 1.2)
    figure, axis = subplots(1, 1, figsize=(edge + 0.8, edge))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if size <= _MAX_NAMED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axis.text(
                    column, row, str(count), ha="center", va="center", color=color, fontsize=7
                )
        axis.set_xticks(range(size))
        axis.set_yticks(range(size))
    axis.set(xlabel="predicted class", ylabel="true class", title="test objects by class")
    figure.colorbar(image, label="share of the true class")
    save(figure, path)


def plot_coverage(path: Path, coverage: np.ndarray, error: np.ndarray) -> None:
    """Draws the error against the share of objects that the model answers on.

    Args:
      path: of the PNG.
      coverage: of :func:`~scnf_jax.analysis.calibration.error_at_coverage`, in 0..1.
      error: in percent.
    """
    figure, axis = subplots(1, 1, figsize=(5.2, 3.8))
    axis.plot(100 * coverage, error)
    axis.set(
        xlabel="coverage: objects answered, %",
        ylabel="error on them, %",
        title="error when the model may abstain",
        xlim=(0, 100),
    )
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    save(figure, path)


def plot_embeddings(
    path: Path, points: Mapping[str, np.ndarray], labels: np.ndarray, method: str
) -> None:
    """Draws two-dimensional embeddings side by side, classes coloured.

    Args:
      path: of the PNG.
      points: ``[N, 2]`` by the name of what was embedded.
      labels: ``[N]``.
      method: what made them, such as ``t-SNE``.
    """
    figure, axes = subplots(1, len(points), figsize=(4.6 * len(points) + 0.8, 4.6), squeeze=False)
    classes = np.unique(labels)
    colors = _colors(len(classes))
    for axis, (name, where) in zip(axes[0], points.items(), strict=True):
        for label, color in zip(classes, colors, strict=True):
            chosen = labels == label
            axis.scatter(*where[chosen].T, s=5, color=color, label=str(label))
        axis.set(xlabel=f"{method} 1", ylabel=f"{method} 2", title=name)
    axes[0, -1].legend(title="class", markerscale=3, fontsize=8, bbox_to_anchor=(1, 1))
    save(figure, path)


def plot_log_probs(path: Path, log_probs: Mapping[str, np.ndarray], unit: str) -> None:
    """Draws histograms of the density of several sets of objects.

    Args:
      path: of the PNG.
      log_probs: figures ``[N]`` by the name of the set.
      unit: of the figures, for the axis.
    """
    figure, axis = subplots(1, 1, figsize=(7.2, 3.8))
    joined = np.concatenate([v[np.isfinite(v)] for v in log_probs.values()])
    low, high = np.percentile(joined, [0.5, 99.5])
    edges = np.linspace(low, high, 80)
    for name, values in log_probs.items():
        inside = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
        axis.hist(inside, edges, density=True, histtype="step", linewidth=1.5, label=name)
    axis.set(xlabel=unit, ylabel="share of objects per unit", title="p(x) of several sets")
    axis.legend(fontsize=8)
    save(figure, path)


def _colors(num: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    if num <= 10:
        return [colormaps["tab10"](k) for k in range(num)]
    return [colormaps["gist_rainbow"](k / (num - 1)) for k in range(num)]

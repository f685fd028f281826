"""Matplotlib without a display and without global state."""

from pathlib import Path
from typing import Any


def subplots(
    rows: int, columns: int, figsize: tuple[float, float], **settings: Any
) -> tuple[Any, Any]:
    """A figure of its own, and its axes; as ``matplotlib.pyplot.subplots``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **settings)


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG."""
    figure.savefig(path, dpi=120)

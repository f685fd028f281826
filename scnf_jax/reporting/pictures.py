"""Grids of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scnf_jax.reporting.canvas import save, subplots

_GAP = 1
_MOST = 100


def drawable(event_shape: Sequence[int], num_levels: int | None) -> bool:
    """Whether objects are pictures: grey levels of one channel or three."""
    return num_levels is not None and event_shape[-1] in (1, 3)


def tile(images: np.ndarray) -> np.ndarray:
    """Images ``[rows, columns, H, W, C]`` as one picture, thin white lines between them."""
    rows, columns, height, width, channels = images.shape
    spaced = np.pad(images, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=1.0)
    joined = spaced.transpose(0, 2, 1, 3, 4)
    return joined.reshape(rows * (height + _GAP), columns * (width + _GAP), channels)


def plot_grid(
    path: Path,
    levels: np.ndarray,
    num_levels: int,
    title: str,
    row_names: Sequence[str],
    column_names: Sequence[str] = (),
    row_label: str = "",
    column_label: str = "",
) -> None:
    """Draws a grid of images, the first 100 rows and columns of a larger one.

    Args:
      path: of the PNG.
      levels: grey levels ``[rows, columns, H, W, C]``, C 1 or 3.
      num_levels: of a pixel; the highest is white.
      title: of the figure.
      row_names: one a row.
      column_names: one a column, or none.
      row_label: what the rows are.
      column_label: what the columns are.
    """
    if max(levels.shape[:2]) > _MOST:
        title += f" (part of {levels.shape[0]} x {levels.shape[1]})"
    levels = levels[:_MOST, :_MOST]
    rows, columns, height, width, channels = levels.shape
    picture = tile(levels.astype(np.float64) / (num_levels - 1))
    figure, axis = subplots(1, 1, figsize=(0.6 * columns + 1.4, 0.6 * rows + 1.0))
    axis.imshow(picture[..., 0] if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
    axis.set_yticks(np.arange(rows) * (height + _GAP) + height / 2, row_names[:rows])
    if column_names:
        axis.set_xticks(np.arange(columns) * (width + _GAP) + width / 2, column_names[:columns])
    else:
        axis.set_xticks([])
    axis.set_xlabel(column_label)
    axis.set_ylabel(row_label)
    axis.set_title(title, fontsize=10)
    axis.tick_params(length=0)
    save(figure, path)

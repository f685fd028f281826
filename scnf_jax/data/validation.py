"""Checks of data where it enters: one clear error before anything compiles."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from scnf_jax.data.streams import TrainObjects, at_most, take

if TYPE_CHECKING:
    from scnf_jax.data.sources import Dataset


def check_dataset(dataset: "Dataset") -> None:
    """Checks both parts of a dataset.

    Raises:
      ValueError: names the field, what was expected and what came.
    """
    for part in ("train", "test"):
        x, y = getattr(dataset, f"{part}_x"), getattr(dataset, f"{part}_y")
        check_objects(f"{part}_x", x, dataset.num_levels)
        check_labels(f"{part}_y", y, x.shape[0], dataset.num_classes, known=part == "test")
    if dataset.train_x.shape[1:] != dataset.test_x.shape[1:]:
        raise ValueError(
            f"test_x: expected objects of shape {dataset.train_x.shape[1:]} as in train_x, got "
            f"{dataset.test_x.shape[1:]}"
        )


_SLICE = 65_536


def check_objects(field: str, x: TrainObjects, num_levels: int | None, first: int = 0) -> None:
    """Checks the objects of one part.

    Args:
      field: name for the message.
      x: uint8 ``[N, H, W, C]`` where ``num_levels`` is given, else float ``[N, D]``.
      num_levels: grey levels, or None for vectors.
      first: number of the first object, where these are some of a larger whole.

    Raises:
      ValueError: for a wrong rank or dtype, an empty set, a grey level out of range, a
        value that is not finite.
    """
    expected = (
        "float vectors [N, D] or uint8 images [N, H, W] or [N, H, W, C]"
        if num_levels is None
        else "uint8 images [N, H, W, C]"
    )
    wanted = (2, np.floating) if num_levels is None else (4, np.uint8)
    if x.ndim != wanted[0] or not np.issubdtype(x.dtype, wanted[1]):
        raise ValueError(f"{field}: expected {expected}, got {x.dtype} of shape {x.shape}")
    if 0 in x.shape:
        raise ValueError(f"{field}: expected at least one object, got shape {x.shape}")
    if num_levels == 256:
        return  # every uint8 is a grey level
    for start in range(0, x.shape[0], _SLICE):
        _check_values(field, take(x, slice(start, start + _SLICE)), num_levels, first + start)


def _check_values(field: str, x: np.ndarray, num_levels: int | None, start: int) -> None:
    """Checks the numbers in some rows of a part, the first of which is number ``start``."""
    good = np.isfinite(x) if num_levels is None else x < num_levels
    if not good.all():
        first = tuple(int(index) for index in np.argwhere(~good)[0])
        expected = "finite numbers" if num_levels is None else f"grey levels 0..{num_levels - 1}"
        row = (first[0] + start, *first[1:])
        raise ValueError(f"{field}: expected {expected}, got {x[first]} at index {row}")


def warn_unless_standardised(x: TrainObjects) -> None:
    """Looks at 1,000 of the vectors ``[N, D]``, drawn, since a file may be sorted.

    Warns:
      UserWarning: where a feature's mean is beyond 10, or its deviation outside of 0.1 to 10.
    """
    some = np.asarray(take(x, at_most(1000, np.arange(x.shape[0]))), np.float64)
    mean, deviation = some.mean(0), some.std(0)
    odd = (np.abs(mean) > 10) | (deviation > 10) | ((deviation > 0) & (deviation < 0.1))
    if odd.any():
        first = int(np.argmax(odd))
        warnings.warn(
            "train_x: expected standardised features, of mean 0 and deviation 1, which noise and "
            f"the model's start are for; feature {first} has mean {mean[first]:.3g} and deviation "
            f"{deviation[first]:.3g}: standardise them (of all parts by those of the train part)",
            stacklevel=3,
        )


def check_labels(
    field: str, y: np.ndarray, num_objects: int, num_classes: int, known: bool = False
) -> None:
    """Checks the labels of one part.

    Args:
      field: name for the message.
      y: integers ``[N]``, -1 for "not known".
      num_objects: how many there must be.
      num_classes: K.
      known: whether -1 is refused.

    Raises:
      ValueError: for labels that are no integers, of another length, or out of range.
    """
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{field}: expected integer labels (-1: not known), got {y.dtype}")
    if y.shape != (num_objects,):
        raise ValueError(f"{field}: expected {num_objects} labels, one an object, got {y.shape}")
    lowest = 0 if known else -1
    bad = np.flatnonzero((y < lowest) | (y >= num_classes))
    if len(bad):
        raise ValueError(
            f"{field}: expected labels {lowest}..{num_classes - 1}, got {y[bad[0]]} "
            f"at index {bad[0]}"
        )

"""Host arrays of any length through a program of one batch size."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np


def slices(num: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` of ``num`` rows."""
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


def padded(array: np.ndarray, size: int) -> np.ndarray:
    """The array with its first row repeated behind it, up to ``size`` rows."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[:1], missing, 0)]) if missing else array


def joined(parts: Sequence[Any]) -> Any:
    """Pytrees of arrays, joined along the first axis."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

"""Train objects that stay on disk: read by row numbers, and ahead of the step that needs them."""

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
    """Objects on disk, as far as an array is asked for: a shape, and reading some of them.

    Attributes:
      read: row numbers of the source ``[n]`` -> objects ``[n, *event]``.
      index: the source's row number of each object ``[N]``.
      event_shape: of one object.
      dtype: of the objects.
    """

    read: Callable[[np.ndarray], np.ndarray]
    index: np.ndarray
    event_shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, *event)``."""
        return (len(self.index), *self.event_shape)

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What the objects would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def take(self, rows: np.ndarray | slice) -> np.ndarray:
        """Reads objects ``[n, *event]``."""
        return self.read(self.index[rows])

    def subset(self, rows: np.ndarray) -> "Rows":
        """Some of the objects, still on disk."""
        return dataclasses.replace(self, index=self.index[rows])


TrainObjects = np.ndarray | Rows


def take(x: TrainObjects, rows: np.ndarray | slice) -> np.ndarray:
    """Objects by row numbers, in memory, wherever they come from."""
    return x.take(rows) if isinstance(x, Rows) else x[rows]


def at_most(num: int, rows: np.ndarray) -> np.ndarray:
    """Some of these row numbers where there are more than ``num``, whatever they are sorted by.

    Always the same ones, in ascending order.
    """
    if len(rows) <= num:
        return rows
    return np.sort(np.random.RandomState(0).permutation(rows)[:num])


class ReadAhead:
    """Reads the rows of the next call of training steps while the current one runs.

    Args:
      x: the train objects.
      rows: first step of a call -> row numbers ``[steps, batch]``. It is asked for a call
        ahead, so that its answer does not wait behind the call that runs.
      steps: of a call.
      last: step at which training ends; nothing is read for calls that begin there.
    """

    def __init__(self, x: Rows, rows: Callable[[int], Any], steps: int, last: int) -> None:
        self._x, self._rows, self._steps, self._last = x, rows, steps, last
        self._pool = ThreadPoolExecutor(1, "read-ahead")
        self._next: tuple[int, Future[np.ndarray]] | None = None

    def close(self) -> None:
        """Stops reading."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self, step: int) -> "Future[np.ndarray]":
        rows = self._rows(step)
        return self._pool.submit(lambda: self._read(np.asarray(rows)))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self._x.take(rows.reshape(-1)).reshape(*rows.shape, *self._x.event_shape)

    def objects(self, step: int) -> np.ndarray:
        """Objects ``[steps, batch, *event]`` of the call that begins at a step."""
        ready = self._next[1] if self._next and self._next[0] == step else self._start(step)
        after = step + self._steps
        self._next = (after, self._start(after)) if after < self._last else None
        return ready.result()

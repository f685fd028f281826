"""A user's own objects: ``.npy``, ``.npz``, or a folder of PNG pictures."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile

from scnf_jax.data.validation import check_labels, check_objects

_KINDS = "a .npy, a .npz, a PNG or a folder of PNG files"


class Objects:
    """Objects as a model's data is stored, read a slice at a time.

    Attributes:
      names: one an object: its file, or its row number.
      y: int32 labels ``[N]``, -1 for "not known"; None where the source has none.

    Args:
      source: an array ``[N, *event]``, a memory map among them, or files of pictures.
      names: see above.
      y: see above.
      event_shape: of one object.
      num_levels: grey levels of a pixel, None for vectors.
      field: what messages call the source.
    """

    def __init__(
        self,
        source: np.ndarray | Sequence[Path],
        names: Sequence[str] | range,
        y: np.ndarray | None,
        event_shape: tuple[int, ...],
        num_levels: int | None,
        field: str,
    ) -> None:
        self._source, self.names, self.y = source, names, y
        self._event_shape, self._num_levels, self._field = event_shape, num_levels, field

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Rows as an array ``[n, *event]``, checked.

        Raises:
          ValueError: for a wrong shape, dtype, grey level, or a damaged picture.
        """
        rows = self._source[part]
        if isinstance(rows, np.ndarray):
            x = np.asarray(rows)
        else:
            x = np.stack(
                [read_png(path, self._event_shape, self._num_levels or 0) for path in rows]
            )
        if self._num_levels is not None and x.ndim == 3:
            x = x[..., None]
        elif self._num_levels is None and np.issubdtype(x.dtype, np.floating):
            x = x.astype(np.float32)
        check_objects(self._field, x, self._num_levels, part.start or 0)
        if x.shape[1:] != self._event_shape:
            raise ValueError(
                f"{self._field}: expected objects of shape {self._event_shape}, those the model "
                f"was trained on, got {x.shape[1:]}"
            )
        return x

    def all(self) -> np.ndarray:
        """Every row."""
        return self[slice(0, len(self))]


class _Arrays(NamedTuple):
    x: np.ndarray
    y: np.ndarray | None


def open_objects(
    path: str,
    event_shape: tuple[int, ...],
    num_levels: int | None,
    num_classes: int | None = None,
) -> Objects:
    """Opens a user's objects and checks the first; the others are checked as they are read.

    Args:
      path: of a ``.npy`` with ``[N, *event]``, mapped into memory; of a ``.npz`` with ``x``
        and perhaps ``y``, or with ``x_test`` and ``y_test``; of a PNG; or of a folder of
        PNG files, taken in the order of their names. Pictures are grey levels 0..255,
        mapped to the model's.
      event_shape: of one object.
      num_levels: grey levels of a pixel, None for vectors.
      num_classes: K; None: labels, which may be of other classes, are not read.

    Returns:
      The objects.

    Raises:
      ValueError: for a path that is not there, of another kind, empty or damaged; for
        objects that do not fit the model.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise ValueError(f"{path}: expected {_KINDS}, got no file")
    if source.is_dir() or source.suffix.lower() == ".png":
        return _open_pictures(source, event_shape, num_levels)
    if source.suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: expected {_KINDS}, got {source.suffix or 'no ending'}")
    arrays = _read_arrays(source)
    if arrays.x.ndim < 2 or len(arrays.x) == 0:
        raise ValueError(
            f"{path}: expected objects [N, ...] of shape {event_shape} each, got an array of "
            f"shape {arrays.x.shape}"
        )
    y = None
    if arrays.y is not None and num_classes is not None:
        check_labels(f"{path}: y", arrays.y, len(arrays.x), num_classes)
        y = arrays.y.astype(np.int32)
    objects = Objects(arrays.x, range(len(arrays.x)), y, event_shape, num_levels, f"{path}: x")
    objects[slice(0, 1)]
    return objects


def _read_arrays(path: Path) -> _Arrays:
    if path.suffix == ".npy":
        return _Arrays(read_array(path, mmap_mode="r"), None)
    arrays, names = read_archive(path, ("x", "y", "x_test", "y_test"))
    for x, y in (("x", "y"), ("x_test", "y_test")):
        if x in arrays:
            return _Arrays(arrays[x], arrays.get(y))
    raise ValueError(f"{path}: expected an array x (and perhaps y), got {names}")


def read_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """The array of a ``.npy``.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a damaged one, or one of another kind.
    """
    with _readable(path, ".npy"):
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: expected a .npy of one array, got a .npz of several")
    return array


def read_archive(path: Path, wanted: Sequence[str]) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of a ``.npz``: those of the wanted names that it has, and a list of all its names.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a damaged one, or one of another kind.
    """
    with _readable(path, ".npz"), path.open("rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        if not isinstance(archive, NpzFile):
            raise ValueError("it holds one array without a name")
        found = {name: archive[name] for name in wanted if name in archive.files}
        return found, ", ".join(archive.files) or "none"


@contextlib.contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a readable {kind} file of plain numbers, got a damaged one or "
            f"Python objects, which are never loaded ({error}); write it again with numpy"
        ) from None


def _open_pictures(source: Path, event_shape: tuple[int, ...], num_levels: int | None) -> Objects:
    if num_levels is None:
        raise ValueError(f"{source}: expected vectors in a .npy or .npz, got pictures")
    files = sorted(source.glob("*.[pP][nN][gG]")) if source.is_dir() else [source]
    if not files:
        raise ValueError(f"{source}: expected a folder of PNG files, found none in it")
    names = [file.name for file in files]
    objects = Objects(files, names, None, event_shape, num_levels, str(source))
    objects[slice(0, 1)]
    return objects


def read_png(path: Path, event_shape: tuple[int, ...], num_levels: int) -> np.ndarray:
    """A picture as grey levels ``[H, W, C]``.

    Args:
      path: of the PNG.
      event_shape: ``(H, W, C)``, C 1 or 3.
      num_levels: L; a shade ``v`` of 0..255 becomes the level ``round(v (L - 1) / 255)``.

    Returns:
      uint8 ``[H, W, C]``.

    Raises:
      ValueError: for a file that is no picture, one of another size, one that is not opaque, or
        grey levels of 16 bits; of 16 bits a channel, in other pictures, the higher 8 are read.
    """
    from PIL import Image, UnidentifiedImageError

    modes = {1: "L", 3: "RGB"}
    height, width, channels = event_shape
    if channels not in modes:
        raise ValueError(f"{path}: pictures have 1 or 3 channels, the model's objects {channels}")
    try:
        with Image.open(path) as picture:
            if picture.size != (width, height):
                raise ValueError(
                    f"{path}: expected a picture of {width}x{height} pixels, got "
                    f"{picture.size[0]}x{picture.size[1]}"
                )
            if picture.mode.startswith(("I", "F")):
                raise ValueError(
                    f"{path}: expected a picture of 8 bits a channel, got {picture.mode}; convert "
                    "it first"
                )
            if np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
                raise ValueError(
                    f"{path}: expected a picture without transparency, got one that is not opaque; "
                    "put it on a background first"
                )
            shades = np.asarray(picture.convert(modes[channels]), np.float64)
    except (
        OSError,
        SyntaxError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{path}: expected a PNG picture, got a damaged one ({error})") from None
    levels = np.round(shades * (num_levels - 1) / 255.0).astype(np.uint8)
    return levels.reshape(height, width, channels)


def write_png(path: Path, levels: np.ndarray, num_levels: int) -> None:
    """Writes grey levels ``[H, W, C]`` as a picture; :func:`read_png` gives them back.

    Args:
      path: of the PNG.
      levels: ``[H, W, C]``, C 1 or 3.
      num_levels: L; level ``v`` becomes the shade ``round(255 v / (L - 1))``.
    """
    from PIL import Image

    shades = np.round(levels.astype(np.float64) * 255.0 / (num_levels - 1)).astype(np.uint8)
    Image.fromarray(shades[..., 0] if shades.shape[-1] == 1 else shades).save(path)

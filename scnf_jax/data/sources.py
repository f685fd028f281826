"""Where data comes from: digits, moons, circles, TFDS by name, a user's ``.npz``."""

import difflib
import os
import zipfile
from typing import Any, NamedTuple

import numpy as np

from scnf_jax.data.masking import mask_labels
from scnf_jax.data.validation import check_dataset

EMBEDDED = ("digits", "moons", "circles")


class Dataset(NamedTuple):
    """A labelled train set and test set.

    Attributes:
      name: what was asked for.
      train_x: uint8 images ``[N, H, W, C]`` with grey levels ``0 .. num_levels - 1``, or
        float32 vectors ``[N, D]``.
      train_y: int32 ``[N]`` in ``0 .. K-1``, or -1 for "not known".
      test_x: as ``train_x``.
      test_y: int32, all known.
      num_classes: K.
      num_levels: grey levels of a pixel; None for vectors, which are not dequantised.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int
    num_levels: int | None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one object."""
        return tuple(self.train_x.shape[1:])

    @property
    def description(self) -> dict[str, Any]:
        """What a run folder records, and a model is built from."""
        fields = ("event_shape", "num_classes", "num_levels")
        return {field: getattr(self, field) for field in fields}

    def draw_labels(self, num_labelled: int, seed: int) -> np.ndarray:
        """The train labels that stay, -1 elsewhere; see :func:`~scnf_jax.data.mask_labels`.

        Args:
          num_labelled: labels that stay; 0 keeps every known label.
          seed: of the draw.

        Returns:
          int32 ``[N]``.
        """
        return mask_labels(self.train_y, num_labelled or None, seed, self.num_classes)


def load_dataset(name: str, validation_size: int = 0) -> Dataset:
    """Loads a dataset and checks every value in it.

    Args:
      name: ``digits``, ``moons``, ``circles``; the path of a ``.npz`` with ``x_train``,
        ``y_train``, ``x_test``, ``y_test``; or the name of a TFDS image dataset.
      validation_size: objects held out of the train set that take the place of the
        test set, for choosing settings without test labels. 0: the real test set.

    Returns:
      The dataset, with all the labels that its source has.

    Raises:
      ValueError: for an unknown name, a missing or damaged file, data that breaks the
        rules of :class:`Dataset`; says what to do.
    """
    if name.endswith(".npz"):
        dataset = _load_npz(name)
    elif name in EMBEDDED:
        dataset = {"digits": _load_digits, "moons": _load_moons, "circles": _load_circles}[name]()
    else:
        dataset = _load_tfds(name)
    check_dataset(dataset)
    return _hold_out(dataset, validation_size) if validation_size else dataset


def _hold_out(dataset: Dataset, size: int) -> Dataset:
    num = len(dataset.train_x)
    if not 0 < size < num:
        raise ValueError(f"validation_size: expected 0 <= size < {num} train objects, got {size}")
    known = np.flatnonzero(dataset.train_y >= 0)
    if len(known) <= size:
        raise ValueError(
            f"validation_size: expected fewer than the {len(known)} train objects with a known "
            f"label, got {size}"
        )
    held = np.random.RandomState(0).permutation(known)[:size]
    kept = np.setdiff1d(np.arange(num), held)
    return dataset._replace(
        train_x=dataset.train_x[kept],
        train_y=dataset.train_y[kept],
        test_x=dataset.train_x[held],
        test_y=dataset.train_y[held],
    )


def _load_digits() -> Dataset:
    """The 1,797 real 8x8 scans in scikit-learn; 1,297 train, 500 test, one fixed stratified split.

    References:
      Alpaydin, Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, bunch.target, test_size=500, random_state=0, stratify=bunch.target
    )
    return Dataset(
        "digits", train_x, _as_labels(train_y), test_x, _as_labels(test_y), 10, num_levels=17
    )


def _load_moons() -> Dataset:
    """Two half-moons, noise .1: 1,000 train and 1,000 test points."""
    from sklearn.datasets import make_moons

    return _toy("moons", *make_moons(2000, noise=0.1, random_state=0))


def _load_circles() -> Dataset:
    """A circle inside a circle, noise .1 and factor .2: 1,000 train and 1,000 test points."""
    from sklearn.datasets import make_circles

    return _toy("circles", *make_circles(2000, noise=0.1, factor=0.2, random_state=0))


def _toy(name: str, points: np.ndarray, labels: np.ndarray) -> Dataset:
    points, labels = points.astype(np.float32), _as_labels(labels)
    return Dataset(name, points[:1000], labels[:1000], points[1000:], labels[1000:], 2, None)


def _as_labels(labels: np.ndarray) -> np.ndarray:
    return np.asarray(labels).astype(np.int32)


def _load_npz(path: str) -> Dataset:
    path = os.path.expanduser(path)
    wanted = ("x_train", "y_train", "x_test", "y_test")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            missing = [key for key in wanted if key not in archive.files]
            if missing:
                raise ValueError(
                    f"{path}: expected arrays {', '.join(wanted)}, got "
                    f"{', '.join(archive.files) or 'none'}; add {', '.join(missing)}"
                )
            arrays = {key: archive[key] for key in wanted}
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a .npz file, got no file; check the path") from None
    except (OSError, zipfile.BadZipFile, EOFError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise ValueError(
            f"{path}: expected a readable .npz archive, got a damaged one ({error}); "
            "write it again with numpy.savez_compressed"
        ) from None
    for key in ("x_train", "x_test"):
        array = arrays[key]
        if array.dtype == np.uint8 and array.ndim == 3:
            arrays[key] = array[..., None]
        elif np.issubdtype(array.dtype, np.floating) and array.ndim == 2:
            arrays[key] = array.astype(np.float32)
    for key in ("y_train", "y_test"):
        if np.issubdtype(arrays[key].dtype, np.integer):
            arrays[key] = _as_labels(arrays[key])
    labels = arrays["y_train"]
    num_classes = int(labels.max()) + 1 if labels.size and labels.dtype == np.int32 else 0
    levels = 256 if arrays["x_train"].dtype == np.uint8 else None
    x_train, y_train, x_test, y_test = (arrays[key] for key in wanted)
    return Dataset(path, x_train, y_train, x_test, y_test, num_classes, levels)


def _load_tfds(name: str) -> Dataset:
    """Reads a prepared TFDS image dataset through ``as_data_source``, without TensorFlow."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(
            f"dataset: {name!r} is read through TFDS, which is not installed; "
            "run: pip install tensorflow-datasets array_record"
        ) from None
    known = tfds.list_builders(with_community_datasets=False)
    if name.split("/")[0].split(":")[0] not in known:
        near = difflib.get_close_matches(name, [*EMBEDDED, *known], n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"dataset: expected {', '.join(EMBEDDED)}, the path of a .npz, or a name that TFDS "
            f"knows, got {name!r}; {hint}tfds.list_builders() lists all"
        )
    builder = tfds.builder(name)
    features = builder.info.features
    if features is None or not {"image", "label"} <= set(features):
        raise ValueError(f"dataset: expected a TFDS image classification dataset, got {name!r}")
    try:
        source = builder.as_data_source()
    except (AssertionError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"dataset: {name!r} is not prepared in {builder.data_path} as array_record; run: "
            f"pip install 'scnf_jax[prepare]' && python -c \"import tensorflow_datasets as tfds; "
            f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\" "
            f"(with TFDS_DATA_DIR set to the folder you want). TFDS said: "
            f"{str(error).splitlines()[0]}"
        ) from None
    missing = {"train", "test"} - set(source)
    if missing:
        raise ValueError(
            f"dataset: expected splits train and test in {name!r}, got {', '.join(source)}"
        )
    train_x, train_y = _read_split(source["train"])
    test_x, test_y = _read_split(source["test"])
    num_classes = features["label"].num_classes
    return Dataset(name, train_x, train_y, test_x, test_y, num_classes, num_levels=256)


def _read_split(source: object) -> tuple[np.ndarray, np.ndarray]:
    rows = source.__getitems__(range(len(source)))  # type: ignore[attr-defined,arg-type]
    images = np.stack([row["image"] for row in rows])
    return images, _as_labels(np.array([row["label"] for row in rows]))

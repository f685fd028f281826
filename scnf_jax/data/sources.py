"""Where data comes from: scikit-learn, TFDS by name, a user's ``.npz`` or folder."""

import difflib
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scnf_jax.data.files import read_archive, read_array
from scnf_jax.data.masking import mask_labels
from scnf_jax.data.streams import Rows, TrainObjects, take
from scnf_jax.data.validation import check_dataset

STREAM_FROM_BYTES = 2**30
_AT_ONCE = 10_000
_WANTED = ("x_train", "y_train", "x_test", "y_test")


class Dataset(NamedTuple):
    """A labelled train set and test set.

    Attributes:
      name: what was asked for.
      train_x: uint8 images ``[N, H, W, C]`` with grey levels ``0 .. num_levels - 1``, or
        float32 vectors ``[N, D]``; in memory, or :class:`~scnf_jax.data.Rows` on disk.
      train_y: int32 ``[N]`` in ``0 .. K-1``, or -1 for "not known".
      test_x: as ``train_x``.
      test_y: int32, all known.
      num_classes: K.
      num_levels: grey levels of a pixel; None for vectors, which are not dequantised.
    """

    name: str
    train_x: TrainObjects
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
        """What a run folder records: what a model is built from, and which data these are.

        ``fingerprint`` is the CRC-32 of all labels and of the test objects, ``train_fingerprint``
        that of 1,000 train objects, which may be on disk, at even distances.
        """
        fields = ("event_shape", "num_classes", "num_levels")
        num = len(self.train_y)
        some = take(self.train_x, np.linspace(0, num - 1, min(num, 1000)).astype(int))
        return {
            **{field: getattr(self, field) for field in fields},
            "num_train": num,
            "num_test": len(self.test_y),
            "fingerprint": _crc32(self.train_y, self.test_y, self.test_x),
            "train_fingerprint": _crc32(some),
        }

    def draw_labels(
        self, num_labelled: int, seed: int, answers: Mapping[int, int] | None = None
    ) -> np.ndarray:
        """The train labels that a run may see, -1 elsewhere.

        Args:
          num_labelled: labels that stay, see :func:`~scnf_jax.data.mask_labels`; 0 keeps every
            known label.
          seed: of the draw.
          answers: labels by row beside those; one there takes the place of a known one.

        Returns:
          int32 ``[N]``.

        Raises:
          ValueError: as :func:`~scnf_jax.data.mask_labels`.
        """
        labels = self.train_y.astype(np.int32)
        if num_labelled:
            labels = mask_labels(labels, num_labelled, seed, self.num_classes)
        for row, label in (answers or {}).items():
            labels[row] = label
        return labels if num_labelled else mask_labels(labels, None, seed, self.num_classes)


def _crc32(*arrays: np.ndarray) -> str:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return f"{value:08x}"


def load_dataset(name: str, validation_size: int = 0, stream: bool | None = False) -> Dataset:
    """Loads a dataset and checks every value in it.

    Args:
      name: ``digits``, ``breast_cancer``, ``moons``, ``circles``; the path of a ``.npz`` with
        ``x_train``, ``y_train``, ``x_test``, ``y_test``, or of a folder with these as ``.npy``
        files; or the name of a TFDS image dataset.
      validation_size: objects held out of the train set that take the place of the
        test set, for choosing settings without test labels. 0: the real test set.
      stream: whether the train objects stay on disk, in a folder of ``.npy`` or as TFDS's
        ``array_record``, and are read when they are needed. None: where they are larger
        than 1 GiB, and their source can.

    Returns:
      The dataset, with all the labels that its source has.

    Raises:
      ValueError: for an unknown name, a missing or damaged file, data that breaks the
        rules of :class:`Dataset`; says what to do.
    """
    path = os.path.expanduser(name)
    if _is_folder(path):
        dataset = _load_folder(path, stream)
    elif name.endswith(".npz"):
        dataset = _load_npz(path)
    elif name in EMBEDDED:
        dataset = EMBEDDED[name]()
    else:
        dataset = _load_tfds(name, stream)
    if stream and not isinstance(dataset.train_x, Rows):
        raise ValueError(
            f"stream: {name} is read whole; expected a folder with {', '.join(_WANTED)} as .npy "
            "files, or a TFDS dataset"
        )
    check_dataset(dataset)
    return _hold_out(dataset, validation_size) if validation_size else dataset


def _is_folder(path: str) -> bool:
    """Whether a name means a folder of arrays; a dataset's name may be that of a folder, too."""
    if path in EMBEDDED or not os.path.isdir(path):
        return False
    return os.sep in path or os.path.exists(os.path.join(path, "x_train.npy"))


def _stays_on_disk(stream: bool | None, num_bytes: int) -> bool:
    return num_bytes >= STREAM_FROM_BYTES if stream is None else stream


def _hold_out(dataset: Dataset, size: int) -> Dataset:
    num = len(dataset.train_y)
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
    x = dataset.train_x
    return dataset._replace(
        train_x=x.subset(kept) if isinstance(x, Rows) else x[kept],
        train_y=dataset.train_y[kept],
        test_x=take(x, held),
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


def _load_breast_cancer() -> Dataset:
    """30 measurements of 569 tumours, standardised by the train part; 400 train, 169 test.

    References:
      Street, Wolberg, Mangasarian 1993, "Nuclear Feature Extraction for Breast Tumor Diagnosis".
    """
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    x, y = load_breast_cancer(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=169, random_state=0, stratify=y
    )
    scaler = StandardScaler().fit(train_x)
    train_x, test_x = (scaler.transform(part).astype(np.float32) for part in (train_x, test_x))
    return Dataset(
        "breast_cancer", train_x, _as_labels(train_y), test_x, _as_labels(test_y), 2, None
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


EMBEDDED: dict[str, Callable[[], Dataset]] = {
    "digits": _load_digits,
    "breast_cancer": _load_breast_cancer,
    "moons": _load_moons,
    "circles": _load_circles,
}


def _load_npz(path: str) -> Dataset:
    try:
        arrays, names = read_archive(Path(path), _WANTED)
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a .npz file, got no file; check the path") from None
    if missing := [key for key in _WANTED if key not in arrays]:
        raise ValueError(
            f"{path}: expected arrays {', '.join(_WANTED)}, got {names}; add {', '.join(missing)}"
        )
    return _from_arrays(path, arrays)


def _load_folder(path: str, stream: bool | None) -> Dataset:
    """Arrays in files of their own; the train objects are mapped before any is read."""
    arrays = {}
    for key in _WANTED:
        file = Path(path) / f"{key}.npy"
        try:
            arrays[key] = read_array(file, "r" if key == "x_train" else None)
        except FileNotFoundError:
            raise ValueError(
                f"{path}: expected {', '.join(f'{key}.npy' for key in _WANTED)}, found no "
                f"{key}.npy; write it with numpy.save"
            ) from None
    mapped = arrays["x_train"]
    if not mapped.ndim or not _stays_on_disk(stream, mapped.nbytes):
        return _from_arrays(path, arrays)
    one = _as_objects(mapped[:1])
    index = np.arange(len(mapped))
    rows = Rows(lambda rows: _as_objects(mapped[rows]), index, one.shape[1:], one.dtype)
    return _from_arrays(path, arrays | {"x_train": one})._replace(train_x=rows)


def _as_objects(array: np.ndarray) -> np.ndarray:
    """In memory; images with a channel axis, vectors in float32."""
    if array.dtype == np.uint8 and array.ndim == 3:
        array = array[..., None]
    elif np.issubdtype(array.dtype, np.floating) and array.ndim == 2:
        array = array.astype(np.float32)
    return np.array(array)


def _from_arrays(name: str, arrays: dict[str, np.ndarray]) -> Dataset:
    """A dataset of a user's arrays; what is wrong with them is said when it is checked."""
    arrays = arrays | {key: _as_objects(arrays[key]) for key in ("x_train", "x_test")}
    shape = arrays["y_train"].shape
    most = shape[0] if len(shape) == 1 else 0  # every class has a label there
    for key in ("y_train", "y_test"):
        if most and np.issubdtype(arrays[key].dtype, np.integer):
            far = arrays[key][(arrays[key] < -1) | (arrays[key] >= most)]
            if far.size:
                raise ValueError(
                    f"{name}: {key}: expected labels 0..K-1, or -1 for not known, of at most "
                    f"{most} classes; got {far[0]}"
                )
            arrays[key] = _as_labels(arrays[key])
    labels = arrays["y_train"]
    if labels.dtype == np.int32 and labels.size and labels.max() < 0:
        raise ValueError(
            f"{name}: y_train: expected at least one known label of every class, got -1 alone"
        )
    num_classes = int(labels.max()) + 1 if labels.size and labels.dtype == np.int32 else 0
    levels = 256 if arrays["x_train"].dtype == np.uint8 else None
    x_train, y_train, x_test, y_test = (arrays[key] for key in _WANTED)
    return Dataset(name, x_train, y_train, x_test, y_test, num_classes, levels)


def _load_tfds(name: str, stream: bool | None) -> Dataset:
    """Reads a prepared TFDS image dataset through ``as_data_source``, without TensorFlow.

    Args:
      name: of the dataset.
      stream: whether train images are left undecoded.
    """
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
            f"dataset: expected {', '.join(EMBEDDED)}, the path of a .npz or of a folder with "
            f"{', '.join(_WANTED)} as .npy files, or a name that TFDS knows, got {name!r}; "
            f"{hint}tfds.list_builders() lists all"
        )
    # tfds reads the variable when it is first imported; here it counts when data are asked for.
    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"dataset: expected a version and a config that TFDS has, got {name!r}. TFDS said: "
            f"{str(error).strip().partition(chr(10))[0]}"
        ) from None
    features = builder.info.features
    if features is None or not {"image", "label"} <= set(features):
        raise ValueError(f"dataset: expected a TFDS image classification dataset, got {name!r}")
    shape = features["image"].shape
    if None in shape:
        raise ValueError(
            f"dataset: expected images of one shape, got {name!r} with {tuple(shape)}; "
            f"resize them, and give a .npz or a folder with {', '.join(_WANTED)}"
        )
    try:
        source = builder.as_data_source()
    except (AssertionError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"dataset: {name!r} is not prepared in {builder.data_path} as array_record; run: "
            f"pip install -e '.[prepare]' && python -c \"import tensorflow_datasets as tfds; "
            f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\" "
            f"(with TFDS_DATA_DIR set to the folder you want). TFDS said: "
            f"{str(error).splitlines()[0]}"
        ) from None
    missing = {"train", "test"} - set(source)
    if missing:
        raise ValueError(
            f"dataset: expected splits train and test in {name!r}, got {', '.join(source)}"
        )
    test_x, test_y = _read_split(source["test"])
    num_classes = features["label"].num_classes
    num = len(source["train"])
    if _stays_on_disk(stream, num * math.prod(shape)):
        undecoded = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
        slices = np.split(np.arange(num), range(_AT_ONCE, num, _AT_ONCE))
        labels = [row["label"] for rows in slices for row in _rows(undecoded, rows)]
        train_y = _as_labels(np.array(labels))

        def read(rows: np.ndarray) -> np.ndarray:
            return np.stack([row["image"] for row in _rows(source["train"], rows)])

        train_x: TrainObjects = Rows(
            read, np.arange(num), shape, np.dtype(features["image"].np_dtype)
        )
    else:
        train_x, train_y = _read_split(source["train"])
    return Dataset(name, train_x, train_y, test_x, test_y, num_classes, num_levels=256)


def _rows(source: Any, rows: np.ndarray | None = None) -> list[dict[str, Any]]:
    return source.__getitems__(range(len(source)) if rows is None else rows.tolist())


def _read_split(source: Any) -> tuple[np.ndarray, np.ndarray]:
    rows = _rows(source)
    images = np.stack([row["image"] for row in rows])
    return images, _as_labels(np.array([row["label"] for row in rows]))

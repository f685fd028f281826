"""Labels for objects without one: of a trained model, or spread from the known ones, or both."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scnf_jax import parallel
from scnf_jax.checkpoints import CheckpointError
from scnf_jax.data import Dataset, take
from scnf_jax.folders import differing_data, read_json, read_settings, replacing
from scnf_jax.inference import Engine
from scnf_jax.labels import kept_answers, seen_labels
from scnf_jax.loading import load_run
from scnf_jax.metrics import margins
from scnf_jax.settings import RunOptions
from scnf_jax.spreading import nearest_objects, neighbour_graph, spread_labels

_FILE = "pseudo_labels.npy"
_SAW_THE_SAME = ("dataset", "num_labelled", "resolved_label_seed", "validation_size")


def surest_labels(log_posterior: np.ndarray, share: float) -> np.ndarray:
    r"""The most likely label of the objects that a model is surest of.

    How sure it is of an object is the margin of the two most likely labels, see
    :func:`~scnf_jax.metrics.margins`. The share is taken within each label, so that hard classes
    stay as frequent as easy ones.

    Args:
      log_posterior: ``log p(y|x) [N, K]``.
      share: of the objects with the same most likely label, the surest first, rounded.

    Returns:
      int32 ``[N]``, -1 for the others, and where the posterior is not a number.

    References:
      Lee 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for
      Deep Neural Networks"; Zou et al. 2018, "Unsupervised Domain Adaptation for Semantic
      Segmentation via Class-Balanced Self-Training", section 4.2,
      https://arxiv.org/abs/1810.07911

    Example:
      >>> surest_labels(np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), share=0.5)
      array([ 0, -1, -1], dtype=int32)
    """
    known = ~np.isnan(log_posterior).any(-1)
    likely = np.argmax(log_posterior, -1)
    margin = margins(log_posterior)
    labels = np.full(len(likely), -1, np.int32)
    for label in range(log_posterior.shape[-1]):
        members = np.flatnonzero((likely == label) & known)
        surest = members[np.argsort(-margin[members], kind="stable")]
        labels[surest[: round(share * len(members))]] = label
    return labels


def source_of(
    options: RunOptions, folder: Path, dataset: Dataset, labels: np.ndarray
) -> Path | None:
    """The folder of the run that has to give labels before this one can be trained.

    Args:
      options: see :func:`add_pseudo_labels`.
      folder: see :func:`add_pseudo_labels`.
      dataset: see :func:`add_pseudo_labels`.
      labels: see :func:`add_pseudo_labels`.

    Returns:
      None where there is none in the settings, it has given them already, or no object needs one.

    Raises:
      ValueError: where vectors are to be moved.
    """
    if not options.pseudo_labels or (folder / _FILE).exists() or (labels >= 0).all():
        return None
    if options.pseudo_label_shift and dataset.train_x.ndim != 4:
        raise ValueError(
            f"pseudo_label_shift: expected 0 for vectors, got {options.pseudo_label_shift}"
        )
    return Path(options.with_seed(options.pseudo_labels).replace("{workdir}", str(folder)))


def is_finished(source: Path) -> bool:
    """Whether a folder holds a run that was trained to its end."""
    with contextlib.suppress(ValueError):  # of a damaged file
        return read_json(source / "summary.json").get("status") == "finished"
    return False


def add_pseudo_labels(
    options: RunOptions, folder: Path, dataset: Dataset, labels: np.ndarray
) -> np.ndarray:
    """Gives objects without a label those of the run that the settings name, spread as they say.

    Args:
      options: with ``pseudo_labels``, ``pseudo_label_shift``, ``pseudo_label_spreading`` and
        ``pseudo_label_share``.
      folder: of the run to be trained; the labels that it was begun with, where it has been.
      dataset: of the run.
      labels: int32 ``[N]``, -1 for "not known"; those that are known stay.

    Returns:
      int32 ``[N]``, -1 where there is still none.

    Raises:
      ValueError: where there is no such run, it saw other data or labels, vectors are to be moved,
        or the folder's own labels are damaged.
    """
    if not options.has_pseudo_labels:
        return labels
    if (folder / _FILE).exists():
        return _read(folder / _FILE, len(labels))
    if (labels >= 0).all():
        return labels
    source = source_of(options, folder, dataset, labels)
    if source is None:
        log_posterior = np.full((len(labels), dataset.num_classes), np.nan)
    else:
        log_posterior = _posterior_of_run(source, options, dataset, labels)
    if alpha := options.pseudo_label_spreading:
        _say(f"labels are spread over {len(labels)} train objects ...")
        belief = np.nan_to_num(np.exp(log_posterior))
        known = np.flatnonzero(labels >= 0)
        belief[known] = np.eye(dataset.num_classes)[labels[known]]
        graph = neighbour_graph(*nearest_objects(dataset.train_x, dataset.num_levels))
        log_posterior = spread_labels(graph, belief, alpha)
    pseudo = surest_labels(log_posterior, options.pseudo_label_share)
    return np.where(labels < 0, pseudo, labels)


def _posterior_of_run(
    source: Path, options: RunOptions, dataset: Dataset, labels: np.ndarray
) -> np.ndarray:
    """``log p(y|x) [N, K]`` of the train objects, by that run; ValueError where it does not fit."""
    try:
        run = load_run(source)
    except (ValueError, CheckpointError) as error:
        raise ValueError(
            f"pseudo_labels: expected the folder of a finished run, got {source}; train it there "
            f"first, or give another one with --config.pseudo_labels=FOLDER ({error})"
        ) from None
    if run.step < run.options.steps:
        raise ValueError(
            f"pseudo_labels: expected a finished run, got {source} at step {run.step} of "
            f"{run.options.steps}; the command that trains it resumes"
        )
    if read_json(source / "summary.json").get("status") == "diverged":
        raise ValueError(
            f"pseudo_labels: expected a run that has not diverged, got {source}; train another one"
        )
    for name in _SAW_THE_SAME:
        theirs, ours = getattr(run.options, name), getattr(options, name)
        if theirs != ours:
            raise ValueError(
                f"pseudo_labels: expected a run on the same labels, got {source} with "
                f"{name.removeprefix('resolved_')} {theirs!r}, not {ours!r}"
            )
    if differ := differing_data(read_settings(run.folder), dataset.description):
        raise ValueError(
            f"pseudo_labels: expected a run on the same data, got {source} on others ({differ})"
        )
    answers = kept_answers(run.options, dataset, run.folder)
    if not np.array_equal(seen_labels(run.options, dataset, answers), labels):
        raise ValueError(
            f"pseudo_labels: expected a run on the same labels, got {source} with other ones from "
            f"label_file {run.options.label_file!r}, not {options.label_file!r}"
        )
    _say(f"{source} gives labels to {len(labels)} train objects ...")
    engine = Engine(run)
    parts = []
    for part in engine.batches(len(labels)):
        views = _moved(take(dataset.train_x, part), options.pseudo_label_shift)
        scores = [engine.scores_of_batch(view, part, density=False) for view in views]
        parts.append(np.mean([each.log_posterior for each in scores], 0))
    return np.concatenate(parts)


def _say(line: str) -> None:
    if parallel.is_first():
        sys.stderr.write(line + "\n")


def _moved(images: np.ndarray, pixels: int) -> Iterator[np.ndarray]:
    """Objects, and images ``[n, H, W, C]`` moved up, down, left and right; 0 comes in.

    Example:
      >>> images = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
      >>> [view.ravel().tolist() for view in _moved(images, 1)]
      [[1, 2, 3, 4], [3, 4, 0, 0], [0, 0, 1, 2], [2, 0, 4, 0], [0, 1, 0, 3]]
    """
    yield images
    if not pixels:
        return
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    for row, column in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        top, left = pixels + row * pixels, pixels + column * pixels
        yield padded[:, top : top + height, left : left + width]


def save_labels(folder: Path, labels: np.ndarray) -> None:
    """Keeps the labels that a run is trained with, so that it resumes with the same."""
    with replacing(folder / _FILE) as temporary:
        np.save(temporary, labels)


def _read(path: Path, num: int) -> np.ndarray:
    try:
        labels = np.load(path, allow_pickle=False)
        if labels.shape != (num,):
            raise ValueError(f"shape {labels.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: expected {num} labels, got a damaged file ({error}); remove the folder to "
            "start again"
        ) from None
    return labels

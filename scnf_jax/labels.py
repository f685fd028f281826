"""The labels that a run sees: some of the data's own, and those that were given by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scnf_jax.data import Dataset, read_answers
from scnf_jax.folders import write_text
from scnf_jax.settings import LabelOptions

_FILE = "answers.csv"


def given_answers(options: LabelOptions, dataset: Dataset, folder: Path) -> dict[int, int]:
    """Labels by train row that were given by hand.

    Args:
      options: with ``label_file``.
      dataset: that the rows count.
      folder: of the run; the answers that it was begun with, where it has been.

    Returns:
      See :func:`~scnf_jax.data.read_answers`; none without a ``label_file``.

    Raises:
      ValueError: where the file is missing, damaged or empty, or is not what the run was begun
        with.
    """
    if options.resolved_label_file is None:
        return {}
    path, saved = Path(options.resolved_label_file).expanduser(), folder / _FILE
    size = len(dataset.train_y), dataset.num_classes
    if saved.exists() and not path.exists():
        return read_answers(saved, *size)
    given = read_answers(path, *size)
    if not given:
        raise ValueError(
            f"label_file: expected at least one label, got none in {path}; fill in its column label"
        )
    if saved.exists() and given != read_answers(saved, *size):
        raise ValueError(
            f"label_file: {path} has other labels than the run in {folder} was begun with, which "
            f"are in {saved.name} there; give another --workdir for a run with these"
        )
    return given


def kept_answers(options: LabelOptions, dataset: Dataset, folder: Path) -> dict[int, int]:
    """The answers that the run in a folder was begun with, whatever its label file holds by now.

    Args:
      options: of that run.
      dataset: that the rows count.
      folder: of the run, or of its export.

    Returns:
      As :func:`given_answers`.

    Raises:
      ValueError: where they are damaged, or neither kept there nor in the label file.
    """
    saved = folder / _FILE
    if saved.exists():
        return read_answers(saved, len(dataset.train_y), dataset.num_classes)
    return given_answers(options, dataset, folder)


def seen_labels(options: LabelOptions, dataset: Dataset, answers: Mapping[int, int]) -> np.ndarray:
    """The train labels that a run sees; see :meth:`~scnf_jax.data.Dataset.draw_labels`."""
    return dataset.draw_labels(options.num_labelled, options.resolved_label_seed, answers)


def keep_answers(folder: Path, answers: Mapping[int, int]) -> None:
    """Keeps the answers in the run's folder, so that it resumes with the same."""
    if answers:
        lines = [f"{row},{label}\n" for row, label in answers.items()]
        write_text(folder / _FILE, "".join(["row,label\n", *lines]))


def copy_answers(source: Path, folder: Path) -> list[Path]:
    """Copies the answers that a run keeps, over those there; the file, where there is one."""
    saved, copy = source / _FILE, folder / _FILE
    if not saved.exists():
        copy.unlink(missing_ok=True)
        return []
    write_text(copy, saved.read_text())
    return [copy]

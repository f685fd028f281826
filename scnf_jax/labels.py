"""The labels that a run sees: some of the data's own, and those that were given by hand."""

from pathlib import Path

import numpy as np

from scnf_jax.data import Dataset, read_answers
from scnf_jax.folders import write_text
from scnf_jax.settings import LabelOptions

_FILE = "answers.csv"


def seen_labels(options: LabelOptions, dataset: Dataset, folder: Path) -> np.ndarray:
    """The train labels that a run sees, -1 elsewhere.

    Args:
      options: with ``num_labelled``, ``label_seed`` and ``label_file``.
      dataset: all that is known.
      folder: of the run; the answers that it was begun with, where it has been.

    Returns:
      int32 ``[N]``; see :meth:`~scnf_jax.data.Dataset.draw_labels`.

    Raises:
      ValueError: as there, and where the file of answers is missing, damaged or empty, or is not
        what the run was begun with.
    """
    given = given_answers(options, dataset, folder)
    return dataset.draw_labels(options.num_labelled, options.resolved_label_seed, given)


def given_answers(options: LabelOptions, dataset: Dataset, folder: Path) -> dict[int, int]:
    """Labels by train row that were given by hand; as :func:`seen_labels`."""
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


def keep_answers(options: LabelOptions, dataset: Dataset, folder: Path) -> None:
    """Keeps the answers in the run's folder, so that it resumes with the same."""
    if given := given_answers(options, dataset, folder):
        lines = [f"{row},{label}\n" for row, label in given.items()]
        write_text(folder / _FILE, "".join(["row,label\n", *lines]))

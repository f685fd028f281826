"""Which labels a run may see."""

import csv
from pathlib import Path

import numpy as np

_NAMED = 10  # of the classes without a label, in a message


def mask_labels(
    labels: np.ndarray, num_labelled: int | None, seed: int, num_classes: int
) -> np.ndarray:
    """Keeps a stratified draw of labels and hides the others.

    Every class keeps ``num_labelled // K`` labels; the remainder goes to classes drawn
    at random. The draw depends on ``labels``, ``num_labelled`` and ``seed`` alone.

    Args:
      labels: integers ``[N]`` in ``0 .. K-1``, or -1 for "not known".
      num_labelled: how many to keep; None keeps all that are known.
      seed: of the draw.
      num_classes: K.

    Returns:
      int32 ``[N]``, with -1 for hidden labels.

    Raises:
      ValueError: where no label is left, a class has none, or more are asked for than
        a class has.
    """
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    if num_labelled is None:
        _check_coverage(counts)
        return labels.astype(np.int32)
    if not num_classes <= num_labelled <= counts.sum():
        raise ValueError(
            f"num_labelled: expected {num_classes} (one a class) to {counts.sum()} (all known "
            f"labels), got {num_labelled}"
        )
    rng = np.random.RandomState(seed)
    quota = np.full(num_classes, num_labelled // num_classes)
    quota[rng.permutation(num_classes)[: num_labelled % num_classes]] += 1
    masked = np.full(len(labels), -1, np.int32)
    for label in range(num_classes):
        if counts[label] < quota[label]:
            raise ValueError(
                f"num_labelled: expected at least {quota[label]} known labels of class {label} "
                f"for {num_labelled} in all, got {counts[label]}"
            )
        members = np.flatnonzero(labels == label)
        masked[rng.permutation(members)[: quota[label]]] = label
    return masked


def read_answers(path: Path, num: int, num_classes: int) -> dict[int, int]:
    """Labels that someone gave by hand.

    Args:
      path: of a CSV, by commas, semicolons or tabs, with the columns ``row``, from 0, and
        ``label``; others are not read, and a row whose label is empty is passed over.
      num: objects that there are.
      num_classes: K.

    Returns:
      Labels by row.

    Raises:
      ValueError: where the file cannot be read, a column is missing, or a row or label is none,
        naming the line.
    """
    given: dict[int, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            names, separator = _columns(head)
            if not {"row", "label"} <= set(names):
                raise ValueError(
                    f"label_file: {path}, line 1: expected the columns row and label, got "
                    f"{head.strip()!r}"
                )
            lines = csv.DictReader(stream, names, delimiter=separator, restval="", strict=True)
            for line in lines:
                if not line["label"].strip():
                    continue
                where = f"label_file: {path}, line {lines.line_num + 1}"
                row = _integer(where, "row", line["row"], num)
                label = _integer(where, "label", line["label"], num_classes)
                if given.setdefault(row, label) != label:
                    raise ValueError(
                        f"{where}: row {row} has label {label}, and {given[row]} above"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"label_file: expected a CSV, got {path} ({error})") from None
    return given


def _columns(head: str) -> tuple[list[str], str]:
    """Names in the first line of a CSV, and the mark that stands between them."""
    for mark in ",;\t":
        names = [name.strip().lower() for name in next(csv.reader([head], delimiter=mark), [])]
        if "row" in names:
            return names, mark
    return [], ","


def _integer(where: str, column: str, text: str, end: int) -> int:
    """A whole number in ``0 .. end - 1``; 3.0 is one, too, since spreadsheets write it so."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value.is_integer() and 0 <= value < end):
        raise ValueError(f"{where}: expected a {column} in 0..{end - 1}, got {text!r}")
    return int(value)


def _check_coverage(counts: np.ndarray) -> None:
    if counts.sum() == 0:
        raise ValueError("train_y: expected at least one known label a class, got no label at all")
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        named = ", ".join(map(str, missing[:_NAMED])) + ", ..." * (len(missing) > _NAMED)
        raise ValueError(
            f"train_y: expected at least one known label of every class 0..{len(counts) - 1}, got "
            f"none of {named}; label one object of it, or leave the class out (classes count from "
            "0, up to the largest label)"
        )

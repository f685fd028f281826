"""``suggest``: which objects to label next."""

import argparse
import csv
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scnf_jax.analysis.obfuscation import flat
from scnf_jax.analysis.suggestions import Suggestions, suggest
from scnf_jax.data import at_most, read_answers, take
from scnf_jax.folders import replacing
from scnf_jax.labels import kept_answers, seen_labels
from scnf_jax.reporting.pictures import drawable, plot_grid
from scnf_jax.verbs.common import (
    Verb,
    add_output,
    add_run,
    check_limits,
    open_engine,
    output_path,
    run_dataset,
)


def _add_suggest(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--count", type=int, default=20, help="objects to suggest; default: %(default)s"
    )
    parser.add_argument(
        "--groups",
        type=int,
        default=200,
        help="that the objects are put into, at most; one object of a group is asked for; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--max-train",
        type=int,
        default=20_000,
        help="train objects without a label to choose from, drawn; default: %(default)s",
    )
    parser.add_argument(
        "--answer",
        action="store_true",
        help="fill in the labels that the data set itself has, to try it out",
    )
    add_output(parser, "suggested.csv")


def _suggest(arguments: argparse.Namespace) -> str:
    check_limits(arguments, "count", "groups", "max_train")
    engine = open_engine(arguments)
    engine.require_density()
    options = engine.run.options
    if options.validation_size:
        raise ValueError(
            "suggest: expected a run without validation objects, since the rows of a label file "
            f"count all train objects; got validation_size {options.validation_size}"
        )
    path = output_path(arguments, engine, "suggested.csv", [".csv"])
    dataset = run_dataset(engine.run)
    earlier = kept_answers(options, dataset, engine.run.folder)
    if path.exists():  # of an earlier call: what was answered there has not to be asked again
        earlier |= read_answers(path, len(dataset.train_y), dataset.num_classes)
    labels = seen_labels(options, dataset, earlier)
    rows = _candidates(labels, arguments.max_train)
    x = take(dataset.train_x, rows)
    scores = engine.scores(x, density=False)
    found = suggest(
        flat(engine.encode(x, scores.label.astype(np.int32)).z_f),
        scores.log_posterior,
        labels[rows] >= 0,
        arguments.count,
        arguments.groups,
        arguments.seed,
    )
    asked = rows[found.row]
    answers = dataset.train_y[asked] if arguments.answer else np.full(len(asked), -1)
    _write(path, asked, answers, found, earlier)
    said = [f"{path}: {len(asked)} of {len(rows)} train objects, the most doubtful first"]
    if len(asked) < arguments.count:
        said.append(
            f"no more groups are without a label (there are {arguments.groups} at most, see "
            "--groups, and no more than one in ten objects)"
        )
    if drawable(engine.run.event_shape, engine.run.num_levels):
        _draw(path.with_suffix(".png"), x, asked, found, engine.run.num_levels or 2)
        said.append(f"{path.stem}.png shows them with their groups")
    if arguments.answer:
        wrong = (answers >= 0) & (answers != found.guess)
        todo = f"the model takes {wrong.sum()} of them for another class; "
    else:
        todo = "fill in the column label of those you know, and "
    option = shlex.quote(f"--config.label_file={path}")
    return (
        f"{'; '.join(said)}\n{todo}train again in another folder, with the same settings and "
        f"{option}"
    )


def _candidates(labels: np.ndarray, most: int) -> np.ndarray:
    """Rows to choose from, and those with a label, whose groups have not to be asked for."""
    known, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    return np.union1d(at_most(most, known), at_most(most, unknown))


def _write(
    path: Path,
    asked: np.ndarray,
    answers: np.ndarray,
    found: Suggestions,
    earlier: Mapping[int, int],
) -> None:
    """Writes a file that :func:`~scnf_jax.data.read_answers` reads: earlier answers come last."""
    with replacing(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "label", "guess", "margin_nats", "group_size"])
        columns = (asked, answers, found.guess, found.margin, found.size)
        for row, label, guess, margin, size in zip(*columns, strict=True):
            known = label if label >= 0 else ""
            writer.writerow([row, known, guess, f"{margin:.1f}", size])
        writer.writerows([row, label, "", "", ""] for row, label in earlier.items())


def _draw(
    path: Path, x: np.ndarray, asked: np.ndarray, found: Suggestions, num_levels: int
) -> None:
    there = (found.group >= 0)[..., None, None, None]
    plot_grid(
        path,
        np.where(there, x[found.group], num_levels - 1),
        num_levels,
        "which to label: the first of each row; beside it, others of its group",
        [f"row {row}, taken for {k}" for row, k in zip(asked, found.guess, strict=True)],
    )


VERBS = (
    Verb(
        "suggest",
        "which objects to label next: those of groups that the model is unsure of",
        "python -m scnf_jax suggest runs/digits --count=20",
        _add_suggest,
        _suggest,
    ),
)

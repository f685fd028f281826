"""``suggest``: which objects to label next."""

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scnf_jax.analysis.obfuscation import flat
from scnf_jax.analysis.suggestions import Suggestions, suggest
from scnf_jax.data import at_most, take
from scnf_jax.folders import replacing
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
    parser.add_argument("--count", type=int, default=20, help="objects to suggest")
    parser.add_argument(
        "--groups", type=int, default=200, help="that the objects are put into, at most"
    )
    parser.add_argument(
        "--max-train", type=int, default=20_000, help="train objects to choose from, drawn"
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
    path = output_path(arguments, engine, "suggested.csv").with_suffix(".csv")
    _keep_answers(path)
    dataset = run_dataset(engine.run)
    labels = dataset.draw_labels(
        options.num_labelled, options.resolved_label_seed, options.resolved_label_file
    )
    rows = at_most(arguments.max_train, np.arange(len(labels)))
    x = take(dataset.train_x, rows)
    scores = engine.scores(x)
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
    _write(path, asked, answers, found, dataset.answers(options.resolved_label_file))
    said = f"{path}: {len(asked)} of {len(rows)} train objects, the most doubtful first"
    if drawable(engine.run.event_shape, engine.run.num_levels):
        _draw(path.with_suffix(".png"), x, asked, found, engine.run.num_levels or 2)
        said += f"; {path.stem}.png shows each with its group"
    if arguments.answer:
        wrong = (answers >= 0) & (answers != found.guess)
        todo = f"{wrong.sum()} of them are not what the model takes them for; "
    else:
        todo = "fill in the column label of those you know, and "
    return (
        f"{said}\n{todo}train again in another folder, with the same settings and "
        f"--config.label_file={path}"
    )


def _keep_answers(path: Path) -> None:
    """Raises ValueError where a file holds what someone typed into it."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8-sig") as stream:
        answers = [line.get("label") or "" for line in csv.DictReader(stream)]
    if num := sum(bool(answer.strip()) for answer in answers):
        raise ValueError(
            f"output: expected a file without answers, got {path} with {num}, which would be lost; "
            "give another --output"
        )


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

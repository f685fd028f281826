"""``evaluate``, ``predict``, ``score``: what a model says of objects."""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scnf_jax.analysis.outliers import SCORES, outlier_scores
from scnf_jax.data.files import Objects
from scnf_jax.folders import replacing, write_json
from scnf_jax.inference import Engine, Scores
from scnf_jax.reporting.evaluation import evaluation_record, plot_evaluation
from scnf_jax.verbs.common import (
    Verb,
    add_input,
    add_output,
    add_posterior_at,
    add_run,
    input_objects,
    open_engine,
    output_path,
    train_scores,
)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_posterior_at(parser)
    add_input(parser, required=False)
    add_output(parser, "evaluation.json")


def _evaluate(arguments: argparse.Namespace) -> str:
    engine = open_engine(arguments)
    objects = input_objects(engine, arguments.input)
    if objects.y is None or (objects.y < 0).any():
        raise ValueError(
            f"{arguments.input}: expected a label of every object as y, got "
            f"{'none' if objects.y is None else 'some that are -1'}; predict and score need none"
        )
    name = engine.run.test_name if arguments.input is None else arguments.input
    path = output_path(arguments, engine, "evaluation.json", [".json"])
    scores = engine.scores(objects.all())
    result = evaluation_record(engine, name, scores, objects.y)
    write_json(path, result)
    figures = plot_evaluation(path.parent, scores, objects.y)
    density = ""
    if "bits_per_dim" in result:
        density = (
            f"{result['bits_per_dim']:.3f} bits/dim, {result['log_prob_nats']:.2f} nats an object\n"
        )
    return (
        f"{name}: {result['num_objects']} objects\n"
        f"error {result['error_percent']:.2f}%, at 90% coverage "
        f"{result['error_percent_at_coverage']['90']:.2f}%, ECE {result['ece_percent']:.2f}%\n"
        f"{density}{path} and {', '.join(figures)}"
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_posterior_at(parser)
    add_input(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="a .csv or a .npz")


def _add_score(parser: argparse.ArgumentParser) -> None:
    _add_predict(parser)
    parser.add_argument(
        "--quantile",
        type=float,
        default=0.01,
        help="share of train objects that would be flagged as outliers; of new objects it is a "
        "larger one, by far where few were trained on; default: %(default)s",
    )
    parser.add_argument(
        "--by",
        choices=SCORES,
        default="log_prob",
        help="what flags an outlier: low log p(x), its distance to the train mean, or the "
        "posterior's entropy; default: %(default)s",
    )


def _predict(arguments: argparse.Namespace) -> str:
    engine = open_engine(arguments)
    objects = input_objects(engine, arguments.input, with_labels=False)
    columns = ["id", "label", *(f"p_{k}" for k in range(engine.run.num_classes))]

    def rows(scores: Scores) -> list[np.ndarray]:
        return [scores.label, *np.exp(scores.log_posterior).T]

    return _write(arguments, engine, objects, columns, rows, density=False)


def _score(arguments: argparse.Namespace) -> str:
    if not 0 < arguments.quantile < 1:
        raise ValueError(f"quantile: expected a number between 0 and 1, got {arguments.quantile}")
    if arguments.posterior_at and arguments.by != "entropy":
        raise ValueError(
            "posterior-at: expected with --by=entropy alone, since log p(x) is that of the draw of "
            f"the noise; got --by={arguments.by}"
        )
    engine = open_engine(arguments, None if arguments.by == "entropy" else "noise")
    objects = input_objects(engine, arguments.input, with_labels=False)
    train = train_scores(engine)
    train_log_prob = np.asarray(train.log_prob)
    of_train = outlier_scores(train, train_log_prob)[arguments.by]
    threshold = float(np.quantile(of_train, 1 - arguments.quantile, method="lower"))
    columns = ["id", "log_prob_nats", "bits_per_dim", "outlier"]
    num_flagged = 0

    def rows(scores: Scores) -> list[np.ndarray]:
        nonlocal num_flagged
        flagged = outlier_scores(scores, train_log_prob)[arguments.by] > threshold
        num_flagged += int(flagged.sum())
        return [np.asarray(scores.log_prob), np.asarray(scores.bits_per_dim), flagged.astype(int)]

    said = _write(arguments, engine, objects, columns, rows)
    return (
        f"{said}\n{num_flagged} of {len(objects)} are flagged as outliers, beyond "
        f"{100 * (1 - arguments.quantile):g}% of train objects"
    )


def _write(
    arguments: argparse.Namespace,
    engine: Engine,
    objects: Objects,
    columns: Sequence[str],
    rows: Callable[[Scores], list[np.ndarray]],
    density: bool = True,
) -> str:
    """Scores a batch after the other and writes each before the next is read."""
    path = output_path(arguments, engine, "", [".csv", ".npz"])
    write = _write_csv if path.suffix == ".csv" else _write_npz
    with replacing(path) as temporary:
        write(temporary, columns, _batches(engine, objects, rows, density))
    return f"{path}: {len(objects)} objects, columns {', '.join(columns)}"


def _batches(
    engine: Engine,
    objects: Objects,
    rows: Callable[[Scores], list[np.ndarray]],
    density: bool,
) -> Iterator[list[Any]]:
    for part in engine.batches(len(objects)):
        yield [objects.names[part], *rows(engine.scores_of_batch(objects[part], part, density))]


def _write_csv(path: Path, columns: Sequence[str], batches: Iterator[list[Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for batch in batches:
            for row in zip(*batch, strict=True):
                writer.writerow([f"{v:.9g}" if isinstance(v, np.floating) else v for v in row])


def _write_npz(path: Path, columns: Sequence[str], batches: Iterator[list[Any]]) -> None:
    joined = [np.concatenate(part) for part in zip(*batches, strict=True)]
    arrays: dict[str, Any] = dict(zip(columns, joined, strict=True))
    np.savez_compressed(path, **arrays)


VERBS = (
    Verb(
        "evaluate",
        "error, bits/dim, calibration, confusion, abstaining",
        "python -m scnf_jax evaluate runs/digits",
        _add_evaluate,
        _evaluate,
    ),
    Verb(
        "predict",
        "p(y|x) and the most likely label of every object",
        "python -m scnf_jax predict runs/digits --input=scans.npy --output=labels.csv",
        _add_predict,
        _predict,
    ),
    Verb(
        "score",
        "log p(x) of every object, and which are outliers",
        "python -m scnf_jax score runs/digits --input=scans.npy --output=scores.csv",
        _add_score,
        _score,
    ),
)

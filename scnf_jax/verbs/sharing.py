"""``report``, ``export``, ``table``: results for others."""

import argparse
from pathlib import Path

from scnf_jax.analysis.obfuscation import MIN_OBJECTS
from scnf_jax.folders import read_json
from scnf_jax.loading import export_folder, export_run
from scnf_jax.reporting import results
from scnf_jax.reporting.card import model_card
from scnf_jax.reporting.evaluation import evaluate_scores
from scnf_jax.reporting.report import write_report
from scnf_jax.verbs.common import Verb, add_run, check_limits, open_engine, run_dataset


def _add_report(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--max-objects",
        type=int,
        default=2000,
        help="objects of probes, embeddings and outliers, each; default: %(default)s",
    )


def _report(arguments: argparse.Namespace) -> str:
    check_limits(arguments, "max_objects", low=MIN_OBJECTS)
    engine = open_engine(arguments)
    path = write_report(engine, run_dataset(engine.run), arguments.max_objects)
    return f"{path}: {path.stat().st_size / 1e6:.1f} MB, opens without a network"


def _add_export(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="made where it is not")


def _export(arguments: argparse.Namespace) -> str:
    engine = open_engine(arguments)
    folder = export_folder(engine.run, arguments.output)
    dataset = run_dataset(engine.run)
    evaluation = evaluate_scores(engine.scores(dataset.test_x), dataset.test_y)
    card = model_card(engine.run, read_json(engine.run.folder / "summary.json"), evaluation)
    files = export_run(engine.run, folder, card)
    return "\n".join(f"{file}: {file.stat().st_size:,} bytes" for file in files)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, finished or not")
    parser.add_argument(
        "--records",
        type=Path,
        default=Path("docs/results"),
        metavar="FOLDER",
        help="of the records, read and added to; default: %(default)s",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/RESULTS.md"),
        metavar="FILE",
        help="the page; default: %(default)s",
    )


def _table(arguments: argparse.Namespace) -> str:
    if arguments.runs:
        results.save_records(arguments.runs, arguments.records)
    count = results.write_table(arguments.records, arguments.output)
    return f"{arguments.output}: {count} runs"


VERBS = (
    Verb(
        "report",
        "everything about a run in one page, report.html",
        "python -m scnf_jax report runs/digits",
        _add_report,
        _report,
    ),
    Verb(
        "export",
        "safetensors, config.json and a model card, to share",
        "python -m scnf_jax export runs/digits --output=digits-flow",
        _add_export,
        _export,
    ),
    Verb(
        "table",
        "the table of results from run folders",
        "python -m scnf_jax table runs/digits-0 runs/digits-1",
        _add_table,
        _table,
    ),
)

"""``python -m scnf_jax VERB``: what to do with trained runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _table(arguments: argparse.Namespace) -> None:
    from scnf_jax.reporting import results

    if arguments.runs:
        results.save_records(arguments.runs, arguments.records)
    count = results.write_table(arguments.records, arguments.output)
    print(f"{arguments.output}: {count} runs")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scnf_jax", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    table = verbs.add_parser(
        "table",
        help="write the table of results from run folders",
        description="Takes the records of run folders, and writes the table of all records.",
        epilog="example: python -m scnf_jax table runs/digits-0 runs/digits-1",
    )
    table.add_argument("runs", nargs="*", type=Path, help="run folders, finished or not")
    table.add_argument("--records", type=Path, default=Path("docs/results"))
    table.add_argument("--output", type=Path, default=Path("docs/RESULTS.md"))
    table.set_defaults(verb=_table)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; what is wrong with its input is one line and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.verb(arguments)
    except ValueError as error:
        sys.stderr.write(f"scnf_jax: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

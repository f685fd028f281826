"""Runs benchmarks: ``python -m benchmarks marginal training``; none named: all of them.

With ``--write`` the records go to ``docs/performance/``, and ``docs/PERFORMANCE.md`` is written
again from all records there.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

NAMES = (
    "marginal",
    "training",
    "parts",
    "bounds",
    "memory",
    "pages",
    "compilation",
    "precision",
    "loop",
    "devices",
    "streaming",
    "serving",
    "thresholds",
)
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--write", action="store_true", help="write docs/PERFORMANCE.md")
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="for thresholds")
    arguments = parser.parse_args()
    names = arguments.names or NAMES[: -1 if not arguments.runs else None]
    for name in names:
        if name not in NAMES:
            parser.error(f"expected names of {', '.join(NAMES)}, got {name!r}")
    folder = DOCS / "performance"
    for name in names:
        record = measured(name, arguments.runs)
        sys.stdout.write(section(record) + "\n")
        sys.stdout.flush()
        if arguments.write:
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    if arguments.write:
        (DOCS / "PERFORMANCE.md").write_text(page(folder))


def measured(name: str, runs: list[Path]) -> dict[str, Any]:
    """Runs one benchmark, and says where it ran."""
    from benchmarks import measure

    module = importlib.import_module(f"benchmarks.{name}")
    reads = name == "thresholds"
    given = f" --runs {' '.join(map(str, runs))}" if reads else ""
    return {
        "title": module.TITLE,
        "about": module.ABOUT,
        "command": f"python -m benchmarks {name}{given}",
        "rows": module.run(runs) if reads else module.run(),
        "machine": measure.machine(),
    }


def page(folder: Path) -> str:
    """The whole page, from the records of a folder."""
    head = (
        "# Performance\n\n"
        "Written by `python -m benchmarks --write` from the records in `docs/performance/`. Times\n"
        "are medians after a warm-up, of calls whose results were waited for (of huge pages: the\n"
        "faster of two turns); what a row compares took turns in one run. Ratios carry over to\n"
        "other machines better than seconds do. A column *time* is relative to the first row of\n"
        "its group, or to the call without the change. Parts are compiled and called alone, and\n"
        "what is alone pays more for fresh memory ([huge pages](#huge-pages)): a whole can take\n"
        "less time than its part.\n"
    )
    records = [
        json.loads((folder / f"{name}.json").read_text())
        for name in NAMES
        if (folder / f"{name}.json").exists()
    ]
    return "\n".join([head, *map(section, records)])


def section(record: dict[str, Any]) -> str:
    """One benchmark as Markdown."""
    rows = record["rows"]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    where = ", ".join(f"{key} {value}" for key, value in record["machine"].items())
    lines = [
        f"## {record['title']}\n\n{record['about']}\n\n`{record['command']}`; {where}.\n",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
        *(f"| {' | '.join(_shown(row.get(column)) for column in columns)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()

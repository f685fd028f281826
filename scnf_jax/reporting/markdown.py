"""The Markdown that our tables use, as HTML: paragraphs, tables, lists."""

import html
import itertools
from collections.abc import Iterable, Sequence


def row(cells: Sequence[str]) -> str:
    """One line of a pipe table."""
    return "| " + " | ".join(cells) + " |"


def to_html(text: str) -> str:
    """Turns paragraphs, pipe tables and ``-`` lists into HTML.

    Example:
      >>> to_html("some words")
      '<p>some words</p>'
    """
    kinds = itertools.groupby(text.splitlines(), _kind)
    return "".join(_RENDER[kind](list(lines)) for kind, lines in kinds)


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """An HTML table, which scrolls by itself where the page is narrow."""

    def line(cells: Sequence[object], tag: str) -> str:
        shown = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
        return f"<tr>{shown}</tr>"

    top = line(head, "th") if head else ""
    lines = "".join(line(cells, "td") for cells in rows)
    return f'<div class="wide"><table>{top}{lines}</table></div>'


def _kind(line: str) -> str:
    return {"|": "table", "-": "list", "": "blank"}.get(line[:1], "words")


def _table(lines: list[str]) -> str:
    head, _, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return table(rows, head)


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line[2:])}</li>" for line in lines) + "</ul>"


def _words(lines: list[str]) -> str:
    return f"<p>{html.escape(' '.join(lines))}</p>"


def _blank(lines: list[str]) -> str:
    del lines
    return ""


_RENDER = {"table": _table, "list": _list, "words": _words, "blank": _blank}

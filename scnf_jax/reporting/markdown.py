"""The Markdown that our tables use, as HTML: paragraphs, tables, lists."""

import html
import itertools


def to_html(text: str) -> str:
    """Turns paragraphs, pipe tables and ``-`` lists into HTML.

    Example:
      >>> to_html("some words")
      '<p>some words</p>'
    """
    kinds = itertools.groupby(text.splitlines(), _kind)
    return "".join(_RENDER[kind](list(lines)) for kind, lines in kinds)


def _kind(line: str) -> str:
    return {"|": "table", "-": "list", "": "blank"}.get(line[:1], "words")


def _table(lines: list[str]) -> str:
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    parts = []
    for number, row in enumerate(rows):
        if number == 1:  # the rule below the head
            continue
        tag = "th" if number == 0 else "td"
        parts.append("<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>")
    return f'<div class="wide"><table>{"".join(parts)}</table></div>'


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line[2:])}</li>" for line in lines) + "</ul>"


def _words(lines: list[str]) -> str:
    return f"<p>{html.escape(' '.join(lines))}</p>"


def _blank(lines: list[str]) -> str:
    del lines
    return ""


_RENDER = {"table": _table, "list": _list, "words": _words, "blank": _blank}

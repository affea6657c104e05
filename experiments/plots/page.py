"""The report as one self-contained page: figures inside, nothing from the network."""

import base64
import html
import re
from collections.abc import Sequence
from typing import Any

from .style import Figure, inches

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1b1b; --line: #d5d8dc; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8e8e8; --line: #3a3f46; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
       max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { margin: 0; } img { width: 100%; height: auto; display: block; }
figcaption, .note { font-size: 0.9rem; opacity: 0.8; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { text-align: right; white-space: nowrap; padding: 0.2rem 0.7rem;
         border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
pre { overflow-x: auto; white-space: pre-wrap; font-size: 0.85rem; }
"""


# Of the page's ``meta`` element that names the files beside it.
FIGURES = "figures"


def figures_of(text: str) -> list[str]:
    """Names of a page's figures; none of what is no page of ours."""
    found = re.search(f'<meta name="{FIGURES}" content="([^"]*)">', text)
    return found[1].split() if found else []


def page(
    title: str,
    figures: Sequence[Figure],
    tables: Sequence[tuple[str, Sequence[Sequence[Any]]]],
    details: Sequence[tuple[str, str]],
) -> str:
    """HTML text of a report.

    Args:
        title: heading.
        figures: in order.
        tables: heading and rows, the first row the names of the columns.
        details: summary and preformatted text, folded away at the end.
    """
    text = html.escape
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="{FIGURES}" content="{text(" ".join(f.name for f in figures))}">',
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f"<h1>{text(title)}</h1>",
    ]
    parts += [_table(heading, rows) for heading, rows in tables]
    parts += [_figure(figure) for figure in figures]
    for summary, body in details:
        parts.append(
            f"<details><summary>{text(summary)}</summary><pre>{text(body)}</pre></details>"
        )
    return "\n".join([*parts, "</body>\n</html>\n"])


def _source(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _figure(figure: Figure) -> str:
    text = html.escape
    # Letters stay readable: what is wider than a phone scrolls, what is smaller is not blown up.
    least, most = (round(inches(figure) * scale) for scale in (64, 136))
    return (
        f'<h2>{text(figure.title)}</h2>\n<figure><div class="wide"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{_source(figure.dark)}">'
        f'<img src="{_source(figure.light)}" alt="{text(figure.title)}" '
        f'style="min-width: {least}px; max-width: {most}px"></picture></div>'
        f"<figcaption>{text(figure.caption)}</figcaption></figure>"
    )


def _table(heading: str, rows: Sequence[Sequence[Any]]) -> str:
    def cells(row: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in row) + "</tr>"

    head, *body = rows
    lines = "".join(cells(row, "td") for row in body)
    return (
        f'<h2>{html.escape(heading)}</h2>\n<div class="wide"><table>'
        f"<thead>{cells(head, 'th')}</thead><tbody>{lines}</tbody></table></div>"
    )

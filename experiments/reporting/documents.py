"""The README and the docs: their numbers and figures come from the shipped runs.

A figure that a document shows as ``figures/<experiment>-adaptation.png`` is drawn from them. A
number in a document stands between ``<!-- results:KIND ARGUMENTS -->`` and ``<!-- /results -->``.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.errors import InputError

from ..tables import KINDS

if TYPE_CHECKING:
    from .drawings import Drawing

TOP = Path(__file__).resolve().parents[2]
SHOWN = re.compile(r"\bfigures/([a-z-]+-adaptation\.png)")
MARKED = re.compile(
    r"(<!-- results:([a-z][a-z-]*)((?: [^ >]+)*) -->)(.*?)(<!-- /results -->)", re.DOTALL
)


def fill(text: str, groups: dict[str, list[dict[str, Any]]]) -> str:
    """A document with every marked number as the evaluations say.

    Raises:
        InputError: an unknown kind of number, or one that no shipped run gives.
    """

    def replace(match: re.Match[str]) -> str:
        opening, kind, arguments, _, closing = match.groups()
        if kind not in KINDS:
            raise InputError(f"{opening}: there is no {kind!r}, only {', '.join(KINDS)}")
        try:
            return f"{opening}{KINDS[kind](groups, *arguments.split())}{closing}"
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"{opening}: no shipped run gives it ({error})") from None

    return MARKED.sub(replace, text)


def documents() -> list[Path]:
    """The README and the docs of the checkout."""
    found = (TOP / "README.md", *sorted(TOP.glob("docs/**/*.md")))
    return [path for path in found if path.exists()]


def figures(groups: dict[str, list[dict[str, Any]]]) -> "dict[Path, Drawing]":
    """Files that the documents show -> what has to be in them.

    Raises:
        InputError: no shipped run gives one of them.
    """
    from .drawings import drawings  # brings matplotlib, which numbers in a text do without

    known = drawings(groups)
    found = {}
    for path in documents():
        for name in SHOWN.findall(path.read_text(encoding="utf-8")):
            if name not in known:
                raise InputError(f"{path}: shows {name}, and no shipped run gives it")
            found[TOP / "docs" / "figures" / name] = known[name]
    return found

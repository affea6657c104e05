"""README and docs, taken apart: code blocks, commands, tables."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
DOCUMENTS = [README, *sorted((TOP / "docs").glob("**/*.md"))]


def name_of(path: Path) -> str:
    """A document's path from the top."""
    return str(path.relative_to(TOP))


def blocks(path: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of a language, ``""`` for those that name none."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> list[list[str]]:
    """Arguments of every ``metarl ...`` line of the ``sh`` blocks, in order."""
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    return [line.partition("#")[0].split()[1:] for line in lines if line.startswith("metarl ")]


def keys(path: Path, section: str | None = None) -> set[str]:
    """What stands in code in the first column of the tables, of one section or of all."""
    text = path.read_text()
    if section is not None:
        (text,) = re.findall(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}

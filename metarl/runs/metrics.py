"""metrics.jsonl, the record of a run: one JSON object a line, ``{"iteration": 400, tag: number}``.

A number that was not finite is ``null``. A last line without its newline was torn by a kill and
does not count.
"""

import json
from pathlib import Path
from typing import Any

from metarl.errors import InputError

from . import documents, files

METRICS = "metrics.jsonl"


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    try:
        text = files.read(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    lines: list[tuple[bytes, dict[str, Any]]] = []
    for row, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            value = documents.loads(line)
            if type(value["iteration"]) is not int:
                raise ValueError("its iteration is not an integer")
            for tag, number in value.items():
                if number is not None and not isinstance(number, int | float):
                    raise ValueError(f"{tag} is no number")
            if lines and value["iteration"] <= lines[-1][1]["iteration"]:
                raise ValueError("its iteration does not come after the line before")
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}, line {row} is not a line of metrics ({error}); repair or remove it"
            ) from None
        lines.append((line, value))
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics.jsonl, by rising iteration; none when there is no file.

    Raises:
        InputError: a line is damaged; the message has its number.
    """
    return [value for _, value in _lines(path)]


def cut_metrics(path: Path, iteration: int) -> None:
    """Remove, atomically, what comes after `iteration` and a torn last line.

    Raises:
        InputError: a line is damaged.
        SaveError: the file is as it was.
    """
    if not path.exists():
        return
    kept = [line for line, value in _lines(path) if value["iteration"] <= iteration]
    text = b"".join(line + b"\n" for line in kept)
    if text != files.read(path):
        files.replace(path, text)


def thin_metrics(lines: list[dict[str, Any]], count: int) -> bytes:
    """At most about `count` lines, evenly spaced, with six digits; for runs that are shipped.

    Lines with the same tags are thinned together, so that rare ones (validation) survive; the
    first and the last of each kind are kept. A metric of every line becomes its mean since the line
    kept before, as it is already the mean over a line's own iterations: sums, such as that of the
    environment's steps, stay as they are.
    """
    kinds: dict[frozenset[str], list[dict[str, Any]]] = {}
    for line in lines:
        kinds.setdefault(frozenset(line), []).append(line)
    kept: list[dict[str, Any]] = []
    for kind in kinds.values():
        few = max(2, min(len(kind), count // len(kinds)))
        last = len(kind) - 1
        kept += [kind[i] for i in sorted({round(k * last / (few - 1)) for k in range(few)})]
    ends = {line["iteration"] for line in kept}
    means = set[str]().union(*kinds).intersection(*kinds) - {"iteration"}
    short, group, done = [], [], 0
    for line in lines:
        group.append((line["iteration"] - done, line))
        done = line["iteration"]
        if done in ends:
            merged = {**line, **_means(group, means)}
            short.append(
                {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in merged.items()}
            )
            group = []
    return "".join(json.dumps(line) + "\n" for line in short).encode()


def _means(group: list[tuple[int, dict[str, Any]]], tags: set[str]) -> dict[str, float]:
    """Means over the iterations of several lines, of what is a number in all of them."""
    total = sum(iterations for iterations, _ in group)
    return {
        tag: sum(iterations * line[tag] for iterations, line in group) / total
        for tag in tags
        if len(group) > 1 and all(line[tag] is not None for _, line in group)
    }

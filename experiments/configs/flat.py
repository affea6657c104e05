"""Nested configurations as pairs of names and values."""

from collections.abc import Iterator, Mapping
from typing import Any


def flat(values: Mapping[str, Any], *within: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field that is no configuration itself: the names that lead to it, its value.

    Args:
        values: what ``dataclasses.asdict`` makes of a configuration.
        within: names that lead there.
    """
    for name, value in values.items():
        here = (*within, name)
        if isinstance(value, dict):
            yield from flat(value, *here)
        else:
            yield here, value

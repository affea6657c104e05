"""What a function was called with, as seen by whoever calls it."""

import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Call(NamedTuple):
    """Arguments of one call."""

    args: tuple[Any, ...]
    options: dict[str, Any]


def recorded(
    monkeypatch: pytest.MonkeyPatch, where: str, instead: Callable[..., Any] | None = None
) -> list[Call]:
    """Grows with each call of what stands at ``where``, which is done, or something instead."""
    calls: list[Call] = []
    done = pkgutil.resolve_name(where) if instead is None else instead

    def spy(*args: Any, **options: Any) -> Any:
        calls.append(Call(args, options))
        return done(*args, **options)

    monkeypatch.setattr(where, spy)
    return calls

"""Wall time by part of a meta-iteration."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
PARTS = ("sample", "adapt", "gradient", "fisher", "line_search", "other")
"""Of a meta-iteration: ``other`` is what no part took."""


class Clock:
    """Adds up the seconds spent in named parts.

    Attributes:
        seconds: part -> seconds so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time of a block as ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def timed(self, part: str, fn: Callable[P, R]) -> Callable[P, R]:
        """``fn``, whose time counts as ``part``."""

        @functools.wraps(fn)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with self(part):
                return fn(*args, **kwargs)

        return run

    def metrics(self) -> dict[str, float]:
        """``seconds.<part>``, and what no part took as ``seconds.other``."""
        rest = time.perf_counter() - self._start - sum(self.seconds.values())
        parts = {**self.seconds, "other": rest}
        return {f"seconds.{part}": value for part, value in parts.items()}

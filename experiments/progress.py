"""Progress of a training run: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

LINE_SECONDS = 10.0


class Reporter(Protocol):
    """What the training loop tells about itself."""

    def update(self, iteration: int, metrics: dict[str, float]) -> None:
        """Iterations done and their latest metrics."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def close(self) -> None:
        """No more updates; leaves the last state readable."""


def announce(name: str, out: Path, *, done: int, ranks: int, compiles: bool) -> None:
    """Say what begins, or goes on after ``done`` iterations, and why it may seem to wait."""
    shared = f" on {ranks} ranks" if ranks > 1 else ""
    wait = "; compiling comes first, up to a minute or two" if compiles else ""
    begins = f"continuing at {done}" if done else "training"
    tell(f"{name}: {begins} in {out}{shared}{wait}", sys.stdout)


def waiting(what: str) -> AbstractContextManager[object]:
    """Says on a terminal what takes its time, until it is done; nothing is left of it."""
    return Console(stderr=True).status(Text(what))  # brackets are no markup


def tell(text: str, stream: TextIO) -> None:
    """A line, if it can be written: a reader that has gone or a full disk ends no training."""
    with contextlib.suppress(OSError):
        stream.write(f"{text}\n")  # in one piece, as ranks may share an unbuffered stream
        stream.flush()


def reporter(
    name: str,
    shown: tuple[str, str],
    *,
    start: int,
    end: int,
    minutes: float | None = None,
    stream: TextIO | None = None,
) -> Reporter:
    """Bar when ``stream`` is a terminal, lines every ten seconds otherwise.

    Args:
        name: of the experiment.
        shown: metrics before and after adaptation.
        start: iterations done already.
        end: iterations in the end.
        minutes: time limit, if any.
        stream: where to write; standard output when None.
    """
    out = stream or sys.stdout
    kind = _Bar if out.isatty() else _Lines
    return kind(name, shown, start=start, end=end, minutes=minutes, stream=out)


class Quiet:
    """Says nothing: for all ranks but the first."""

    def update(self, iteration: int, metrics: dict[str, float]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Clock:
    """Rate and remaining time, without what comes before the first update, such as compiling."""

    def __init__(self, end: int, minutes: float | None) -> None:
        self.end, self.minutes = end, minutes
        self.began = time.monotonic()
        self.first: tuple[int, float] | None = None

    def told(self, iteration: int) -> tuple[str, str]:
        """Rate and remaining time in words; empty at the first update."""
        now = time.monotonic()
        if self.first is None:
            self.first = iteration, now
            return "", ""
        done, since = self.first
        rate = (iteration - done) / max(now - since, 1e-9)
        return per_second(rate), f"ETA {clock(self.remaining(iteration, rate))}"

    def remaining(self, iteration: int, rate: float) -> float:
        left = (self.end - iteration) / max(rate, 1e-9)
        if self.minutes is not None:
            left = min(left, self.began + 60 * self.minutes - time.monotonic())
        return max(left, 0.0)


def clock(seconds: float) -> str:
    """``"0:07"``, ``"12:30"``, ``"3:05:00"``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def per_second(rate: float) -> str:
    """``"2460 it/s"``; slow rates as seconds an iteration."""
    return f"{rate:.{0 if rate >= 100 else 1}f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"


def adaptation(shown: tuple[str, str], metrics: dict[str, float]) -> str:
    """``"loss 4.31 -> 0.58"`` from ``loss_before`` and ``loss_after``."""
    before, after = (metrics.get(name) for name in shown)
    label = shown[1].removesuffix("_after").replace("_", " ")
    if after is None:
        return label
    return f"{label} {after:.4g}" if before is None else f"{label} {before:.4g} -> {after:.4g}"


class _Lines:
    """One plain line every ten seconds, and at the end."""

    def __init__(
        self,
        name: str,
        shown: tuple[str, str],
        *,
        start: int,
        end: int,
        minutes: float | None,
        stream: TextIO,
    ) -> None:
        del start  # a line says what is done
        self.name, self.shown, self.stream = name, shown, stream
        self.clock = _Clock(end, minutes)
        self.printed = time.monotonic()
        self.pending: str | None = None

    def update(self, iteration: int, metrics: dict[str, float]) -> None:
        at = f"{iteration}/{self.clock.end}"
        parts = (self.name, at, adaptation(self.shown, metrics), *self.clock.told(iteration))
        self.pending = "  ".join(filter(None, parts))
        if time.monotonic() - self.printed >= LINE_SECONDS:
            self._flush()

    def say(self, text: str) -> None:
        tell(text, self.stream)

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self.pending is not None:
            tell(self.pending, self.stream)
        self.pending, self.printed = None, time.monotonic()


class _Bar:
    """A live bar."""

    def __init__(
        self,
        name: str,
        shown: tuple[str, str],
        *,
        start: int,
        end: int,
        minutes: float | None,
        stream: TextIO,
    ) -> None:
        self.shown = shown
        self.clock = _Clock(end, minutes)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[eta]}"),
            console=Console(file=stream),
            refresh_per_second=4,
        )
        self.task = self.progress.add_task(
            name, total=end, completed=start, metrics="", rate="", eta=""
        )
        self.progress.start()

    def update(self, iteration: int, metrics: dict[str, float]) -> None:
        rate, eta = self.clock.told(iteration)
        # Draws nothing by itself: a thread does.
        self.progress.update(
            self.task,
            completed=iteration,
            metrics=adaptation(self.shown, metrics),
            rate=rate,
            eta=eta,
        )

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # as `tell`: the terminal may have been closed
            self.progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.progress.stop()

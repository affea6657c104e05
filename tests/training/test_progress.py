"""Progress as text: on a pipe, on a terminal, and how long it will take."""

import io

import pytest

from metarl_experiments import progress
from metarl_experiments.progress import adaptation, clock, per_second, reporter, waiting
from metarl_experiments.words import count

SHOWN = ("loss_before", "loss_after")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_texts() -> None:
    assert [clock(s) for s in (7, 750, 11100)] == ["0:07", "12:30", "3:05:00"]
    assert [per_second(r) for r in (2460.4, 3.0, 0.31)] == ["2460 it/s", "3.0 it/s", "3.2 s/it"]
    assert adaptation(SHOWN, {"loss_before": 4.312, "loss_after": 0.5}) == "loss 4.312 -> 0.5"
    assert adaptation(SHOWN, {"loss_after": 0.5}) == "loss 0.5"
    assert [count(n, "iteration") for n in (0, 1, 2)] == [
        "0 iterations",
        "1 iteration",
        "2 iterations",
    ]


def test_lines_on_a_pipe_are_few_and_end_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    tells = reporter("toy", SHOWN, start=0, end=1000, stream=out)
    for i in range(1, 101):
        # Compiling takes a minute, an iteration a tenth of a second.
        now[0] = 60 + 0.1 * i
        tells.update(i, {"loss_before": 2.0, "loss_after": 1.0})
    tells.say("validation at 100: loss after 1")
    tells.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-2].startswith("validation")
    assert lines[-1].startswith("toy  100/1000  loss 2 -> 1  10.0 it/s  ETA 1:30")
    assert "\r" not in out.getvalue()


def test_minutes_limit_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    tells = reporter("toy", SHOWN, start=0, end=10**6, minutes=1, stream=out)
    for now[0] in (19.0, 20.0):
        tells.update(int(now[0]), {})
    tells.close()
    assert "ETA 0:40" in out.getvalue()


def test_no_rate_is_told_from_what_compiles() -> None:
    out = io.StringIO()
    tells = reporter("toy", SHOWN, start=0, end=1000, stream=out)
    tells.update(1, {"loss_after": 1.0})
    tells.close()
    assert out.getvalue() == "toy  1/1000  loss 1\n"


def test_bar_on_a_terminal_shows_the_metric() -> None:
    out = Terminal()
    tells = reporter("toy", SHOWN, start=0, end=10, stream=out)
    for i in (9, 10):
        tells.update(i, {"loss_before": 2.0, "loss_after": 1.0})
    tells.say("saved")
    tells.close()
    text = out.getvalue()
    assert "10/10" in text
    assert "ETA" in text
    assert "saved" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_waiting_is_told_on_a_terminal_alone(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with waiting("evaluating runs/x"):
        pass
    assert ("evaluating runs/x" in stream.getvalue()) is terminal


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_terminal_that_was_closed_ends_no_training() -> None:
    class Closing(Terminal):
        closing = False

        def write(self, text: str) -> int:
            if self.closing:
                raise OSError(5, "Input/output error")
            return super().write(text)

    out = Closing()
    tells = reporter("toy", SHOWN, start=0, end=10, stream=out)
    out.closing = True
    tells.update(1, {"loss_after": 1.0})
    tells.say("validation at 1")
    tells.close()

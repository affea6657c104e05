"""Signals at any moment end a command within ten seconds, resumable, and leave no process."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import Child, Tell, fork
from commands import succeed
from workloads import argv, ending

from metarl.runs import faults
from metarl_experiments.__main__ import main

SECONDS = 10.0
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    succeed(*argv("sinusoid", run))
    return run


def ended(status: int) -> int:
    """Wait for threads, as the interpreter's end does and a forked child's does not."""
    threading._shutdown()  # type: ignore[attr-defined]
    return status


def signalled(command: list[str], point: str, after: int, *signums: int) -> tuple[int, float]:
    """Exit status, and seconds from the signals, which come when a fault point is passed."""

    def work(tell: Tell) -> int:
        os.setsid()
        sent = False

        def send() -> None:
            nonlocal sent
            if not sent:
                sent = True
                tell("sent")
                for signum in signums:
                    os.kill(os.getpid(), signum)

        with faults.injected(point, send, after=after):
            return ended(main(command))

    child = fork(work)
    child.expect("sent")
    began = time.monotonic()
    status = child.wait()
    seconds = time.monotonic() - began
    with pytest.raises(ProcessLookupError):  # nothing is left of its session
        os.killpg(child.pid, 0)
    return status, seconds


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("point", "signums"),
    [
        ("train:iteration", [INT]),
        ("save:params", [TERM]),
        ("train:validate", [HUP]),
        ("save:params", [INT, INT]),
        pytest.param("train:iteration", [TERM], marks=slow),
        pytest.param("train:iteration", [HUP], marks=slow),
        pytest.param("train:iteration", [INT, INT], marks=slow),
        pytest.param("train:validate", [INT, INT], marks=slow),
        pytest.param("save:renamed", [INT], marks=slow),
        pytest.param("save:removing", [HUP], marks=slow),
    ],
)
def test_stopped_training_goes_on_bit_for_bit(
    tmp_path: Path, whole: Path, point: str, signums: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    after = 1 if point == "train:validate" else 13
    status, seconds = signalled(argv("sinusoid", run), point, after, *signums)
    assert status == 128 + signums[0]
    assert seconds < SECONDS
    (line,) = [x for x in capfd.readouterr().err.splitlines() if not x.startswith("warning")]
    assert f"stopped by {signal.Signals(signums[0]).name}" in line
    assert f"--out {run} --resume" in line
    succeed(*argv("sinusoid", run))
    assert ending(run) == ending(whole)


def test_the_command_to_go_on_has_the_options_of_this_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    succeed(*argv("sinusoid", run))
    longer = argv("sinusoid", run, "--iterations=100000")
    assert signalled(longer, "train:iteration", 3, TERM)[0] == 128 + TERM
    assert capfd.readouterr().err.rstrip().endswith(f"--out {run} --resume --iterations 100000")


def test_a_hang_up_that_is_ignored_stays_ignored(tmp_path: Path, whole: Path) -> None:
    """As nohup asks for."""
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        status, _ = signalled(argv("sinusoid", tmp_path / "run"), "train:iteration", 13, HUP)
    finally:
        signal.signal(HUP, before)
    assert status == 0
    assert ending(tmp_path / "run") == ending(whole)


@pytest.mark.parametrize("signum", [TERM, pytest.param(INT, marks=slow)])
def test_stopped_evaluation_writes_nothing(
    whole: Path, signum: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(whole.rglob("*"))
    status, seconds = signalled(["evaluate", str(whole)], "evaluate:tasks", 0, signum)
    assert (status, sorted(whole.rglob("*"))) == (128 + signum, before)
    assert seconds < SECONDS
    assert len(capfd.readouterr().err.splitlines()) == 1


def interrupted_in_long_episodes(run: Path, change: Callable[[], None] | None = None) -> Child:
    """A run that is interrupted in its first rollout, of half a minute or more."""
    command = ["train", "cheetah-velocity", "--compile=off", "--threads=2", f"--out={run}"]
    command += ["--meta-batch=2", "--episodes=20", "--env.horizon=100000", "--hidden=8"]

    def work(tell: Tell) -> int:
        import metarl.rl.vector as module

        step, taken = module.step, itertools.count()

        def interrupting(*arguments: Any, **named: Any) -> Any:
            if next(taken) == 10:
                tell("sampling")
                os.kill(os.getpid(), INT)
            return step(*arguments, **named)

        module.step = interrupting
        if change is not None:
            change()
        return ended(main(command))

    child = fork(work)
    child.expect("sampling")
    return child


def test_long_episodes_are_abandoned(tmp_path: Path) -> None:
    child = interrupted_in_long_episodes(tmp_path / "run")
    began = time.monotonic()
    assert child.wait() == 128 + INT
    assert time.monotonic() - began < SECONDS


@slow
def test_long_episodes_would_be_waited_for(tmp_path: Path) -> None:
    """Mutant: the threads that sample are not told."""

    def deaf() -> None:
        import metarl.rl.stepping as module

        never: Any = threading.Event
        module.Event = lambda: type("Deaf", (never,), {"is_set": lambda self: False})()

    child = interrupted_in_long_episodes(tmp_path / "run", deaf)
    with pytest.raises(TimeoutError):
        child.read(SECONDS)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def test_worker_processes_are_spared_and_end(tmp_path: Path) -> None:
    """Ctrl-C goes to every process of the terminal; the iteration needs its workers to the end."""
    run = tmp_path / "run"
    command = ["train", "maml", "--compile=off", "--threads=1", f"--out={run}", "--meta-batch=2"]
    command += ["--episodes=1", "--hidden=8", "--env.id=my_package:MyTask-v0", "--env.workers=2"]
    command += ["--env.horizon=5", "--validate-every=1000", "--iterations=1000"]

    def work(tell: Tell) -> int:
        os.setsid()
        with faults.injected("train:iteration", lambda: tell("iteration")):
            return main(command)

    child = fork(work)
    child.expect("iteration")
    workers = psutil.Process(child.pid).children(recursive=True)
    assert len(workers) >= 2
    os.killpg(child.pid, INT)
    assert child.wait() == 128 + INT
    _, alive = psutil.wait_procs(workers, timeout=SECONDS)
    assert alive == []
    last = max((run / "checkpoints").iterdir())
    assert json.loads((last / "state.json").read_text())["iteration"] > 0, "it was not saved"

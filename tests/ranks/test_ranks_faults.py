"""A rank is killed, hangs, fails by itself, or differs from the others."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from children import Child, Tell
from ranks import start, train_on
from test_ranks_train import NAVIGATION, SINUSOID, changed
from workloads import ending, glyphs_for_images

from metarl.errors import SaveError
from metarl.runs import faults
from metarl_experiments.__main__ import main
from metarl_experiments.sinusoid import learner, tasks

LONG = changed(SINUSOID, "--iterations=10", "--checkpoint-seconds=0.05")


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Lines on standard error."""
    return capfd.readouterr().err.splitlines()


def victim_of(
    signum: int, victim: int, run: Path, argv: list[str], *, size: int = 2
) -> list[Child]:
    """Ranks of which one, after its fourth iteration, gets a signal."""

    def work(rank: int, tell: Tell) -> int:
        passed = itertools.count()

        def strike() -> None:
            if rank == victim and next(passed) == 3:
                tell("struck")
                os.kill(os.getpid(), signum)

        with faults.injected("train:iteration", strike):
            return main(["train", *argv, f"--out={run}"])

    children = start(size, work)
    children[victim].expect("struck")
    return children


def ending_after(run: Path, argv: list[str], *, size: int = 2) -> object:
    """What the run comes to when it goes on to its end."""
    assert train_on(size, run, [argv[0], "--resume"]) == [0] * size
    return ending(run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> object:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train_on(2, run, LONG) == [0, 0]
    return ending(run)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_rank(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: object, victim: int
) -> None:
    children = victim_of(signal.SIGKILL, victim, tmp_path / "run", LONG)
    began = time.monotonic()
    found = [child.wait() for child in children]
    assert time.monotonic() - began < 30  # of the 300 that a silent one has
    assert found[victim] == -signal.SIGKILL
    assert found[1 - victim] == 6
    (line,) = said(capfd)
    assert f"metarl train: rank {victim} died; the last checkpoint stands" in line
    assert ending_after(tmp_path / "run", LONG) == whole


@pytest.mark.slow
def test_one_of_four_killed_ranks_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    children = victim_of(signal.SIGKILL, 2, tmp_path / "run", LONG, size=4)
    assert [child.wait() for child in children] == [6, 6, -signal.SIGKILL, 6]
    lines = said(capfd)
    assert len(lines) == 3
    assert all("rank 2 died" in line for line in lines)


def test_a_hung_rank(tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: object) -> None:
    children = victim_of(signal.SIGSTOP, 1, tmp_path / "run", [*LONG, "--rank-timeout=2"])
    began = time.monotonic()
    status = children[0].wait()
    assert 1.5 < time.monotonic() - began < 30
    assert status == 6
    assert "rank 1 gave no answer for 2 s" in capfd.readouterr().err
    children[1].kill()
    children[1].wait()
    assert ending_after(tmp_path / "run", LONG) == whole


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_rank_stops_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: object, rank: int
) -> None:
    children = victim_of(signal.SIGTERM, rank, tmp_path / "run", LONG)
    assert [child.wait() for child in children] == [143, 143]
    (line,) = said(capfd)
    assert "stopped by SIGTERM, saved at iteration" in line
    assert ending_after(tmp_path / "run", LONG) == whole


def spoilt(rank: int, spoil: Callable[[], None], argv: list[str], run: Path) -> list[int]:
    """Exit statuses of two ranks of which one was meddled with."""

    def work(own: int, tell: Tell) -> int:
        if own == rank:
            spoil()
        return main(["train", *argv, f"--out={run}"])

    return [child.wait() for child in start(2, work)]


def test_numbers_that_are_not_finite_on_one_rank(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def spoil() -> None:
        draw = tasks.sample_points

        def drawn(*args: object, **options: object) -> object:
            points = draw(*args, **options)  # type: ignore[arg-type]
            points.y[4] = torch.nan
            return points

        tasks.sample_points = drawn  # type: ignore[assignment]

    assert spoilt(1, spoil, SINUSOID, tmp_path / "run") == [5, 5]
    lines = sorted(said(capfd))
    assert "rank 0, with tasks 0 to 2: the outer gradient is not finite" in lines[0]
    assert "rank 1, with tasks 3 to 4: the support.y is not finite in task 1" in lines[1]
    kept = np.load(tmp_path / "run/failures/00000000-rank-1.npz", allow_pickle=False)
    assert np.isnan(kept["support.y"]).any()


def test_one_rank_fails_while_sampling(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def spoil() -> None:
        from metarl_envs.navigation import Navigation2D

        Navigation2D.reward = lambda self, motion, task: np.full(len(task), np.nan)  # type: ignore[method-assign]

    assert spoilt(1, spoil, NAVIGATION, tmp_path / "run") == [6, 5]
    lines = sorted(said(capfd))
    assert lines[0].startswith("metarl train: rank 1 failed: rank 1, with tasks 3 to 4: non-finite")
    assert lines[1].startswith("metarl train: rank 1, with tasks 3 to 4: non-finite reward of task")
    assert (tmp_path / "run/failures/00000000-rank-1.npz").exists()


def test_ranks_with_other_parameters(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def spoil() -> None:
        init = learner.SinusoidLearner.init

        def other(self: learner.SinusoidLearner, seed: int) -> object:
            state = init(self, seed)
            with torch.no_grad():
                state.params["layers.0.bias"][0] += 1e-6
            return state

        learner.SinusoidLearner.init = other  # type: ignore[assignment]

    assert spoilt(1, spoil, SINUSOID, tmp_path / "run") == [6, 6]
    assert "rank 1 has other parameters than rank 0" in capfd.readouterr().err


def test_ranks_with_other_data(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    glyphs_for_images(monkeypatch)

    def spoil() -> None:
        from metarl_experiments.images import tasks as image_tasks

        load = image_tasks.load_omniglot

        def other(root: str | None) -> object:
            data = load(root)
            images = data.images.copy()
            images[:, 0, 0, 3, 3] ^= 1
            return data._replace(images=images)

        image_tasks.load_omniglot = other  # type: ignore[assignment]

    argv = ["omniglot", *changed(SINUSOID[1:], "--net=dense")]
    assert spoilt(1, spoil, argv, tmp_path / "run") == [2, 2]
    assert "rank 1 has another train images than rank 0" in capfd.readouterr().err


def test_the_first_rank_cannot_save(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def spoil() -> None:
        def fail(*_: object) -> None:
            raise SaveError("no space left")

        from metarl.runs import Run

        Run.save = fail  # type: ignore[method-assign, assignment]

    assert spoilt(0, spoil, SINUSOID, tmp_path / "run") == [4, 4]
    assert capfd.readouterr().err == "metarl train: no space left\n"

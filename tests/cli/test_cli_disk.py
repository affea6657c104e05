"""Commands that meet full disks, rivals, damage and exploding rewards: their exit statuses."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Tell, fork
from commands import SMALL, refuse, succeed, train_small
from runs_at import contents
from walkers import Walker
from workloads import COMMON, argv, ending

from metarl.runs import faults, load_checkpoint
from metarl_experiments.__main__ import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    succeed(*argv("sinusoid", run, "--seed=2"))
    return run


class Disk:
    """From iteration `since` on, for `lasting` iterations, creating and writing files fails."""

    def __init__(self, number: int, since: int, lasting: int = 10**9) -> None:
        self.number, self.since, self.lasting, self.done = number, since, lasting, 0

    def iterate(self) -> None:
        self.done += 1

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            reads = call.__name__ == "open" and not arguments[1] & os.O_CREAT
            if not reads and self.since <= self.done < self.since + self.lasting:
                raise OSError(self.number, os.strerror(self.number))
            return call(*arguments, **options)

        return wrapped


def train_on(disk: Disk, run: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    with monkeypatch.context() as patch, faults.injected("train:iteration", disk.iterate):
        for name in ("write", "open", "mkdir", "rename"):
            patch.setattr(os, name, disk.wrap(getattr(os, name)))
        return main(argv("sinusoid", run, "--seed=2"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_full_disk_ends_the_run_with_4(
    tmp_path: Path,
    whole: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert train_on(Disk(number, 20), run, monkeypatch) == 4
    out, err = capfd.readouterr()
    assert out.count("training goes on, and it is tried again") == 2
    (line,) = err.splitlines()
    assert f"bytes to {run}" in line
    assert errno.errorcode[number] in line
    last = max((run / "checkpoints").iterdir())
    assert load_checkpoint(last).iteration >= 10
    succeed(*argv("sinusoid", run))
    assert ending(run) == ending(whole)


def test_a_disk_that_was_full_for_a_while(
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    # A checkpoint after every iteration, so that some fall into the time without room.
    monkeypatch.setattr("workloads.COMMON", [*COMMON[:-1], "--checkpoint-seconds=0"])
    assert train_on(Disk(errno.ENOSPC, 20, lasting=2), run, monkeypatch) == 0
    assert ending(run) == ending(whole)
    out, err = capfd.readouterr()
    assert 1 <= out.count("it is tried again") <= 2
    assert err == ""


def test_no_room_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_on(Disk(errno.ENOSPC, 0), tmp_path / "run", monkeypatch) == 4
    assert "No space left" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_no_checkpoint_verifies(
    tmp_path: Path, whole: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for params in run.glob("checkpoints/*/params.npz"):
        if damage == "missing":
            params.unlink()
        else:
            params.write_bytes(params.read_bytes()[:-9])
    before = contents(run)
    command = ["train", "sinusoid", f"--out={run}", "--resume", "--iterations=99"]
    assert "params.npz" in refuse(capfd, 3, *command)
    after = contents(run)
    assert {k: v for k, v in after.items() if k != "owner.json"} == {
        k: v for k, v in before.items() if k != "owner.json"
    }


@pytest.mark.filterwarnings("default::metarl.errors.RunWarning")
def test_the_newest_checkpoint_is_damaged(
    tmp_path: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    newest = max((run / "checkpoints").iterdir())
    (newest / "manifest.json").write_bytes(b"")
    assert main(["train", "sinusoid", f"--out={run}", "--resume"]) == 0
    assert "warning: skipped" in capfd.readouterr().err
    assert ending(run) == ending(whole)


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_an_exploding_environment_ends_the_run_with_5(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def sample_tasks(n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        return [{"slope": 0.1, "fault": (2, where, float("nan") if i else 0.0)} for i in range(n)]

    monkeypatch.setattr(Walker, "sample_tasks", staticmethod(sample_tasks))
    run = tmp_path / "run"
    options = ["--env.id=my_package:MyTask-v0", "--meta-batch=2", "--episodes=2", "--hidden=8"]
    assert main(["train", "maml", "--compile=off", *options, f"--out={run}"]) == 5
    (line,) = capfd.readouterr().err.splitlines()
    assert where in line
    assert "task 1" in line
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["00000000"]
    assert [p.name for p in (run / "failures").iterdir()] == ["00000000.npz"]


@pytest.mark.parametrize(("races", "rivals"), [(1, 5), pytest.param(5, 5, marks=pytest.mark.slow)])
def test_one_of_several_runs_wins(tmp_path: Path, races: int, rivals: int) -> None:
    alone = train_small(tmp_path / "alone")
    for race in range(races):
        run = tmp_path / str(race)

        def rival(tell: Tell, run: Path = run) -> int:
            tell("ready")
            return main(["train", "sinusoid", f"--out={run}", *SMALL])

        children = [fork(rival) for _ in range(rivals)]
        assert sorted(child.wait() for child in children) == [0] + [2] * (rivals - 1)
        assert ending(run) == ending(alone)

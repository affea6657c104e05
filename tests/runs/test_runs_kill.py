"""Kill -9 at random and at every named fault point of a save."""

import os
import random
import select
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Tell, die, fork
from runs_at import CONFIG, assert_recovers, commit_at, log_at, save_at, snapshot_at

from metarl.runs import Run, checkpoint, directory, faults, files, open_run

LOOP = 10_000
POINTS = [*faults.SAVE_POINTS, "file:half"]


def save_loop(path: Path, tell: Tell, saves: int = LOOP) -> None:
    """Open or resume, then log and save one iteration after the other, saying which is safe."""
    if (path / "config.json").exists():
        run = open_run(path, resume=True, tensorboard=False)
        start = run.load()
        first = 0 if start is None else start.iteration + 1
    else:
        run, first = open_run(path, CONFIG, tensorboard=False), 0
    tell("open")
    for n in range(first, first + saves):
        save_at(run, n)
        tell(str(n))
    run.close()


def acknowledged(messages: list[str]) -> int:
    return max((int(m) for m in messages if m.isdigit()), default=-1)


def kill_at_random(child: Child, dice: random.Random) -> int:
    """Kill it a few saves on, in the midst of one; returns the last iteration acknowledged."""
    messages = []
    for _ in range(dice.randint(1, 6)):
        messages.append(child.read())
    select.select([], [], [], dice.uniform(0, 0.008))  # about as long as one save takes
    child.kill()
    messages += child.rest()
    child.wait()
    return acknowledged([m for m in messages if m])


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_at_random_times_loses_nothing(tmp_path: Path, kills: int) -> None:
    dice = random.Random(kills)
    run, last = tmp_path / "run", -1
    for _ in range(kills):
        child = fork(lambda tell: save_loop(run, tell))
        last = max(last, kill_at_random(child, dice))
        last = assert_recovers(run, last)
    assert last > kills / 2


def kill_at(point: str, after: int, run: Path, mutate: Callable[[], None] | None = None) -> int:
    """Kill a save loop at its `after`-th pass of a point; the last iteration acknowledged."""

    def work(tell: Tell) -> None:
        if mutate is not None:
            mutate()
        with faults.injected(point, die, after=after):
            save_loop(run, tell)

    child = fork(work)
    messages = child.rest()
    assert child.wait() == -9
    return acknowledged(messages)


@pytest.mark.parametrize("after", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in range(4))])
@pytest.mark.parametrize("point", POINTS)
def test_kill_at_a_fault_point_loses_nothing(tmp_path: Path, point: str, after: int) -> None:
    run = tmp_path / "run"
    last = kill_at(point, after, run)
    if not (run / "config.json").exists():
        assert point == "file:half"  # while the config itself was written: no run yet
        return
    last = assert_recovers(run, last)
    again = kill_at(point, after + 1, run)  # once more, on what the first kill left
    assert_recovers(run, max(last, again))


@pytest.mark.parametrize("point", ["open:locked", "load:cut"])
def test_kill_while_opening_loses_nothing(tmp_path: Path, point: str) -> None:
    run = tmp_path / "run"
    if point == "open:locked":
        assert kill_at(point, 0, run) == -1
        assert list(run.iterdir()) == [run / "owner.json"]  # no run: a new one may start
    fork(lambda tell: save_loop(run, tell, 5)).wait()
    assert kill_at(point, 0, run) == -1
    assert assert_recovers(run, 4) == 4


def in_place() -> None:
    """Mutant: write under the final name."""

    def rename(source: Path, target: Path) -> None:
        if Path(source).name.startswith(files.TEMPORARY):
            source.rmdir()

    real = files.write_new
    checkpoint.os.rename = rename
    checkpoint.files.write_new = lambda path, data: real(_final(path), data)


def _final(path: Path) -> Path:
    final = path.parent.with_name(path.parent.name.removeprefix(files.TEMPORARY))
    final.mkdir(exist_ok=True)
    return final / path.name


def acknowledge_early() -> None:
    """Mutant: say that it is saved one save before it is."""
    late: list[int] = []

    def save(run: Run, n: int) -> None:
        log_at(run, n)
        late.append(n)
        if len(late) > 1:
            commit_at(run, late.pop(0))

    globals()["save_at"] = save


def remove_first() -> None:
    """Mutant: make room by removing the old checkpoints before writing the new one."""
    real = checkpoint.write_checkpoint

    def write(parent: Path, *arguments: object, **options: object) -> Path:
        for old in parent.glob("[0-9]*"):
            files.remove_tree(old)
        return real(parent, *arguments, **options)

    directory.write_checkpoint = write
    directory.Run._tidy = lambda self: None


def log_late() -> None:
    """Mutant: log after saving; a kill in between leaves a gap."""

    def save(run: Run, n: int) -> None:
        commit_at(run, n)
        log_at(run, n)

    globals()["save_at"] = save


def leave_temporaries() -> None:
    """Mutant: the next start cleans nothing up."""


@pytest.mark.parametrize(
    ("mutant", "point", "seen"),
    [
        (in_place, "file:half", "skipped"),
        (acknowledge_early, "save:begin", "an acknowledged checkpoint is lost"),
        (remove_first, "save:begin", "an acknowledged checkpoint is lost"),
        (log_late, "save:best", "not logged exactly once"),
        (leave_temporaries, "save:state", "leftover"),
    ],
)
def test_the_kills_see_a_missing_protection(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mutant: Callable[[], None],
    point: str,
    seen: str,
) -> None:
    run = tmp_path / "run"
    last = kill_at(point, 13, run, mutant)  # the mutation dies with the child
    if mutant is leave_temporaries:
        monkeypatch.setattr(files, "remove_temporaries", lambda path, shared: None)
    with pytest.raises((AssertionError, UserWarning), match=seen):
        assert_recovers(run, last)


def test_everything_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, int]] = []
    fsync, rename = os.fsync, os.rename

    def record_sync(descriptor: int) -> None:
        events.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> None:
        events.append(("rename", os.stat(source).st_ino))
        rename(source, target)

    with open_run(tmp_path / "run", CONFIG, tensorboard=False) as run:
        run.log({"iteration": 0, "a": 1.0})
        monkeypatch.setattr(files.fcntl, "F_FULLFSYNC", None, raising=False)
        monkeypatch.setattr(os, "fsync", record_sync)
        monkeypatch.setattr(os, "rename", record_rename)
        run.save(snapshot_at(0))
    final = tmp_path / "run" / "checkpoints" / "00000000"
    commit = events.index(("rename", final.stat().st_ino))
    before = [inode for kind, inode in events[:commit] if kind == "sync"]
    synced = [tmp_path / "run" / "metrics.jsonl", *final.iterdir(), final]
    assert {p.stat().st_ino for p in synced} <= set(before)
    assert before.index((final / "manifest.json").stat().st_ino) == len(before) - 2  # last of files
    assert ("sync", final.parent.stat().st_ino) in events[commit:]

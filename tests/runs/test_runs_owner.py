"""One owner at a time, and readers that never mind the writer."""

import os
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import Child, Tell, fork
from runs_at import CONFIG, assert_snapshot, contents, log_at, make_run, save_at

from metarl.errors import CheckpointError, InputError, RunWarning, SaveError
from metarl.runs import (
    checkpoint,
    faults,
    files,
    lock,
    open_run,
    opening,
    read_metrics,
    read_run,
    read_snapshot,
)


def race(path: Path, start: int, tell: Tell) -> None:
    """Wait for the start, try to make a run, and say who has won; the winner works until killed."""
    tell("ready")
    os.read(start, 1)  # returns when the parent closes its end
    try:
        run = open_run(path, CONFIG, tensorboard=False)
    except InputError as error:
        tell("lost" if "in use by" in str(error) or "--resume" in str(error) else str(error))
        return
    run.log({"iteration": 0, "pid": os.getpid()})
    tell("won")
    os.read(os.pipe()[0], 1)  # until killed


def start_two(path: Path, mutate: Callable[[], None] | None = None) -> list[str]:
    """What two runs that start at once in one directory say; the winner is then killed."""
    start, go = os.pipe()

    def work(tell: Tell) -> None:
        os.close(go)
        if mutate is not None:
            mutate()
        race(path, start, tell)

    children = [fork(work) for _ in range(2)]
    for child in children:
        child.expect("ready")
    os.close(start)
    os.close(go)
    heard = []
    for child in children:
        heard.append(child.read() or "")
    for child in children:
        child.kill()
        child.wait()
    return sorted(heard)


@pytest.mark.parametrize("rounds", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_exactly_one_of_two_wins_and_its_stale_lock_recovers(tmp_path: Path, rounds: int) -> None:
    for number in range(rounds):
        path = tmp_path / f"run-{number}"
        assert start_two(path) == ["lost", "won"]
        assert len(read_metrics(path / "metrics.jsonl")) == 1
        with open_run(path, resume=True, tensorboard=False) as run:
            assert run.load() is None
            save_at(run, 0)
        assert read_snapshot(path).iteration == 0


def test_a_worker_that_outlives_its_killed_run_does_not_hold_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def work(tell: Tell) -> None:
        with open_run(path, CONFIG, tensorboard=False) as run:
            save_at(run, 0)
            worker = os.fork()
            if worker == 0:
                tell(str(os.getpid()))
                os.read(os.pipe()[0], 1)  # hangs
            os.read(os.pipe()[0], 1)

    child = fork(work)
    worker = int(child.read() or "")
    try:
        child.kill()
        os.waitpid(child.pid, 0)
        with open_run(path, resume=True, tensorboard=False) as run:
            assert run.load() is not None
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_forked_process_does_not_unlock_its_parents_run(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", CONFIG, tensorboard=False) as run:
        other = fork(lambda _: run.close())
        assert other.wait() == 0
        with pytest.raises(InputError, match="in use by"):
            open_run(tmp_path / "run", resume=True, tensorboard=False)


@pytest.mark.parametrize("how", ["moved", "removed", "made anew"])
def test_a_run_whose_folder_has_gone_saves_no_more(tmp_path: Path, how: str) -> None:
    path = tmp_path / "run"
    with open_run(path, CONFIG, tensorboard=False) as run:
        save_at(run, 0)
        if how == "moved":
            path.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(path)
        if how == "made anew":
            with open_run(path, CONFIG, tensorboard=False) as other:
                save_at(other, 0)
        before = contents(path) if path.exists() else {}
        with pytest.raises(SaveError, match="was moved, removed or made anew"):
            save_at(run, 1)
        assert run.gives_up
        assert (contents(path) if path.exists() else {}) == before
    if how == "moved":
        assert read_snapshot(tmp_path / "elsewhere").iteration == 0


def test_a_checkpoint_that_somebody_removed_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run(path, CONFIG, tensorboard=False) as run:
        for n in range(6):
            save_at(run, n)
            if n == 2:
                shutil.rmtree(path / "checkpoints" / f"{n:08d}")
    assert sorted(p.name for p in (path / "checkpoints").iterdir())[-2:] == ["00000004", "00000005"]
    assert read_snapshot(path).iteration == 3  # the best
    assert len(list((path / "checkpoints").iterdir())) == 3


def test_two_owners_are_seen_without_the_lock(tmp_path: Path) -> None:
    def mutate() -> None:
        lock.fcntl.flock = lambda *_: None
        opening._refuse_run = lambda _: None

    assert start_two(tmp_path / "run", mutate) != ["lost", "won"]


def hold(path: Path) -> Child:
    """A child that owns a run with three checkpoints until it is killed."""

    def work(tell: Tell) -> None:
        with open_run(path, CONFIG, tensorboard=False) as run:
            for n in range(3):
                save_at(run, n)
            tell("holds")
            os.read(os.pipe()[0], 1)

    child = fork(work)
    child.expect("holds")
    return child


def test_the_loser_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "run"
    child = hold(path)

    def state() -> tuple[object, ...]:
        stamps = [(str(p), os.lstat(p).st_mtime_ns) for p in sorted(path.rglob("*"))]
        return contents(path), stamps

    before = state()
    with pytest.raises(InputError, match=f"in use by process {child.pid} on .* since 20") as error:
        open_run(path, resume=True, tensorboard=False)
    assert str(error.value).startswith(str(tmp_path))
    with pytest.raises(InputError, match="--resume"):
        open_run(path, CONFIG, tensorboard=False)
    assert state() == before
    child.kill()
    child.wait()
    with pytest.raises(InputError, match=r"holds a run: resume it \(--resume\)"):
        open_run(path, CONFIG, tensorboard=False)
    assert state() == before
    with open_run(path, resume=True, tensorboard=False) as run:
        assert_snapshot(run.load())


@pytest.mark.parametrize("kept", ["config.json", "metrics.jsonl", "checkpoints"])
def test_what_is_left_of_a_run_is_never_overwritten(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "run"
    make_run(path, 2)
    for entry in path.iterdir():
        if entry.name != kept:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    before = contents(path)
    with pytest.raises(InputError, match="holds a run"):
        open_run(path, CONFIG, tensorboard=False)
    assert contents(path) == before


def test_bad_places_are_named_and_nothing_is_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run", Path(f"{tmp_path}/a\0b")):
        with pytest.raises(InputError, match=re.escape(str(tmp_path))):
            open_run(place, CONFIG, tensorboard=False)
    for place in (tmp_path / "none", tmp_path, tmp_path / "file", Path(f"{tmp_path}/a\0b")):
        with pytest.raises(InputError, match=r"no run|not a path|no checkpoint"):
            open_run(place, resume=True, tensorboard=False)
        with pytest.raises(InputError, match=r"no run|not a path|no checkpoint"):
            read_run(place)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_run_without_a_checkpoint_starts_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run(path, CONFIG, tensorboard=False) as run:
        log_at(run, 0)
        log_at(run, 1)
    with pytest.raises(InputError, match="no checkpoint yet"):
        read_run(path)
    with open_run(path, resume=True, tensorboard=False) as run:
        assert run.config == CONFIG
        with pytest.raises(RuntimeError, match="loaded first"):
            log_at(run, 0)
        assert run.load() is None
        assert run.best is None
        save_at(run, 0)
    assert [line["iteration"] for line in read_metrics(path / "metrics.jsonl")] == [0]


@pytest.fixture
def strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        yield


def read_everything(path: Path) -> int:
    """What evaluate and report read, checked; the iteration of the last checkpoint."""
    record = read_run(path)
    assert_snapshot(record.snapshot)
    last = read_snapshot(path, last=True)
    assert_snapshot(last)
    assert record.best is None or record.snapshot.iteration % 3 == 0
    assert [line["iteration"] for line in record.metrics] == list(range(len(record.metrics)))
    return last.iteration


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("point", [*faults.SAVE_POINTS, "file:half"])
def test_readers_at_every_point_of_a_save(tmp_path: Path, point: str) -> None:
    path, seen = tmp_path / "run", []
    make_run(path, 4)
    with open_run(path, resume=True, tensorboard=False) as run:
        run.load()
        with faults.injected(point, lambda: seen.append(read_everything(path))):
            for n in range(5, 12):
                save_at(run, n)
                assert read_everything(path) == n
    assert seen == sorted(seen)
    assert len(seen) >= 6


@pytest.mark.usefixtures("strict")
def test_readers_mind_a_writer_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    make_run(path, 4)
    real = files.write_new
    final = path / "checkpoints" / "00000005"
    final.mkdir()
    monkeypatch.setattr(checkpoint.files, "write_new", lambda p, data: real(final / p.name, data))
    with (
        faults.injected("save:params", lambda: read_everything(path)),
        pytest.raises(RunWarning, match=r"skipped .*manifest.json is missing"),
    ):
        checkpoint.write_checkpoint(path / "checkpoints", read_snapshot(path), config=CONFIG)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("reads", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_readers_beside_a_writer(tmp_path: Path, reads: int) -> None:
    path = tmp_path / "run"

    def work(tell: Tell) -> None:
        with open_run(path, CONFIG, tensorboard=False) as run:
            for n in range(1_000_000):
                save_at(run, n)
                if n == 3:
                    tell("started")

    child = fork(work)
    child.expect("started")
    last = 0
    for _ in range(reads // 2):  # each reads twice
        newer = read_everything(path)
        assert newer >= last
        last = newer
    child.kill()
    assert child.wait() == -9
    assert last > 10


def test_a_finished_reader_does_not_wait_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_run(path, 4)
    shutil.rmtree(path / "checkpoints" / "00000003")
    (path / "checkpoints" / "00000004" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"00000003.*state.json is missing") as error:
        read_run(path)
    assert "\n" not in str(error.value)

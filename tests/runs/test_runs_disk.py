"""Full, failing and read-only disks, and writes that come back short."""

import errno
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Tell, fork
from runs_at import CONFIG, assert_recovers, commit_at, log_at, make_run, save_at, snapshot_at

from metarl.errors import InputError, NonFiniteError, RunWarning, SaveError
from metarl.runs import Run, Snapshot, files, open_run, read_snapshot

CALLS = ("write", "fsync", "mkdir", "open", "rename")


class Disk:
    """Makes the `at`-th of the calls that change the disk fail, or every one from then on."""

    def __init__(self, number: int, at: int, *, for_good: bool = False) -> None:
        self.number, self.at, self.for_good, self.passed = number, at, for_good, 0

    def fails(self) -> bool:
        self.passed += 1
        return self.passed > self.at if self.for_good else self.passed == self.at + 1

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            reads = call.__name__ == "open" and not arguments[1] & os.O_CREAT
            if not reads and self.fails():
                raise OSError(self.number, os.strerror(self.number))
            return call(*arguments, **options)

        return wrapped


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    make_run(tmp_path / "run", 3)
    with open_run(tmp_path / "run", resume=True, tensorboard=False) as opened:
        opened.load()
        yield opened


def break_disk(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    for name in CALLS:
        monkeypatch.setattr(os, name, disk.wrap(getattr(os, name)))


def check_failure(run: Run, error: SaveError, number: int) -> None:
    """It says where, how much and why, and the checkpoint before is intact."""
    assert error.exit_code == 4
    assert error.errno == number
    assert errno.errorcode[number] in str(error)
    assert str(run.path) in str(error)
    assert re.search(r"could not write \d+ bytes to ", str(error))
    assert "\n" not in str(error)
    assert read_snapshot(run.path, last=True).iteration in (3, 4, 6)


def fail_once(run: Run, monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> bool:
    """Save 4 while one call fails; then go on. False when there are not so many calls."""
    disk = Disk(number, at)
    with monkeypatch.context() as patch:
        break_disk(patch, disk)
        log_at(run, 4)
        try:
            commit_at(run, 4)
        except SaveError as error:
            failure: SaveError | None = error
        else:
            failure = None
    if failure is not None:
        check_failure(run, failure, number)
        assert not run.gives_up
        commit_at(run, 4)
    for n in (5, 6, 7):
        save_at(run, n)
    run.close()
    assert assert_recovers(run.path, 7) == 7
    return disk.passed > at


@pytest.mark.filterwarnings("ignore:could not write:metarl.errors.RunWarning")
@pytest.mark.parametrize(
    ("number", "at"), [(errno.ENOSPC, 0), (errno.ENOSPC, 5), (errno.EIO, 4), (errno.EROFS, 2)]
)
def test_one_failing_call(run: Run, monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
    assert fail_once(run, monkeypatch, number, at)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:could not write:metarl.errors.RunWarning")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_every_call_failing_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    at, more = 0, True
    while more:
        path = tmp_path / f"run-{at}"
        make_run(path, 3)
        with open_run(path, resume=True, tensorboard=False) as opened:
            opened.load()
            more = fail_once(opened, monkeypatch, number, at)
        at += 1
    assert at > 15


@pytest.mark.parametrize("most", [1, 1000])
def test_short_writes_are_continued(run: Run, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:most])))
        save_at(run, 4)
    run.close()
    assert assert_recovers(run.path, 4) == 4


def test_short_writes_are_seen_when_not_continued(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(files, "write_all", lambda fd, data: real(fd, data[:1000]))
    save_at(run, 4)
    run.close()
    with pytest.raises(RunWarning, match=r"optimizer.npz: 2\d{3} bytes instead of"):
        assert_recovers(run.path, 4)


def test_failing_metrics_are_told_with_their_bytes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, Disk(errno.ENOSPC, 0, for_good=True))
    log_at(run, 4)
    with pytest.raises(SaveError, match=r"could not write [1-9]\d+ bytes to .*metrics\.jsonl: "):
        commit_at(run, 4)


def test_gives_up_after_three_failures_in_a_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with monkeypatch.context() as patch:
            break_disk(patch, Disk(errno.ENOSPC, 0, for_good=True))
            log_at(run, fail.n)
            with pytest.raises(SaveError) as failure:
                commit_at(run, fail.n)
            check_failure(run, failure.value, errno.ENOSPC)
        fail.n += 1

    fail.n = 4
    fail()
    fail()
    assert not run.gives_up
    save_at(run, 6)  # room again: the count starts anew, and no line of metrics is lost
    fail.n = 7
    for _ in range(3):
        assert not run.gives_up
        fail()
    assert run.gives_up
    run.close()
    path = run.path / "metrics.jsonl"
    assert [line.split(b",")[0] for line in path.read_bytes().splitlines()] == [
        b'{"iteration": %d' % n for n in range(10)
    ]


def test_a_real_file_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def work(tell: Tell) -> None:
        with open_run(path, CONFIG, tensorboard=False) as run:
            save_at(run, 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            with pytest.raises(SaveError) as failure:
                save_at(run, 1)
            assert failure.value.errno == errno.EFBIG
            assert re.search(r"could not write 2\d\d\d bytes to .*params.npz", str(failure.value))
            assert read_snapshot(path).iteration == 0
            assert os.listdir(path / "checkpoints") == ["00000000"]
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            save_at(run, 2)

    assert fork(work).wait() == 0
    assert read_snapshot(path).iteration == 2


@pytest.mark.slow
def test_a_real_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small tmpfs")
    try:
        with open_run(disk / "run", CONFIG, tensorboard=False) as run:
            for n in range(4):
                save_at(run, n)
            with tempfile.NamedTemporaryFile(dir=disk) as hog:
                with pytest.raises(OSError, match="No space"):
                    files.write_all(hog.fileno(), bytes(1 << 20))
                for n in (4, 5):
                    with pytest.raises(SaveError, match=r"\d+ bytes to .*ENOSPC") as failure:
                        save_at(run, n)
                    assert failure.value.errno == errno.ENOSPC
                    assert read_snapshot(run.path, last=True).iteration == 3
            save_at(run, 6)
        assert assert_recovers(disk / "run", 6) == 6
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EROFS, InputError), (errno.EACCES, InputError), (errno.ENOSPC, SaveError)],
)
def test_opening_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    with monkeypatch.context() as patch:
        break_disk(patch, Disk(number, 0, for_good=True))
        with pytest.raises(kind, match=str(tmp_path)):
            open_run(tmp_path / "deep" / "run", CONFIG, tensorboard=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["params", "optimizer", "state", "best"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_non_finite_is_saved(run: Run, part: str, value: float) -> None:
    snapshot = snapshot_at(4)
    if part == "state":
        snapshot.state["window"][0] = value
    elif part != "best":
        array = np.array([0.0, value])
        snapshot = snapshot._replace(**{part: {**getattr(snapshot, part), "bad": array}})
    seen = "bad" if part in ("params", "optimizer") else str(value)
    best = value if part == "best" else 0.0
    with pytest.raises(NonFiniteError, match=seen) as error:
        run.save_best(snapshot, "validation/loss", best)
    assert ("bad" if part in ("params", "optimizer") else part) in error.value.place
    for _ in range(3):
        with pytest.raises(NonFiniteError):
            run.save_best(snapshot, "validation/loss", best)
    assert not run.gives_up  # nothing is wrong with the disk
    save_at(run, 5)


def test_a_failing_batch_is_kept(run: Run) -> None:
    torch = pytest.importorskip("torch")
    batch = {"rewards": np.array([1.0, np.nan]), "actions": torch.ones(2, requires_grad=True)}
    path = run.keep_failure(
        12, NonFiniteError("reward is nan", place="reward", task=1, batch=batch)
    )
    assert path == run.path / "failures" / "00000012.npz"
    with np.load(path, allow_pickle=False) as kept:
        assert np.isnan(kept["rewards"][1])
        assert kept["actions"].tolist() == [1.0, 1.0]
    assert run.keep_failure(13, NonFiniteError("nan", place="loss")) is None


def test_saving_leaks_nothing(run: Run) -> None:
    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    save_at(run, 4)
    before = descriptors()
    for n in range(5, 25):
        save_at(run, n)
        read_snapshot(run.path)
    assert descriptors() == before


def test_the_order_of_saving_is_checked(run: Run) -> None:
    save_at(run, 4)
    run.save(snapshot_at(4))  # the last one again: already done
    with pytest.raises(ValueError, match="not after 4"):
        run.save_best(snapshot_at(4), "validation/loss", 0.0)
    with pytest.raises(ValueError, match="not after 4"):
        run.save(Snapshot(2, {}, {}, {}))
    with pytest.raises(ValueError, match="logged once"):
        log_at(run, 4)
    run.close()
    with pytest.raises(RuntimeError, match="closed"):
        run.save(snapshot_at(5))

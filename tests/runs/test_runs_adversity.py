"""Faults at odd moments: a run made before the lock was had, a failing stat, a half-cut record."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from children import Tell, die, fork
from runs_at import CONFIG, assert_recovers, commit_at, log_at, make_run, save_at
from test_runs_kill import kill_at

from metarl.errors import InputError, SaveError
from metarl.runs import faults, files, lock, open_run, prune_run, shipping


def test_a_run_made_before_the_lock_was_had_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "made", 2)
    path, acquire = tmp_path / "run", lock.acquire
    path.mkdir()

    def late(directory: Path) -> int:
        for entry in (tmp_path / "made").iterdir():
            entry.rename(directory / entry.name)
        return acquire(directory)

    monkeypatch.setattr(lock, "acquire", late)
    with pytest.raises(InputError, match="holds a run"):
        open_run(path, {**CONFIG, "seed": 1}, tensorboard=False)
    assert b'"seed": 0' in (path / "config.json").read_bytes()


def test_names_of_files_are_durable_before_a_checkpoint_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    files.replace(tmp_path / "best.json", b"{}")
    assert synced[-1] == tmp_path.stat().st_ino
    path = tmp_path / "experiment" / "seed-0"
    with open_run(path, CONFIG, tensorboard=False) as run:
        assert {p.stat().st_ino for p in (path, path.parent, tmp_path)} <= set(synced)
        log_at(run, 0)
        synced.clear()
        commit_at(run, 0)
    names = (path / "checkpoints" / "00000000", path, path / "metrics.jsonl")
    order = [synced.index(place.stat().st_ino) for place in (names[2], names[1], names[0])]
    assert order == sorted(order)


@pytest.mark.parametrize("name", ["checkpoints/00000001", "owner.json"])
def test_a_stat_that_fails_once_is_tried_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat
    failed: list[str] = []

    def failing(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if name in str(path) and not failed:
            failed.append(str(path))
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, *args, **options)

    with open_run(tmp_path / "run", CONFIG, tensorboard=False) as run:
        save_at(run, 0)
        log_at(run, 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", failing)
            with pytest.raises(SaveError, match="EIO"):
                commit_at(run, 1)
        assert failed
        assert not run.gives_up
        commit_at(run, 1)


def test_a_kill_while_the_record_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_run(path, 4)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5, "train/loss": 1.0}\n')

    def work(_: Tell) -> None:
        with (
            faults.injected("file:half", die),
            open_run(path, resume=True, tensorboard=False) as run,
        ):
            run.load()

    assert fork(work).wait() == -9
    assert assert_recovers(path, 4) == 4


def test_a_kill_in_the_midst_of_best_json(tmp_path: Path) -> None:
    run = tmp_path / "run"
    last = kill_at("file:half", 17, run)
    assert list(run.glob(".tmp-*-best.json"))
    assert assert_recovers(run, last) >= last


def test_a_run_that_cannot_be_shipped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", 2)

    def full(path: Path, _: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(shipping, "thin_metrics", lambda *_: full(tmp_path, b""))
    with pytest.raises(SaveError):
        prune_run(tmp_path / "run", tmp_path / "small")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]

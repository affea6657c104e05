"""What a run keeps, how it goes on, and what of it is shipped."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from runs_at import CONFIG, assert_snapshot, best_at, contents, make_run, newest, save_at, seal

from metarl.errors import CheckpointError, InputError, NonFiniteError, RunWarning, SaveError
from metarl.runs import (
    Best,
    Snapshot,
    load_checkpoint,
    open_run,
    prune_run,
    read_best,
    read_config,
    read_json,
    read_metrics,
    read_run,
    read_snapshot,
    write_json,
)
from metarl.runs.versions import versions


def kept(path: Path) -> list[int]:
    return sorted(int(entry.name) for entry in (path / "checkpoints").iterdir())


def test_a_run_keeps_the_last_two_and_the_best(tmp_path: Path) -> None:
    expected = {
        0: [0],
        1: [0, 1],
        2: [1, 2],
        3: [2, 3],
        4: [3, 4],
        5: [3, 4, 5],
        6: [3, 5, 6],  # 5 still names 3: should 6 rot, the run goes back to 5 and its best
        7: [6, 7],
        8: [6, 7, 8],
    }
    with open_run(tmp_path / "run", CONFIG, tensorboard=False) as run:
        for n, expectation in expected.items():
            save_at(run, n)
            assert kept(run.path) == expectation
            assert run.best == read_best(run.path) == best_at(n)
            assert_snapshot(read_snapshot(run.path, last=True))
    assert read_run(tmp_path / "run").snapshot.iteration == 6
    assert read_snapshot(tmp_path / "run", last=True).iteration == 8


def test_a_resumed_run_leaves_what_an_uninterrupted_one_leaves(tmp_path: Path) -> None:
    make_run(tmp_path / "whole", 9)
    make_run(tmp_path / "parts", 4)
    with open_run(tmp_path / "parts", resume=True, tensorboard=False) as run:
        start = run.load()
        assert start is not None
        assert_snapshot(start)
        assert run.best == best_at(4)
        for n in range(start.iteration + 1, 10):
            save_at(run, n)
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    del whole["owner.json"], parts["owner.json"]
    assert parts == whole


def test_the_record_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run(path, CONFIG, tensorboard=False) as run:
        for n in range(3):
            save_at(run, n)
        run.log({"iteration": 3, "train/loss": 0.0})
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "tra')
    with open_run(path, resume=True, tensorboard=False) as run:
        run.load()
        assert [line["iteration"] for line in read_metrics(path / "metrics.jsonl")] == [0, 1, 2]


def test_going_back_also_takes_back_the_best(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_run(path, 6)
    (path / "checkpoints" / "00000006" / "state.json").unlink()
    with open_run(path, resume=True, tensorboard=False) as run:
        with pytest.warns(RunWarning, match="skipped"):
            assert run.load().iteration == 5
        assert run.best == read_best(path) == best_at(5)
        save_at(run, 6)
        assert run.best == read_best(path) == best_at(6)


def test_other_versions_are_said_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_run(path, 1)
    seal(newest(path), versions={**versions(), "torch": "1.0"})
    warned = pytest.warns(RunWarning, match=r"torch 1\.0 -> .*not bit for bit")
    with open_run(path, resume=True, tensorboard=False) as run, warned:
        assert_snapshot(run.load())


def test_versions_name_what_decides_the_bits() -> None:
    assert {"python", "machine", "torch", "numpy", "mujoco", "gymnasium"} <= {*versions()}


def test_a_named_checkpoint_is_taken_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_run(path, 4)
    assert_snapshot(load_checkpoint(path / "checkpoints" / "00000003"))
    (path / "checkpoints" / "00000003").rename(tmp_path / "mine")
    assert_snapshot(load_checkpoint(tmp_path / "mine"))  # away from its run it stands for itself
    with pytest.raises(InputError, match="is a run; name one of"):
        load_checkpoint(path)
    for missing in (path / "checkpoints" / "00000009", "", "a\0b", "x" * 5000):
        with pytest.raises((InputError, CheckpointError)):
            load_checkpoint(missing)


def test_json_files_are_written_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_json(path, {"mean": [0.25, None]})
    for bad, kind in ((float("nan"), NonFiniteError), ({1}, TypeError)):
        with pytest.raises(kind):
            write_json(path, {"mean": [0.25, bad]})
    assert read_json(path) == {"mean": [0.25, None]}
    with pytest.raises(SaveError, match=r"could not write \d+ bytes to .*none/evaluation\.json"):
        write_json(tmp_path / "none" / "evaluation.json", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize("last", [False, True])
def test_a_pruned_run_reads_like_the_run(tmp_path: Path, last: bool) -> None:
    source, target = tmp_path / "run", tmp_path / "results" / "seed-0"
    target.parent.mkdir()
    make_run(source, 8)
    write_json(source / "evaluation.json", {"mean": [2.5, 0.5]})
    prune_run(source, target, last=last, lines=4)
    run = read_run(target)
    assert run.config == read_config(source) == CONFIG
    assert run.snapshot.iteration == (8 if last else 6)
    np.testing.assert_array_equal(run.snapshot.params["weight"], run.snapshot.iteration)
    assert run.snapshot.optimizer == run.snapshot.state == {}
    assert run.best == (None if last else best_at(6))
    assert run.evaluation == {"mean": [2.5, 0.5]}
    assert [line["iteration"] for line in run.metrics] == [0, 3, 5, 8]
    assert {entry.name for entry in target.iterdir()} == {
        *("config.json", "metrics.jsonl", "checkpoints", "evaluation.json"),
        *(() if last else ("best.json",)),
    }
    assert sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) < 6000
    refused = pytest.raises(CheckpointError, match=r"start a new one from .*0000000[68]")
    with open_run(target, resume=True, tensorboard=False) as opened, refused:
        opened.load()
    with pytest.raises(InputError, match="exists"):
        prune_run(source, target)
    with pytest.raises(InputError, match="no run"):
        prune_run(tmp_path / "none", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_saving_takes_milliseconds(tmp_path: Path) -> None:
    params = {f"layer.{i}": np.ones((40, 100), np.float32) for i in range(2)}
    moments = {f"{k}/{m}": v for k, v in params.items() for m in ("exp_avg", "exp_avg_sq")}
    with open_run(tmp_path / "run", CONFIG, tensorboard=False) as run:
        run.save(Snapshot(0, params, moments, {}))
        spent = time.process_time()
        for n in range(1, 21):
            run.save(Snapshot(n, params, moments, {}))
        spent = time.process_time() - spent
    assert (
        spent / 20 < 0.02
    )  # of processor time: 2 ms where this was written; the disk adds its own


def test_a_best_value_may_be_negative(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", CONFIG, tensorboard=False) as run:
        run.save_best(Snapshot(25, {}, {}, {}), "validation/return", -61.5)
    assert json.loads((tmp_path / "run" / "best.json").read_text()) == {
        "iteration": 25,
        "metric": "validation/return",
        "value": -61.5,
    }
    assert read_best(tmp_path / "run") == Best(25, "validation/return", -61.5)


def test_files_of_others_are_left(tmp_path: Path) -> None:
    (tmp_path / ".tmp-work").mkdir()
    (tmp_path / ".tmp-work" / "data").touch()
    mine = [".tmp-work", ".tmp-notes", f".tmp-{os.getppid()}-video.mp4"]
    for name in (*mine[1:], f".tmp-{os.getpid()}-config.json", ".tmp-4194305-best.json"):
        (tmp_path / name).touch()
    with open_run(tmp_path, CONFIG):
        pass
    left = [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".tmp")]
    assert sorted(left) == sorted(mine)


def test_checkpoints_that_may_not_be_read_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", 1)

    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(InputError, match="checkpoints cannot be read: Permission denied"):
        read_snapshot(tmp_path / "run")


def test_what_a_run_cannot_hold_is_told_with_the_way_out(tmp_path: Path) -> None:
    with open_run(tmp_path, {}) as run:
        with pytest.raises(ValueError, match="the record has no 'iteration'"):
            run.log({"loss": 1.0})
        with pytest.raises(TypeError, match=r"'p' is of type Tensor: .*p\.detach\(\)"):
            run.save(Snapshot(1, {"p": torch.ones(1)}, optimizer={}, state={}))  # type: ignore[dict-item]

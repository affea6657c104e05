"""Damaged checkpoints are never loaded: the one before is, or a clear error is given."""

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs_at import CONFIG, assert_snapshot, contents, make_run, newest, seal, snapshot_at

from metarl.errors import CheckpointError, RunWarning
from metarl.runs import (
    Snapshot,
    arrays,
    checkpoint,
    documents,
    files,
    load_checkpoint,
    open_run,
    read_run,
    read_snapshot,
)
from metarl.runs.checkpoint import write_checkpoint

FILES = ("params.npz", "optimizer.npz", "state.json", "manifest.json")
Damage = Callable[[Path, random.Random], None]


def _edit(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def empty(path: Path, dice: random.Random) -> None:
    (path / dice.choice(FILES)).write_bytes(b"")


def truncated(path: Path, dice: random.Random) -> None:
    file = path / dice.choice(FILES)
    os.truncate(file, dice.randrange(1, file.stat().st_size))


def bit_flip_in(name: str) -> Damage:
    def flip(path: Path, dice: random.Random) -> None:
        def change(data: bytearray) -> None:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)

        _edit(path / name, change)

    flip.__name__ = f"bit_flip_in_{name.partition('.')[0]}"
    return flip


def zeroed_block(path: Path, dice: random.Random) -> None:
    def change(data: bytearray) -> None:
        start = dice.randrange(len(data) - 16)
        data[start : start + 512] = bytes(len(data[start : start + 512]))

    _edit(path / dice.choice(FILES), change)


def appended(path: Path, dice: random.Random) -> None:
    _edit(path / dice.choice(FILES), lambda data: data.extend(b"\n"))


def missing_file(path: Path, dice: random.Random) -> None:
    (path / dice.choice(FILES[:3])).unlink()


def missing_manifest(path: Path, dice: random.Random) -> None:
    (path / "manifest.json").unlink()


def wrong_manifest(path: Path, dice: random.Random) -> None:
    older = sorted(path.parent.glob("0*"))[0]
    shutil.copy(older / "manifest.json", path / "manifest.json")


def swapped_files(path: Path, dice: random.Random) -> None:
    os.rename(path / "params.npz", path / "aside")
    os.rename(path / "optimizer.npz", path / "params.npz")
    os.rename(path / "aside", path / "optimizer.npz")


def other_iteration(path: Path, dice: random.Random) -> None:
    older = sorted(path.parent.glob("0*"))[0]
    shutil.rmtree(path)
    shutil.copytree(older, path)


def other_run(path: Path, dice: random.Random) -> None:
    shutil.rmtree(path)
    snapshot = snapshot_at(int(path.name))
    write_checkpoint(path.parent, snapshot, config={**CONFIG, "seed": 1})


def other_schema(path: Path, dice: random.Random) -> None:
    seal(path, schema=2)


def non_finite(value: float) -> Damage:
    def forge(path: Path, dice: random.Random) -> None:
        name = dice.choice(FILES[:2])
        kept = arrays.decode((path / name).read_bytes())
        array = dice.choice([a for a in kept.values() if a.dtype.kind == "f"])
        array.reshape(-1)[dice.randrange(array.size)] = value
        (path / name).write_bytes(arrays.encode(kept))
        seal(path)

    forge.__name__ = f"{value}_inside"
    return forge


def infinite_state(path: Path, dice: random.Random) -> None:
    text = (path / "state.json").read_bytes()
    token = dice.choice([b"NaN", b"Infinity", b"1e999"])
    (path / "state.json").write_bytes(text.replace(b'"counting"', token))
    seal(path)


def unreadable(path: Path, dice: random.Random) -> None:
    file = path / dice.choice(FILES)
    file.unlink()
    file.mkdir()  # what chmod cannot do to root


def pipe(path: Path, dice: random.Random) -> None:
    file = path / dice.choice(FILES)
    file.unlink()
    os.mkfifo(file)


def file_loop(path: Path, dice: random.Random) -> None:
    file = path / dice.choice(FILES)
    file.unlink()
    file.symlink_to(file.name)


def directory_loop(path: Path, dice: random.Random) -> None:
    shutil.rmtree(path)
    path.symlink_to(path.name)


def file_for_directory(path: Path, dice: random.Random) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"checkpoint")


def dangling(path: Path, dice: random.Random) -> None:
    shutil.rmtree(path)
    path.symlink_to("nowhere")


def extra_entry(path: Path, dice: random.Random) -> None:
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    (path / "more.npz").write_bytes(b"")
    seal(path, files={**files, "../../config.json": {"bytes": 1, "sha256": ""}})


def lying_sizes(path: Path, dice: random.Random) -> None:
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    seal(path, files={name: {**entry, "bytes": 1 << 60} for name, entry in files.items()})


KINDS: list[Damage] = [
    empty,
    truncated,
    *(bit_flip_in(name) for name in FILES),
    zeroed_block,
    appended,
    missing_file,
    missing_manifest,
    wrong_manifest,
    swapped_files,
    other_iteration,
    other_run,
    other_schema,
    non_finite(float("nan")),
    non_finite(float("inf")),
    infinite_state,
    unreadable,
    pipe,
    file_loop,
    directory_loop,
    file_for_directory,
    dangling,
    extra_entry,
    lying_sizes,
]


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "run"
    make_run(path, 5)
    return path


def assert_survives(run: Path) -> None:
    """The newest checkpoint, 5, is damaged; 4 is used, nothing is deleted, all is said."""
    damaged = newest(run)
    before = contents(run)
    with pytest.raises(CheckpointError, match=damaged.name):
        load_checkpoint(damaged)
    with pytest.warns(RunWarning, match=f"skipped .*{damaged.name}") as warned:
        assert_snapshot(snapshot := read_snapshot(run, last=True))
    assert snapshot.iteration == 4
    assert len(warned) == 1
    assert contents(run) == before
    shutil.copytree(run, run.with_name("both"), symlinks=True, ignore=_no_pipes)
    with (
        open_run(run, resume=True, tensorboard=False) as opened,
        pytest.warns(RunWarning, match="kept as") as warned,
    ):
        assert_snapshot(snapshot := opened.load())
    assert snapshot.iteration == 4
    assert len(warned) == 1
    aside = f"checkpoints/damaged-{damaged.name}-1"
    after = {
        name.replace(aside, f"checkpoints/{damaged.name}"): d for name, d in contents(run).items()
    }
    rewritten = {"metrics.jsonl", "owner.json"}
    assert {n: d for n, d in after.items() if n not in rewritten} == {
        n: d for n, d in before.items() if n not in rewritten
    }


def _no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]


@pytest.mark.parametrize(
    "case", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 16))]
)
@pytest.mark.parametrize("damage", KINDS, ids=lambda damage: damage.__name__)
def test_damage_is_never_loaded(good_run: Path, tmp_path: Path, damage: Damage, case: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(good_run, run)
    damage(newest(run), random.Random(f"{damage.__name__}/{case}"))
    assert_survives(run)
    # And where every checkpoint is damaged: an error with the reasons, and not a byte changed.
    both = tmp_path / "both"
    for older in sorted((both / "checkpoints").glob("0*"))[:-1]:
        os.truncate(older / "params.npz", 100)
    before = contents(both)
    with pytest.raises(CheckpointError, match="100 bytes instead of") as error:
        read_run(both)
    assert error.value.exit_code == 3
    with open_run(both, resume=True, tensorboard=False) as opened, pytest.raises(CheckpointError):
        opened.load()
    assert contents(both) | {"owner.json": b""} == before | {"owner.json": b""}


def test_files_that_are_refused_are_closed(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("long")
    (tmp_path / "folder").mkdir()
    before = os.listdir("/dev/fd")
    with pytest.raises(OSError, match="more than 3 bytes"):
        files.read(tmp_path / "long", limit=3)
    with pytest.raises(OSError, match="not a regular file"):
        files.read(tmp_path / "folder")
    assert os.listdir("/dev/fd") == before


def test_a_damaged_best_is_not_passed_off_as_the_best(good_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(good_run, run)
    os.truncate(run / "checkpoints" / "00000003" / "params.npz", 7)
    with pytest.warns(RunWarning, match="skipped .*00000003.*params.npz: 7 bytes"):
        assert read_run(run).snapshot.iteration == 5
    shutil.rmtree(run / "checkpoints" / "00000003")
    with pytest.warns(RunWarning, match="skipped .*00000003"):
        assert read_run(run).snapshot.iteration == 5


def test_a_run_goes_on_over_a_damaged_checkpoint(good_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(good_run, run)
    for _ in range(2):
        os.truncate(newest(run) / "params.npz", 7)
        with open_run(run, resume=True, tensorboard=False) as opened:
            with pytest.warns(RunWarning, match="kept as damaged-00000005"):
                assert opened.load() is not None
            opened.log({"iteration": 5, "train/loss": 1 / 6})
            opened.save(snapshot_at(5))
    assert {p.name for p in (run / "checkpoints").glob("damaged*")} == {
        "damaged-00000005-1",
        "damaged-00000005-2",
    }


def test_flips_are_seen_to_load_silently_without_the_hashes(
    good_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoHash:
        def __init__(self, data: bytes) -> None:
            pass

        def hexdigest(self) -> str:
            return "0" * 64

    monkeypatch.setattr(checkpoint.hashlib, "sha256", NoHash)
    path = write_checkpoint(tmp_path, snapshot_at(5), config=CONFIG)
    wrong = 0
    for case in range(60):
        copy = tmp_path / f"copy-{case}"
        shutil.copytree(path, copy)
        bit_flip_in("state.json")(copy, random.Random(case))
        try:
            assert_snapshot(load_checkpoint(copy))
        except CheckpointError:
            continue
        except AssertionError:
            wrong += 1
    assert wrong > 0


def test_arrays_round_trip_to_the_bit(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    params = {
        "scalar": np.float32(3.5).reshape(()),
        "layers.0/weight": numbers.standard_normal((3, 4, 5)),
        "fortran": np.asfortranarray(numbers.standard_normal((3, 4))),
        "empty": np.zeros((0, 3), np.float32),
        "file": np.array([True, False]),
        "self": np.arange(5, dtype=np.uint8),
        "ключ": np.array(-0.0),
        "tiny": np.array([5e-324, 1.7976931348623157e308]),
    }
    path = write_checkpoint(tmp_path, Snapshot(7, params, {}, {}), config={})
    loaded = load_checkpoint(path).params
    assert list(loaded) == list(params)
    for name, array in loaded.items():
        assert array.dtype == params[name].dtype
        assert array.shape == params[name].shape
        assert array.tobytes() == np.asarray(params[name], order="C").tobytes()
        assert array.flags.writeable
        assert array.flags.owndata or array.base.flags.owndata
    assert arrays.encode(loaded) == arrays.encode(params)


@pytest.mark.parametrize(
    "array",
    [
        np.array([None]),
        np.array(["text"]),
        np.array([b"raw"]),
        np.zeros(2, np.float16),
        np.zeros(2, ">f4"),
        np.zeros(2, complex),
        np.zeros(2, [("a", "f4")]),
        np.array(0, "M8[s]"),
        [1.0, 2.0],
    ],
    ids=str,
)
def test_only_plain_arrays_are_saved(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="'odd'"):
        write_checkpoint(tmp_path, Snapshot(0, {"odd": array}, {}, {}), config={})
    assert list(tmp_path.iterdir()) == []


def test_documents_are_bounded() -> None:
    deep: list[object] = []
    for _ in range(documents.MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        documents.dumps(deep)
    for text in (json.dumps(deep).encode(), b"[" * 200_000, b'{"a":' * 200_000):
        with pytest.raises(ValueError, match="deep"):
            documents.loads(text)
    with pytest.raises(TypeError, match=r"config\.a\[1\] is a set"):
        documents.dumps({"a": [1, {2}]}, "config")
    with pytest.raises(TypeError, match="key 1"):
        documents.dumps({"a": {1: 2}})
    with warnings.catch_warnings():
        assert documents.loads(documents.dumps({"a": (1, 2.5, None, True, "é")})) == {
            "a": [1, 2.5, None, True, "é"]
        }

"""A run whose every state is known: what iteration n must have left on disk."""

import atexit
import hashlib
import json
import shutil
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from metarl.errors import RunWarning
from metarl.runs import Best, Run, Snapshot, documents, open_run, read_metrics

CONFIG: dict[str, Any] = {"experiment": "counting", "seed": 0, "lr": 0.125}


def snapshot_at(n: int) -> Snapshot:
    """Params, moments and state after iteration n."""
    params = {
        "weight": np.full((20, 30), n, np.float32),
        "inner_lr.weight": np.array(n / 8, np.float64),
    }
    moments = {"weight/step": np.array(n, np.int64), "weight/exp_avg": np.full(600, -n, np.float32)}
    return Snapshot(n, params, moments, {"window": [n, n / 2], "name": "counting"})


def best_at(n: int) -> Best | None:
    """Every third iteration, from 3 on, improves on those before."""
    third = n - n % 3
    return Best(third, "validation/loss", 1 / third) if third else None


def log_at(run: Run, n: int) -> None:
    """Log iteration n."""
    run.log({"iteration": n, "train/loss": 1.0 / (n + 1)})


def commit_at(run: Run, n: int) -> None:
    """Save iteration n, as the best if it is."""
    best = best_at(n)
    if best is not None and best.iteration == n:
        run.save_best(snapshot_at(n), best.metric, best.value)
    else:
        run.save(snapshot_at(n))


def save_at(run: Run, n: int) -> None:
    """Log, then save iteration n."""
    log_at(run, n)
    commit_at(run, n)


@cache
def _made(iterations: int) -> Path:
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    with open_run(folder / "run", CONFIG, tensorboard=False) as run:
        for n in range(iterations + 1):
            save_at(run, n)
    return folder / "run"


def make_run(path: Path, iterations: int) -> None:
    """A run of iterations 0 .. `iterations`, all saved; made once and copied, which is faster."""
    shutil.copytree(_made(iterations), path)


def assert_snapshot(snapshot: Snapshot) -> None:
    """It is, to the bit, what `snapshot_at` its iteration gives."""
    expected = snapshot_at(snapshot.iteration)
    assert snapshot.state == expected.state
    for ours, theirs in (
        (snapshot.params, expected.params),
        (snapshot.optimizer, expected.optimizer),
    ):
        assert list(ours) == list(theirs)
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype
            assert array.shape == theirs[name].shape
            assert array.tobytes() == theirs[name].tobytes()


def assert_recovers(path: Path, acknowledged: int) -> int:
    """Resume as the next start does: no warning, nothing acknowledged lost, no leftovers.

    Returns the iteration it goes on from, -1 for none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        with open_run(path, resume=True, tensorboard=False) as run:
            snapshot = run.load()
            iteration = -1 if snapshot is None else snapshot.iteration
            assert iteration >= acknowledged, "an acknowledged checkpoint is lost"
            if snapshot is not None:
                assert_snapshot(snapshot)
                assert run.best == best_at(iteration), "another best"
                view = path / "best.json"
                named = Best(**json.loads(view.read_text())) if view.exists() else None
                assert named == run.best
    logged = [line["iteration"] for line in read_metrics(path / "metrics.jsonl")]
    assert logged == list(range(iteration + 1)), "an iteration not logged exactly once"
    known = {"config.json", "metrics.jsonl", "best.json", "owner.json", "checkpoints"}
    names = {entry.name for entry in path.iterdir() if "tfevents" not in entry.name}
    assert names <= known, "leftovers in the run"
    kept = [entry.name for entry in (path / "checkpoints").iterdir()]
    assert all(name.isdigit() and len(name) == 8 for name in kept), "leftover checkpoints"
    assert len(kept) <= 4, "old checkpoints"
    return iteration


def newest(path: Path) -> Path:
    """Directory of a run's newest checkpoint."""
    return max((path / "checkpoints").glob("[0-9]*"))


def seal(checkpoint: Path, **changes: Any) -> None:
    """Make a manifest right again after its files were changed, as a forger would."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        data = (checkpoint / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"bytes": len(data), "sha256": digest}
    manifest |= changes
    manifest["sha256"] = hashlib.sha256(documents.dumps(manifest)).hexdigest()
    (checkpoint / "manifest.json").write_bytes(documents.dumps(manifest))


def contents(path: Path) -> dict[str, bytes | str]:
    """Every file under `path` by relative name; links by their target."""
    found: dict[str, bytes | str] = {}
    for entry in sorted(path.rglob("*")):
        name = str(entry.relative_to(path))
        if entry.is_symlink():
            found[name] = str(entry.readlink())
        elif entry.is_file():
            found[name] = entry.read_bytes()
        else:
            found[name] = "directory" if entry.is_dir() else "other"
    return found

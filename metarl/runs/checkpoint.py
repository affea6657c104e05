"""One checkpoint: a directory of plain arrays and JSON, sealed by a manifest.

    00000400/params.npz  optimizer.npz  state.json  manifest.json

It is written under a temporary name, every file created anew and synced, the manifest last; then
renamed, then the parent directory is synced. Under its final name it is whole or damaged later.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarl.errors import CheckpointError

from . import arrays, documents, files
from .arrays import Array
from .faults import fault_point
from .versions import versions

SCHEMA = 1
MANIFEST = "manifest.json"
_NAMES = ("params.npz", "optimizer.npz", "state.json")
_MANIFEST_BYTES = 16 << 20


class Snapshot(NamedTuple):
    """State of training after `iteration` complete iterations."""

    iteration: int
    params: dict[str, Array]
    optimizer: dict[str, Array]  # empty where there is none
    state: dict[str, Any]  # whatever else decides the iterations to come, as JSON


class Best(NamedTuple):
    """The best checkpoint so far by a validation metric."""

    iteration: int
    metric: str
    value: float


def best_of(value: Any) -> Best:
    """The best checkpoint as JSON tells it.

    Raises:
        ValueError: something is missing, unknown or of another type.
    """
    try:
        best = Best(**value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if type(best.iteration) is not int or best.iteration < 0:
        raise ValueError(f"iteration is {best.iteration!r}")
    if not isinstance(best.metric, str):
        raise ValueError(f"metric is {best.metric!r}")
    if type(best.value) not in (int, float):
        raise ValueError(f"value is {best.value!r}")
    return best


class Checkpoint(NamedTuple):
    """All a checkpoint holds."""

    snapshot: Snapshot
    best: Best | None  # as it stood when this was saved
    config: dict[str, Any]
    versions: dict[str, str]
    resumable: bool  # False where the optimizer's state was left out


class GoneError(CheckpointError):
    """The checkpoint was removed or replaced by its run while it was being read."""


def _contents(
    snapshot: Snapshot, best: Best | None, config: Mapping[str, Any], resumable: bool
) -> dict[str, bytes]:
    state = {
        "iteration": snapshot.iteration,
        "state": snapshot.state,
        "best": None if best is None else best._asdict(),
    }
    contents = {"params.npz": arrays.encode(snapshot.params)}
    if resumable:
        contents["optimizer.npz"] = arrays.encode(snapshot.optimizer)
    arrays.check_finite(snapshot.params, "params")
    arrays.check_finite(snapshot.optimizer, "optimizer")
    contents["state.json"] = documents.dumps(state, "state")
    manifest = {
        "schema": SCHEMA,
        "iteration": snapshot.iteration,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        },
        "versions": versions(),
        "config": config,
    }
    manifest["sha256"] = hashlib.sha256(documents.dumps(manifest, "config")).hexdigest()
    contents[MANIFEST] = documents.dumps(manifest, "config")
    return contents


def directory_name(iteration: int) -> str:
    """Name of an iteration's checkpoint: eight digits."""
    return f"{iteration:08d}"


def write_checkpoint(
    parent: Path,
    snapshot: Snapshot,
    *,
    config: Mapping[str, Any],
    best: Best | None = None,
    resumable: bool = True,
) -> Path:
    """Write ``parent/<iteration>`` durably; on return it survives a power cut.

    Args:
        parent: the run's ``checkpoints`` directory; only one process may write in it.
        snapshot: what to save.
        config: the run's config, by which a checkpoint of another run is told apart.
        best: the best checkpoint so far, perhaps this one.
        resumable: False leaves the optimizer's state out.

    Raises:
        NonFiniteError: a number in the snapshot is not finite; nothing is written.
        SaveError: nothing under the final name has changed, and the attempt is removed.
        TypeError, ValueError: the snapshot holds what a checkpoint cannot.
    """
    contents = _contents(snapshot, best, config, resumable)
    final = parent / directory_name(snapshot.iteration)
    temporary = parent / f"{files.TEMPORARY}{final.name}"
    fault_point("save:begin")
    try:
        with files.saving(final, sum(map(len, contents.values()))):
            if temporary.exists():
                shutil.rmtree(temporary)
            temporary.mkdir()
            fault_point("save:directory")
            for name, data in contents.items():
                files.write_new(temporary / name, data)
                fault_point(f"save:{name.partition('.')[0]}")
            files.sync_directory(temporary)
            os.rename(temporary, final)
            fault_point("save:renamed")
            files.sync_directory(parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _manifest(descriptor: int) -> dict[str, Any]:
    data = files.read(MANIFEST, limit=_MANIFEST_BYTES, directory=descriptor)
    manifest = documents.loads(data)
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise ValueError("not a manifest")
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"schema {manifest['schema']} is unknown to this version, of {SCHEMA}")
    seal = manifest.pop("sha256", None)
    if seal != hashlib.sha256(documents.dumps(manifest)).hexdigest():
        raise ValueError("its own SHA-256 differs")
    if data != documents.dumps({**manifest, "sha256": seal}):
        raise ValueError("its own bytes differ")
    return manifest


def _parse(manifest: dict[str, Any], data: Mapping[str, bytes]) -> Checkpoint:
    params = arrays.decode(data["params.npz"])
    optimizer = arrays.decode(data["optimizer.npz"]) if "optimizer.npz" in data else {}
    arrays.check_finite(params, "params")
    arrays.check_finite(optimizer, "optimizer")
    text = documents.loads(data["state.json"])
    if text["iteration"] != manifest["iteration"]:
        raise ValueError(f"state.json is of iteration {text['iteration']}")
    best = None if text["best"] is None else best_of(text["best"])
    snapshot = Snapshot(manifest["iteration"], params, optimizer, text["state"])
    resumable = "optimizer.npz" in data
    return Checkpoint(snapshot, best, manifest["config"], manifest["versions"], resumable)


def _read(descriptor: int) -> Checkpoint:
    place = MANIFEST
    try:
        manifest = _manifest(descriptor)
        data = {}
        for place, entry in manifest["files"].items():
            if place not in _NAMES:
                raise ValueError("not a file of a checkpoint")
            data[place] = files.read(place, directory=descriptor)
            if len(data[place]) != entry["bytes"]:
                raise ValueError(f"{len(data[place])} bytes instead of {entry['bytes']}")
            if hashlib.sha256(data[place]).hexdigest() != entry["sha256"]:
                raise ValueError("SHA-256 differs from the manifest's")
        place = "contents"
        return _parse(manifest, data)
    except FileNotFoundError:
        raise CheckpointError(f"{place} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error.strerror}") from error
    except Exception as error:  # a forged manifest can hold any JSON
        raise CheckpointError(f"{place}: {error}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint directory: every byte, or an error.

    Safe beside a writer: what is read belongs to one directory, even if that is renamed meanwhile.

    Raises:
        CheckpointError: the reason, naming the file.
        GoneError: the same, but the directory has gone or been replaced meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        kind = CheckpointError if path.is_symlink() else GoneError
        raise kind(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        return _read(descriptor)
    except CheckpointError as error:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                raise CheckpointError(f"{path}: {error}") from error
        raise GoneError(f"{path} was removed by its run") from error
    finally:
        os.close(descriptor)

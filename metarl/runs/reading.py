"""Reading a run, finished or being written, without its lock."""

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from metarl.errors import CheckpointError, InputError, RunWarning

from . import documents
from .checkpoint import (
    Best,
    GoneError,
    Snapshot,
    best_of,
    directory_name,
    read_checkpoint,
)
from .layout import BEST, CHECKPOINTS, CONFIG, EVALUATION, checkpoints
from .metrics import METRICS, read_metrics
from .survey import belonging, check_owner, explain

SHOWN = 3  # of runs that a message names
_TRIES = 100  # a writer replaces its checkpoints every few milliseconds at the very most


class RunRecord(NamedTuple):
    """What evaluation and report need of a run."""

    path: Path
    config: dict[str, Any]
    snapshot: Snapshot
    best: Best | None
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any] | None  # of evaluation.json, where there is one


def _nearby(path: Path) -> str:
    """Where runs are instead: right below, as in the folder of an experiment, or above."""
    try:
        below = sorted(found.parent for found in path.glob(f"*/{CONFIG}"))
    except (OSError, ValueError):
        below = []
    if below:
        more = " and others" if len(below) > SHOWN else ""
        return f"; there are {', '.join(map(str, below[:SHOWN]))}{more}"
    above = next((p for p in path.parents[:2] if (p / CONFIG).exists()), None)
    return "" if above is None else f"; {above} has one"


def read_config(path: str | Path) -> dict[str, Any]:
    """Config of a run.

    Raises:
        InputError: there is no run in `path`.
        CheckpointError: config.json is damaged.
    """
    path = Path(path)
    try:
        config = documents.read_json(path / CONFIG)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} holds no run: it has no {CONFIG}{_nearby(path)}") from None
    except OSError as error:
        raise InputError(f"{path / CONFIG} cannot be read: {error.strerror}") from error
    except ValueError as error:
        if "\0" in str(path):
            raise InputError(f"{str(path)!r} is not a path") from None
        raise CheckpointError(f"{path / CONFIG} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / CONFIG} is damaged: not a JSON object")
    return config


def read_object(path: Path) -> dict[str, Any] | None:
    """JSON object of a run's file; None where there is no such file.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    try:
        value = documents.read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; repair or remove it") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: not a JSON object; repair or remove it")
    return value


def read_best(path: str | Path) -> Best | None:
    """What best.json names; None before the first validation.

    Raises:
        InputError: it is damaged.
    """
    value = read_object(Path(path) / BEST)
    try:
        return None if value is None else best_of(value)
    except ValueError as error:
        raise InputError(f"{Path(path) / BEST} is damaged: {error}") from None


def read_snapshot(path: str | Path, *, last: bool = False) -> Snapshot:
    """The best checkpoint of a run, or its last.

    Without a best one, or when it does not verify, the newest that verifies is taken, with one
    warning for each that was skipped. Safe while the run is being written.

    Args:
        path: the run.
        last: the newest rather than the best.

    Raises:
        InputError: no run, or one without a checkpoint yet.
        CheckpointError: checkpoints exist, and none verifies.
    """
    path = Path(path)
    config = read_config(path)
    for _ in range(_TRIES):
        order = checkpoints(path)
        if not order:
            raise InputError(f"{path} has no checkpoint yet")
        best = None if last else read_best(path)
        if best is not None:
            first = (best.iteration, path / CHECKPOINTS / directory_name(best.iteration))
            order = [first, *(entry for entry in order if entry != first)]
        bad: dict[int, CheckpointError] = {}
        moved_on = False
        for iteration, directory in order:
            try:
                snapshot = belonging(directory, iteration, config).snapshot
            except GoneError as gone:
                bad[iteration] = gone
                missing = best is not None and best.iteration == iteration
                moved_on = not missing or read_best(path) != best
                if moved_on:
                    break
            except CheckpointError as damage:
                bad[iteration] = damage
            else:
                for reason in bad.values():
                    warnings.warn(f"skipped {reason}", RunWarning, stacklevel=2)
                return snapshot
        if not moved_on:
            break
    raise CheckpointError(f"no checkpoint of {path} verifies: {explain(bad)}")


def load_checkpoint(path: str | Path) -> Snapshot:
    """Snapshot of the checkpoint directory the user named: this one or an error, no other.

    Raises:
        InputError: there is nothing of this name, or it is a run, not one of its checkpoints.
        CheckpointError: it does not verify, or is not the one its name and its run say.
    """
    path = Path(path)
    try:
        if not os.path.lexists(path):
            raise InputError(f"there is no checkpoint {path}")
        if (path / CHECKPOINTS).is_dir():
            raise InputError(f"{path} is a run; name one of {path / CHECKPOINTS}/*")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} cannot be a checkpoint: {error}") from None
    checkpoint = read_checkpoint(path)
    iteration = int(path.name) if path.name.isdecimal() else checkpoint.snapshot.iteration
    run = path.parent.parent
    inside = path.parent.name == CHECKPOINTS and (run / CONFIG).exists()
    check_owner(path, checkpoint, iteration, read_config(run) if inside else checkpoint.config)
    return checkpoint.snapshot


def read_run(path: str | Path, *, last: bool = False) -> RunRecord:
    """Everything of a run that evaluation and report need; see `read_snapshot`.

    Raises:
        InputError: no run, no checkpoint yet, or damaged JSON, naming the file.
        CheckpointError: checkpoints exist, and none verifies.
    """
    path = Path(path)
    return RunRecord(
        path,
        read_config(path),
        read_snapshot(path, last=last),
        read_best(path),
        read_metrics(path / METRICS),
        read_object(path / EVALUATION),
    )

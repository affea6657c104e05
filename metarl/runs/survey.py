"""Which checkpoints of a run are whole and its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.errors import CheckpointError

from .checkpoint import Checkpoint, read_checkpoint
from .layout import checkpoints


def belonging(path: Path, iteration: int, config: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in a directory, if it verifies and is of this iteration and run."""
    checkpoint = read_checkpoint(path)
    check_owner(path, checkpoint, iteration, config)
    return checkpoint


def check_owner(
    path: Path, checkpoint: Checkpoint, iteration: int, config: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint of another iteration or of a run with another config."""
    if checkpoint.snapshot.iteration != iteration:
        raise CheckpointError(f"{path}: manifest.json is of another iteration")
    if checkpoint.config != config:
        raise CheckpointError(f"{path}: manifest.json is of a run with another config")


def survey(
    path: Path, config: Mapping[str, Any]
) -> tuple[dict[int, Checkpoint], dict[int, CheckpointError]]:
    """Every checkpoint of a run whose lock the caller holds: the good ones, and the reasons."""
    good: dict[int, Checkpoint] = {}
    bad: dict[int, CheckpointError] = {}
    for iteration, directory in checkpoints(path):
        try:
            good[iteration] = belonging(directory, iteration, config)
        except CheckpointError as error:
            bad[iteration] = error
    return good, bad


def explain(bad: Mapping[int, CheckpointError]) -> str:
    """The reasons in one line."""
    return "; ".join(str(error) for error in bad.values())

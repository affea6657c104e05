"""A finished run made small enough to ship."""

import contextlib
import shutil
from pathlib import Path

from metarl.errors import InputError

from . import documents, files
from .checkpoint import write_checkpoint
from .layout import BEST, CHECKPOINTS, CONFIG, EVALUATION
from .metrics import METRICS, thin_metrics
from .reading import read_run


def prune_run(
    source: str | Path, target: str | Path, *, lines: int = 200, last: bool = False
) -> None:
    """Copy what evaluation and report need of a run: it reads like the run, and cannot be resumed.

    The config, about `lines` lines of metrics with six digits, the best checkpoint without the
    optimizer's state and training's other state, best.json and evaluation.json.

    Args:
        source: a run; it is only read.
        target: a directory that does not exist yet; it appears whole.
        lines: how many lines of metrics to keep.
        last: ship the last checkpoint rather than the best.

    Raises:
        InputError: `source` is not a run with a checkpoint, or `target` exists.
        CheckpointError: no checkpoint verifies.
        SaveError: `target` cannot be written.
    """
    target = Path(target)
    if target.exists():
        raise InputError(f"{target} exists; remove it first")
    run = read_run(source, last=last)
    best = None if run.best is None or run.best.iteration != run.snapshot.iteration else run.best
    temporary = target.with_name(f"{files.TEMPORARY}{target.name}")
    with files.saving(target), contextlib.ExitStack() as undo:
        shutil.rmtree(temporary, ignore_errors=True)
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        (temporary / CHECKPOINTS).mkdir(parents=True)
        write_checkpoint(
            temporary / CHECKPOINTS,
            run.snapshot._replace(optimizer={}, state={}),
            config=run.config,
            best=best,
            resumable=False,
        )
        files.write_new(temporary / CONFIG, documents.dumps(run.config))
        files.write_new(temporary / METRICS, thin_metrics(run.metrics, lines))
        if best is not None:
            files.write_new(temporary / BEST, documents.dumps(best._asdict()))
        if run.evaluation is not None:
            files.write_new(temporary / EVALUATION, documents.dumps(run.evaluation))
        temporary.rename(target)
        undo.pop_all()
        files.sync_directory(target.parent)

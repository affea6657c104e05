"""Opening a run directory: new or again, by one process at a time."""

import contextlib
import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.errors import InputError, SaveError

from . import documents, files, lock
from .directory import Run
from .faults import fault_point
from .layout import CHECKPOINTS, CONFIG, holds_run
from .reading import read_config


def _input_error(path: Path, error: OSError | ValueError) -> InputError | SaveError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return files.save_error(path, 0, error)
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"{str(path)!r} cannot be a run directory: {reason}")


def open_run(
    path: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    tensorboard: bool = True,
) -> Run:
    """Create a run directory, or open one again, and lock it.

    Args:
        path: the directory; created with its parents for a new run.
        config: everything that decides the run, as JSON; None when resuming, which goes on with
            the directory's own.
        resume: continue the run in `path`: call `Run.load` next. A directory with a config and
            no checkpoint starts at iteration 0.
        tensorboard: whether to write the view beside metrics.jsonl.

    Raises:
        InputError: the directory is in use, holds a run (without `resume`), holds none (with it),
            or cannot be created; no byte has changed.
        CheckpointError: the directory's config.json is damaged.
        SaveError: the disk is full or failing.
    """
    path = Path(path)
    if resume == (config is not None):
        raise ValueError("a config is for a new run; a resumed one goes on with its own")
    data = b"" if config is None else documents.dumps(config, "config")
    try:
        if resume:
            read_config(path)
        else:
            _refuse_run(path)
            path.mkdir(parents=True, exist_ok=True)
        descriptor = lock.acquire(path)
    except (InputError, SaveError):
        raise
    except (OSError, ValueError) as error:
        raise _input_error(path, error) from error
    with contextlib.ExitStack() as undo:
        undo.callback(lock.release, descriptor)
        if not resume:
            _refuse_run(path)  # whoever held the lock a moment ago may have made one
        fault_point("open:locked")
        with files.saving(path, len(data)):
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            if not resume:
                for made in (path, *path.parents[:2]):  # runs/<experiment>/seed-<S>
                    with contextlib.suppress(PermissionError):  # it was there before
                        files.sync_directory(made)
            files.remove_temporaries(path, shared=True)
            files.remove_temporaries(path / CHECKPOINTS, shared=False)
            if not resume:
                files.replace(path / CONFIG, data)
        run = Run(path, descriptor, read_config(path), fresh=not resume, tensorboard=tensorboard)
        undo.pop_all()
    return run


def _refuse_run(path: Path) -> None:
    if holds_run(path):
        raise InputError(f"{path} holds a run: resume it (--resume), or choose another directory")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose a directory")

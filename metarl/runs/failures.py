"""The batch behind a number that was not finite, kept for a post-mortem."""

import warnings
from pathlib import Path

from metarl.errors import NonFiniteError, RunWarning

from . import arrays, files


def keep_failure(run: Path, name: str, error: NonFiniteError) -> Path | None:
    """Like `Run.keep_failure`, as ``failures/<name>.npz``, without the run being open."""
    if not error.batch:
        return None
    path = run / "failures" / f"{name}.npz"
    try:
        path.parent.mkdir(exist_ok=True)
        files.replace(path, arrays.encode({k: arrays.plain(v) for k, v in error.batch.items()}))
    except (OSError, TypeError) as problem:
        warnings.warn(f"no batch kept: {problem}", RunWarning, stacklevel=3)
        return None
    return path

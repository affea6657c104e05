"""Where commands may write: not over shipped results, nor over what a run goes on from."""

import os
from pathlib import Path

from metarl.errors import InputError, SaveError
from metarl.runs.files import real
from metarl.runs.layout import BEST, CHECKPOINTS, CONFIG, holds_run
from metarl.runs.lock import OWNER
from metarl.runs.metrics import METRICS

from .evaluation.shipped import is_shipped


def output(value: str | Path) -> Path:
    """The path that ``--out`` names.

    Raises:
        InputError: what lies there is not to be written over.
    """
    out = Path(value)
    if is_shipped(out):
        raise InputError(f"--out {out}: shipped results stay as they are; choose another")
    absolute = real(out)
    try:
        # A link that is left leads round in a circle.
        circle = any(path.is_symlink() for path in (absolute, *absolute.parents))
        if circle or (absolute.exists() and not (absolute.is_file() or absolute.is_dir())):
            raise InputError(f"--out {out}: is no file that can be replaced; choose another")
        own = absolute.name in (CONFIG, METRICS, BEST, OWNER) and holds_run(absolute.parent)
        own = own or in_checkpoints(absolute)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"--out {out}: {why}; choose another") from None
    if own:
        raise InputError(f"--out {out}: is a file of the run itself; choose another")
    return absolute if out.is_symlink() else out


def in_checkpoints(path: Path) -> bool:
    """Whether a path without links is the folder of a run's checkpoints, or lies in it."""
    return any(p.name == CHECKPOINTS and holds_run(p.parent) for p in (path, *path.parents))


def check_writable(out: Path) -> None:
    """Refuse a file in a directory that nobody may write to, before the work that it is for.

    Raises:
        SaveError: naming the way out.
    """
    if not os.access(out.parent, os.W_OK):
        raise SaveError(f"{out.parent} cannot be written to; name another place with --out")

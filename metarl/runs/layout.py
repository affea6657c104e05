"""What lies where in a run directory."""

from pathlib import Path

from metarl.errors import InputError

from .metrics import METRICS

CONFIG = "config.json"
BEST = "best.json"
CHECKPOINTS = "checkpoints"
EVALUATION = "evaluation.json"


def holds_run(path: Path) -> bool:
    """Whether a directory holds a run, or what is left of one."""
    return any((path / name).exists() for name in (CONFIG, METRICS)) or bool(checkpoints(path))


def checkpoints(path: Path) -> list[tuple[int, Path]]:
    """Iteration and directory of each of a run's checkpoints, newest first, verified or not.

    Raises:
        InputError: their folder may not be read.
    """
    try:
        entries = list((path / CHECKPOINTS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{path / CHECKPOINTS} cannot be read: {error.strerror}") from error
    found = [(int(e.name), e) for e in entries if e.name.isascii() and e.name.isdigit()]
    return sorted(found, reverse=True)

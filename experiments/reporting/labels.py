"""What runs are called beside each other."""

from collections.abc import Sequence
from pathlib import Path

from metarl.errors import InputError
from metarl.runs.files import real


def labels(paths: Sequence[Path]) -> list[str]:
    """Short names of runs: their last folders, as many as tell them apart.

    Raises:
        InputError: a run is named twice.
    """
    for depth in range(1, 20):
        names = ["/".join(real(path).parts[-depth:]) for path in paths]
        # A name that begins so is none to a legend.
        hidden = any(name.startswith("_") for name in names)
        if len(set(names)) == len(paths) and not hidden:
            return names
    raise InputError("RUN: a run is named twice")

"""Versions that decide the bits of a run."""

import contextlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any


@cache
def versions() -> dict[str, str]:
    """Python's, the machine type and the packages', which are looked up and not imported."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("metarl-policies", "torch", "numpy", "mujoco", "gymnasium"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def changes(saved: Any) -> str:
    """What differs now from the versions `saved` with a checkpoint; empty when nothing does."""
    if not isinstance(saved, Mapping):  # of another program
        saved = {}
    return ", ".join(
        f"{name} {saved.get(name)} -> {versions().get(name)}"
        for name in sorted({*saved, *versions()})
        if saved.get(name) != versions().get(name)
    )

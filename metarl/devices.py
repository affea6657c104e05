"""What this machine has: cores, and the device that a name means."""

import os

import torch

from .errors import InputError, first_line


def available_cores() -> int:
    """Cores for this process; the ranks of a machine share those it may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def find_device(name: str) -> str:
    """``auto`` made definite, and any other name tried out.

    Args:
        name: ``auto`` (CUDA where it is present, else the CPU), ``cpu``, ``cuda``, ``cuda:N``,
            ``mps``, or whatever else torch computes on.

    Raises:
        InputError: nothing can be computed there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] == "mps" and not torch.backends.mps.is_available():
        # Whose error is a list of all that torch could run.
        raise InputError(f"device {name!r} cannot be used here: this torch or machine has no MPS")
    try:
        # The number is asked for: some devices, such as "meta", only pretend.
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"device {name!r} cannot be used here: {first_line(error)}") from None
    return name

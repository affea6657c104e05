"""The device that a name means on this machine."""

import torch

from .errors import InputError


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
    try:
        # The number is asked for: some devices, such as "meta", only pretend.
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used here: {reason}") from None
    return name

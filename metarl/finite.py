"""Looking for numbers that are not finite."""

import torch
from torch import Tensor

from .errors import NonFiniteError


def first_not_finite(x: Tensor) -> int | None:
    """The first task, along the leading dimension, with a NaN or an infinity; None if none has."""
    finite = x.reshape(len(x), -1).isfinite().all(1)
    return None if bool(finite.all()) else int((~finite).nonzero()[0])


def require_finite(tensors: dict[str, Tensor]) -> None:
    """Refuse what a meta-update must not build on.

    Raises:
        NonFiniteError: names the first that is not finite.
    """
    for place, x in tensors.items():
        if not bool(torch.isfinite(x).all()):
            raise NonFiniteError(f"{place} is not finite before the meta-update", place=place)

"""Looking for numbers that are not finite."""

from torch import Tensor


def first_not_finite(x: Tensor) -> int | None:
    """The first task, along the leading dimension, with a NaN or an infinity; None if none has."""
    finite = x.reshape(len(x), -1).isfinite().all(1)
    return None if bool(finite.all()) else int((~finite).nonzero()[0])

"""What is made of a loss once, and kept for the next call with it."""

import functools
from collections.abc import Callable
from typing import TypeVar

from .errors import InputError

R = TypeVar("R")


def kept(make: Callable[..., R]) -> Callable[..., R]:
    """``make`` of positional arguments, called once for each set of them that are equal.

    Programs are compiled for what it returns: the same loss has to give the same object.

    Raises:
        InputError: an argument cannot be told from others, such as an instance of a dataclass that
            is not frozen.
    """
    known = functools.lru_cache(maxsize=64)(make)

    @functools.wraps(make)
    def once(*arguments: object) -> R:
        try:
            hash(arguments)
        except TypeError as error:
            raise InputError(
                f"a loss or another function is of an {error}: give a plain function, or freeze "
                "the dataclass"
            ) from None
        return known(*arguments)

    return once

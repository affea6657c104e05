"""What is made of a loss, and kept for the next call with it where it is compiled."""

import functools
from collections.abc import Callable
from typing import TypeVar

from .errors import InputError

R = TypeVar("R")

# Losses whose programs are kept, with all that they close over.
PROGRAMS = 64


def kept(make: Callable[..., R]) -> Callable[..., R]:
    """``(compiled, *arguments)``: what ``make`` returns of them, such as a chunk function.

    Programs are compiled for what it returns, so that there the same arguments have to give the
    same object. What is not compiled is made anew, and holds nothing that its caller lets go of.

    Raises:
        InputError: an argument of a program cannot be told from others, such as an instance of a
            dataclass that is not frozen.
    """
    known = functools.lru_cache(maxsize=PROGRAMS)(make)

    @functools.wraps(make)
    def once(compiled: bool, *arguments: object) -> R:
        if not compiled:
            return make(*arguments)
        try:
            hash(arguments)
        except TypeError as error:
            raise InputError(
                f"a loss or another function is of an {error}: give a plain function, freeze the "
                "dataclass, or do not compile"
            ) from None
        return known(*arguments)

    return once

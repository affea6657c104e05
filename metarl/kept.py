"""What is made of a loss, and kept for the next call with it where it is compiled."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

# Losses whose programs are kept, with all that they close over.
PROGRAMS = 64


def kept_if(compiled: bool, make: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """``make(*arguments)``, a function made of a loss; if compiled, the same one each time.

    A program is compiled for the function object that it is of, so that the same arguments have to
    give the same object. What is not compiled is made anew, and holds nothing that its caller lets
    go of.

    Args:
        compiled: whether it is to be kept.
        make: a function of a module, which has a cache of its own.
        arguments: of ``make``.
        named: likewise.

    Raises:
        InputError: an argument of a program cannot be told from others, such as an instance of a
            dataclass that is not frozen.
    """
    if not compiled:
        return make(*arguments, **named)
    try:
        hash((arguments, *named.items()))
    except TypeError as error:
        raise InputError(
            f"a loss or another function is of an {error}: give a plain function, freeze the "
            "dataclass, or do not compile"
        ) from None
    made: R = _cache(make)(*arguments, **named)
    return made


@functools.cache
def _cache(make: Callable[..., Any]) -> Callable[..., Any]:
    return functools.lru_cache(maxsize=PROGRAMS)(make)

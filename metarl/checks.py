"""Arguments that mean nothing, refused in one line."""

from collections.abc import Collection
from numbers import Integral
from typing import Any

from .errors import InputError


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse what is none of the choices.

    Raises:
        InputError: naming the argument and the choices.
    """
    if value not in choices:
        raise InputError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above 0.

    Raises:
        InputError: naming it.
    """
    if not value > 0:
        raise InputError(f"{name} is {value}: it must be above 0")


def check_counts(**counts: Any) -> None:
    """Refuse what is no whole number, or below 1.

    Raises:
        InputError: naming the first.
    """
    for name, value in counts.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or value < 1:
            raise InputError(f"{name} is {value!r}: it must be a whole number, at least 1")

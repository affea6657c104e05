"""Ranges of option values, written beside the field as ``Annotated[int, Range(1, 10)]``."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

# Fields whose own fields stand on the command line without a prefix.
UNPREFIXED = ("config", "protocol")


@dataclass(frozen=True)
class Range:
    """Closed interval; ``above`` excludes its lower end. Of a tuple it bounds each element."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        return f"{'above' if self.above else 'at least'} {self.low:g} and at most {self.high:g}"


def option_name(*path: str) -> str:
    """Command-line name of a field: ``("env", "id") -> "--env.id"``."""
    return "--" + ".".join(part.rstrip("_").replace("_", "-") for part in path)


def check_types(config: Any, *path: str) -> None:
    """Check that every value of a dataclass, nested ones too, is of the type of its field.

    Raises:
        ValueError: one is not; the message names the option.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        here = path if field.name in UNPREFIXED else (*path, field.name)
        if is_dataclass(hint):
            if not isinstance(value, hint):  # type: ignore[arg-type]
                raise ValueError(f"{option_name(*here)}: must be an object, got {value!r}")
            check_types(value, *here)
        elif not isinstance(hint, TypeVar) and not _is(value, hint):
            raise ValueError(f"{option_name(*here)}: cannot be {value!r}")


def _is(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind in (Union, UnionType):
        return any(_is(value, one) for one in inner)
    if kind is tuple:
        types = inner[:1] * len(value) if isinstance(value, tuple) and ... in inner else inner
        return isinstance(value, tuple) and len(value) == len(types) and all(map(_is, value, types))
    if hint is float:
        return type(value) in (float, int)
    return value is None if hint is type(None) else type(value) is hint


def check_ranges(config: Any, *path: str) -> None:
    """Check every number and text of a dataclass, nested ones too.

    Raises:
        ValueError: a number that is not finite or outside its range, or a text that is another
            option, swallowed as a value; the message names the option.
    """
    hints = get_type_hints(type(config), include_extras=True)
    if hasattr(config, "check_sizes"):
        config.check_sizes()
    for field in fields(config):
        value = getattr(config, field.name)
        here = path if field.name in UNPREFIXED else (*path, field.name)
        if is_dataclass(value):
            check_ranges(value, *here)
            continue
        limits = list(_limits(hints[field.name]))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str) and number.startswith("--"):
                raise ValueError(f"{option_name(*here)}: needs a value, {number} is an option")
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{option_name(*here)}: must be finite, got {number}")
            for limit in limits:
                if number is not None and number not in limit:
                    raise ValueError(f"{option_name(*here)}: must be {limit}, got {number}")


def _limits(hint: Any) -> Iterator[Range]:
    """Ranges of a type, those of an optional's or a tuple's parts among them."""
    yield from (m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range))
    if get_origin(hint) in (tuple, Union, UnionType):
        for part in get_args(hint):
            yield from _limits(part)


def check_product(limit: float, what: str, **sizes: int) -> None:
    """Check that sizes, each within its range, do not ask for too much together.

    Raises:
        ValueError: their product is above the limit; the message names the options.
    """
    if math.prod(sizes.values()) > limit:
        asked = " x ".join(
            f"{option_name(*name.split('__'))} {size}" for name, size in sizes.items()
        )
        raise ValueError(f"{asked}: together more than {limit:g} {what} at once; lower one")

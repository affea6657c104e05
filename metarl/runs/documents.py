"""JSON of bounded depth and finite numbers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from metarl.errors import NonFiniteError

from . import files

MAX_DEPTH = 64
MAX_BYTES = 256 << 20


def _check(value: Any, place: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{place} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}; JSON keys are strings")
            _check(item, f"{place}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NonFiniteError(f"{place} is {value}; it was not saved", place=place)
    elif not (value is None or isinstance(value, bool | int | str)):
        raise TypeError(f"{place} is a {type(value).__name__}, which JSON cannot hold")


def dumps(value: Any, name: str = "value", *, indent: int | None = 1) -> bytes:
    """Canonical JSON: sorted keys, UTF-8, a final newline; equal values give equal bytes.

    Args:
        value: dicts with string keys, lists, tuples, strings, numbers, booleans and None.
        name: what to call it in an error.
        indent: as in `json.dumps`.

    Raises:
        NonFiniteError: a number is NaN or infinite; ``place`` is the path to it.
        TypeError: something is none of the above.
        ValueError: nested more than `MAX_DEPTH` deep.
    """
    _check(value, name, 0)
    return (json.dumps(value, indent=indent, sort_keys=True, allow_nan=False) + "\n").encode()


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a finite number")


def _finite(token: str) -> float:
    number = float(token)
    return number if math.isfinite(number) else _refuse(token)


def loads(data: bytes) -> Any:
    """Value of a JSON text.

    Raises:
        ValueError: not UTF-8, not JSON, nested more than `MAX_DEPTH` deep, or a number in it is
            not finite.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_refuse, parse_float=_finite)
        _check(value, "value", 0)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    return value


def read_json(path: Path) -> Any:
    """Value of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: as `loads`.
    """
    return loads(files.read(path, limit=MAX_BYTES))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically.

    Raises:
        NonFiniteError, TypeError, ValueError: as `dumps`; nothing is written.
        SaveError: the old contents are intact.
    """
    files.replace(path, dumps(value, path.name))

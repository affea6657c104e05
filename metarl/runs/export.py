"""Parameters as a file for other programs: numpy's ``.npz`` or ``.safetensors``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.errors import InputError

from . import arrays, files

SUFFIXES = (".npz", ".safetensors")


def export_params(path: str | Path, params: Mapping[str, Any]) -> None:
    """Write parameters by name, whole or not at all; plain numbers that load without unpickling.

    Args:
        path: file whose suffix says the format; ``.safetensors`` needs the extra
            ``metarl-policies[safetensors]``.
        params: name -> tensor or array, such as a module's ``state_dict()``.

    Raises:
        InputError: another suffix, no such directory, safetensors is not installed, or numbers
            of a type that the file cannot hold, such as bfloat16.
        SaveError: the disk is full or read-only.
    """
    path = Path(path)
    check_export(path)
    plain = {name: _plain(name, value, path) for name, value in params.items()}
    if path.suffix == ".npz":
        data = arrays.encode(plain)
    else:
        from safetensors.numpy import save

        data = save({name: array.copy(order="C") for name, array in plain.items()})
    files.replace(path, data)


def _plain(name: str, value: Any, path: Path) -> arrays.Array:
    try:
        array = arrays.plain(value)
        fits = path.suffix != ".npz" or arrays.fits(array)
    except TypeError:  # a type that numpy lacks
        fits = False
    if not fits:
        kind = getattr(value, "dtype", type(value).__name__)
        raise InputError(
            f"{path}: {name} is {kind}, which the file cannot hold; export it as float32"
        )
    return array


def check_export(path: Path) -> None:
    """Refuse a file that cannot be written; see `export_params`."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the name ends in {' or '.join(SUFFIXES)}")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: needs a file name in a directory that exists")
    if path.suffix == ".safetensors":
        try:
            import safetensors  # noqa: F401
        except ModuleNotFoundError:
            raise InputError(
                f"{path} needs a package: pip install 'metarl-policies[safetensors]', or choose "
                "a .npz"
            ) from None

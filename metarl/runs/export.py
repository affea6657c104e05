"""Parameters as a file for other programs: numpy's ``.npz`` or ``.safetensors``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.errors import InputError
from metarl.runs import arrays, files

SUFFIXES = (".npz", ".safetensors")


def export_params(path: str | Path, params: Mapping[str, Any]) -> None:
    """Write parameters by name, whole or not at all; plain numbers that load without unpickling.

    Args:
        path: file whose suffix says the format; ``.safetensors`` needs the extra
            ``metarl-policies[safetensors]``.
        params: name -> tensor or array, such as a module's ``state_dict()``.

    Raises:
        InputError: another suffix, no such directory, or safetensors is not installed.
        SaveError: the disk is full or read-only.
    """
    path = Path(path)
    check_export(path)
    plain = {name: arrays.plain(value) for name, value in params.items()}
    if path.suffix == ".npz":
        data = arrays.encode(plain)
    else:
        from safetensors.numpy import save

        data = save({name: array.copy(order="C") for name, array in plain.items()})
    files.replace(path, data)


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

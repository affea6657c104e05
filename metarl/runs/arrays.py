"""Named arrays as ``.npz`` bytes: plain numbers only, no unpickler, equal arrays equal bytes."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.errors import NonFiniteError

Array = NDArray[Any]

_DTYPES = frozenset(
    np.dtype(name).str
    for name in [
        "float32",
        "float64",
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    ]
)
_STAMP = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: the bytes depend on the arrays alone


def plain(value: Any) -> Array:
    """Array of a tensor (told by its ``detach``, so that torch is not needed) or of numbers."""
    detach = getattr(value, "detach", None)
    return np.asarray(value if detach is None else detach().cpu().numpy())


def fits(array: Any) -> bool:
    """Whether `encode` takes an array."""
    return isinstance(array, np.ndarray | np.generic) and array.dtype.str in _DTYPES


def check_finite(arrays: Mapping[str, Array], name: str) -> None:
    """Refuse arrays that hold a NaN or an infinity.

    Raises:
        NonFiniteError: its ``place`` names the array.
    """
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise NonFiniteError(
                f"{name} {key!r} holds {count} non-finite of {array.size} numbers",
                place=f"{name} {key}",
            )


def encode(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as an uncompressed ``.npz`` archive, in the order given.

    Raises:
        TypeError: an array is not one of numpy's own of the exact float (32, 64 bit), integer or
            boolean types, in native byte order.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            if not fits(array):
                ours = isinstance(array, np.ndarray)
                kind = f"of {array.dtype}" if ours else f"of type {type(array).__name__}"
                raise TypeError(
                    f"array {key!r} is {kind}: give numpy arrays of float32, float64, integers or "
                    "bool, such as p.detach().cpu().numpy()"
                )
            with archive.open(zipfile.ZipInfo(f"{key}.npy", _STAMP), "w") as member:
                # np.asarray, since np.ascontiguousarray gives a scalar a dimension.
                np.lib.format.write_array(
                    member, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False
                )
    return buffer.getvalue()


def _member(data: bytes, name: str) -> Array:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} has an unknown format version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype.str not in _DTYPES:
        raise ValueError(f"{name} is not a plain array of numbers ({dtype})")
    body = data[stream.tell() :]
    count = 1
    for length in shape:  # Python's integers: a product in 64 bits could wrap
        if length < 0:
            raise ValueError(f"{name} has the shape {shape}")
        count *= length
    if count * dtype.itemsize != len(body):
        raise ValueError(f"{name} holds {len(body)} bytes, its shape {shape} says otherwise")
    return np.frombuffer(body, dtype).reshape(shape).copy()


def decode(data: bytes) -> dict[str, Array]:
    """Arrays of an archive that `encode` wrote, in order; each owns its memory.

    Never allocates more than a small multiple of `data` and never executes anything in it.

    Raises:
        ValueError: `data` is anything else: compressed, encrypted, object arrays, lying sizes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(m.file_size for m in members) > len(data):
                raise ValueError("its members are larger than the archive")
            arrays = {}
            for m in members:
                name = m.filename.removesuffix(".npy")
                if m.compress_type != zipfile.ZIP_STORED or m.filename == name or name in arrays:
                    raise ValueError(f"unexpected member {m.filename!r}")
                arrays[name] = _member(archive.read(m), repr(name))
    except Exception as error:  # hostile bytes make zipfile and numpy raise nearly anything
        raise ValueError(f"not an archive of plain arrays: {error}") from error
    return arrays

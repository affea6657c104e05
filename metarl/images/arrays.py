"""Reading ``.npz`` files that may be damaged or hostile."""

import zipfile
from pathlib import Path

import numpy as np

from metarl.errors import first_line


def read_arrays(path: Path, *names: str, most: int) -> list[np.ndarray]:
    """Arrays of an archive, each checked against its checksum to the last byte.

    Args:
        path: the file.
        names: of the arrays.
        most: bytes that all of the archive may unpack to.

    Raises:
        ValueError: the file cannot be read, is damaged, or is no archive of arrays of these names
            without pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > most:
                raise ValueError(f"it unpacks to more than {most} bytes")
            return [_read(archive, f"{name}.npy") for name in names]
    except Exception as error:  # one bit makes zipfile and numpy's parser raise nearly anything
        raise ValueError(first_line(error)) from error


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        # A damaged header may tell of less than there is, and the checksum stands at the end.
        if member.read(1):
            raise ValueError(f"{name} is longer than its header says")
    return array

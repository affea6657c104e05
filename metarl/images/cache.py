"""Decoded images kept in the user's cache folder: written by a rename, verified when read."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from metarl.errors import InputError

from .arrays import read_arrays
from .classes import ImageClasses

# No data set's images take more.
_MOST = 1 << 36


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/metarl``, else ``~/Library/Caches/metarl`` or ``~/.cache/metarl``."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "metarl"
    home = Path.home()
    return (home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache") / "metarl"


def fingerprint(paths: Iterable[Path], *, version: int) -> str:
    """Identity of source files: of an archive its contents, of a folder its listing.

    Args:
        paths: archives and folders.
        version: of the decoding; another one never matches.

    Raises:
        InputError: a source cannot be read.
    """
    digest = hashlib.sha256(f"version {version}\n".encode())
    try:
        for path in paths:
            digest.update(f"{path.name}\n".encode())
            _add(digest, path)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", path: Path) -> None:
    if not path.is_dir():
        with path.open("rb") as archive:
            while block := archive.read(1 << 20):
                digest.update(block)
        return
    for file in sorted(path.rglob("*")):
        if file.is_file():
            status = file.stat()
            entry = [file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns]
            digest.update(json.dumps(entry).encode())


def cached(
    name: str, key: str, build: Callable[[], ImageClasses], *, folder: Path | None = None
) -> ImageClasses:
    """Read ``<name>-<key>.npz`` of the cache folder, or build and write it.

    A damaged file is built again. Where the folder cannot be written the images are handed out
    all the same, with a warning. Several processes may do this at once.

    Args:
        name: of the data set.
        key: see `fingerprint`.
        build: decodes the images.
        folder: None: `cache_folder`.
    """
    folder = cache_folder() if folder is None else folder
    path = folder / f"{name}-{key[:24]}.npz"
    found = _read(path)
    if found is not None:
        return found
    classes = build()
    try:
        _write(path, classes)
    except OSError as error:
        warnings.warn(
            f"{path} cannot be written ({error.strerror}): the images of {name} will be decoded "
            "again next time",
            stacklevel=2,
        )
    return classes


def _read(path: Path) -> ImageClasses | None:
    try:
        images, names = read_arrays(path, "images", "names", most=_MOST)
    except ValueError:
        return None
    valid = images.dtype == np.uint8 and images.ndim == 5 and names.shape == images.shape[:1]
    return ImageClasses(images, tuple(str(n) for n in names)) if valid else None


def _write(path: Path, classes: ImageClasses) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, images=classes.images, names=np.array(classes.names))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise

"""Files that are whole or absent, and errors that say which one could not be written."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from metarl.errors import SaveError

from .faults import fault_point

TEMPORARY = ".tmp-"
MAX_BYTES = 4 << 30

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of the quota",
    errno.EFBIG: "raise the file size limit",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make it writable",
}


def real(path: Path) -> Path:
    """The path without links, of which some may lead nowhere, or round in a circle."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # no path at all, which whoever opens it says
        return path


def save_error(path: Path, size: int, error: OSError) -> SaveError:
    """`SaveError` with the path, the number of bytes and the errno of `error`."""
    name = errno.errorcode.get(error.errno or 0, "no errno")
    remedy = _REMEDIES.get(error.errno or 0, "check the disk")
    saved = SaveError(
        f"could not write {size} bytes to {path}: {error.strerror or error} ({name}); "
        f"what was saved before is intact; {remedy}"
    )
    saved.errno = error.errno
    return saved


@contextlib.contextmanager
def saving(path: Path, size: int = 0) -> Iterator[None]:
    """Turn an `OSError` in the block into a `SaveError` about `path`; one inside stands."""
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        raise save_error(path, size, error) from error


def sync(descriptor: int) -> None:
    """Force a file to the disk itself (on macOS `fsync` stops at the drive's cache)."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # network file systems do not know it
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make the creations and renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a directory at all
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however short the single writes are."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if written <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        view = view[written:]


def _create(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        half = len(data) // 2
        write_all(descriptor, data[:half])
        fault_point("file:half")
        write_all(descriptor, data[half:])
        sync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes) -> None:
    """Create `path`, which must not exist, with `data`, durably.

    Raises:
        SaveError: the disk is full, read-only, failing, or `path` exists.
    """
    with saving(path, len(data)):
        _create(path, data)


def replace(path: Path, data: bytes) -> None:
    """Give `path` the contents `data` atomically: a reader sees the old ones or the new ones.

    Raises:
        SaveError: `path` has its old contents still.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with saving(path, len(data)):
        temporary.unlink(missing_ok=True)
        try:
            _create(temporary, data)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def read(path: str | Path, *, limit: int = MAX_BYTES, directory: int | None = None) -> bytes:
    """Contents of a regular file; a pipe, a device or a directory is an error, never a hang.

    Args:
        path: the file; relative to `directory` when given.
        limit: the most bytes it may hold.
        directory: descriptor of an open directory: what is read stays in it if it is renamed.

    Raises:
        OSError: it cannot be read, is not a regular file, or holds more than `limit` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
        # It would not close what it refuses, such as a directory.
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data


def remove_tree(path: Path) -> None:
    """Remove a directory, first giving it a temporary name so that it is never seen half empty."""
    doomed = path.with_name(f"{TEMPORARY}removed-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    fault_point("save:removing")
    shutil.rmtree(doomed, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Rename to the first ``damaged-<name>-<n>`` that is free; the new path."""
    count = 1
    while os.path.lexists(aside := path.with_name(f"damaged-{path.name}-{count}")):
        count += 1
    with saving(aside):
        os.rename(path, aside)
    return aside


def _left_by_dead(name: str) -> bool:
    """Whether `replace` named a file so, in a process that has ended."""
    found = re.match(rf"{re.escape(TEMPORARY)}(\d+)-", name)
    if found is None:
        return False
    pid = int(found[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OverflowError, PermissionError):
        return False
    return pid == os.getpid()  # an earlier process of that number


def remove_temporaries(directory: Path, *, shared: bool) -> None:
    """Remove what killed writers left unfinished in `directory`.

    Args:
        directory: where to look.
        shared: whether there may be other files than a run's, and other writers, which are left.
    """
    for entry in list(os.scandir(directory)):
        if entry.name.startswith(TEMPORARY) and (not shared or _left_by_dead(entry.name)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)

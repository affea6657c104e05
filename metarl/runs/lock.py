"""One owner for a directory: `flock` on a file that says who it is.

The kernel drops the lock when its holder dies, so a stale one needs no cleaning up, and the file
stays: removing it would let two processes lock two different files of the same name.
"""

import contextlib
import errno
import fcntl
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from metarl.errors import InputError

from . import documents

OWNER = "owner.json"
_held: set[int] = set()  # descriptors of this process's locks


def _leave_to_parent() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A forked worker would hold the lock of a killed run for as long as it lives itself.
os.register_at_fork(after_in_child=_leave_to_parent)


def _owner(descriptor: int) -> str:
    try:
        owner = documents.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # not yet written
        return "another process"


def started_by_parent(directory: Path) -> bool:
    """Whether the directory's last owner was started by the process that started this one."""
    try:
        owner = documents.read_json(directory / OWNER)
        return bool(owner["parent"] == os.getppid() and owner["host"] == platform.node())
    except (OSError, ValueError, TypeError, KeyError):
        return False


def acquire(directory: Path) -> int:
    """Lock `directory` for this process, not for those it forks, until `release`.

    Raises:
        InputError: another process holds it, or the file system has no locks.
        OSError: the owner file cannot be opened.
    """
    descriptor = os.open(directory / OWNER, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _owner(descriptor)
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InputError(
                f"{directory} is in use by {holder}: wait for it, or choose another directory"
            ) from None
        raise InputError(
            f"{directory} cannot be locked ({error.strerror}): choose a local disk"
        ) from error
    text = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "host": platform.node(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):  # the lock counts; who holds it is a courtesy
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, documents.dumps(text), 0)
    _held.add(descriptor)
    return descriptor


def holds(descriptor: int, directory: Path) -> bool:
    """Whether the file locked is still the directory's: all else goes by its path.

    Raises:
        OSError: nobody knows now.
    """
    try:
        return os.path.samestat(os.stat(directory / OWNER), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def release(descriptor: int) -> None:
    """Unlock what `acquire` returned; nothing in a process forked since."""
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)

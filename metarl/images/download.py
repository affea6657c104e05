"""Downloading the official Omniglot archives: resumable, verified, never over a user's file."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from metarl.errors import InputError

OMNIGLOT_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
OMNIGLOT_MD5 = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
MAX_BYTES = 1 << 28

Progress = Callable[[str, int, int | None], None]
"""``progress(file name, bytes so far, bytes in all or None)``."""

_BLOCK = 1 << 16


def download_omniglot(
    root: Path | str,
    *,
    progress: Progress | None = None,
    url: str = OMNIGLOT_URL,
    md5: Mapping[str, str] = OMNIGLOT_MD5,
    timeout: float = 30.0,
) -> list[Path]:
    """Bring the official archives to ``root/omniglot``; those already there are only verified.

    Args:
        root: data root; created if missing.
        progress: called after each block.
        url: folder on the server.
        md5: checksum of each file.
        timeout: seconds without an answer before giving up.

    Returns:
        The archives.

    Raises:
        InputError: as `download_file`.
    """
    folder = Path(root) / "omniglot"
    return [
        download_file(
            f"{url}/{name}", folder / name, md5=checksum, progress=progress, timeout=timeout
        )
        for name, checksum in md5.items()
    ]


def download_file(
    url: str,
    path: Path,
    *,
    md5: str,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Download to ``<path>.part``, verify, and only then give it its name.

    An interrupted download goes on where it stopped when the server allows it.

    Args:
        url: http or https.
        path: where the file goes. If it exists it is verified and left as it is.
        md5: what the file must have.
        progress: called after each block.
        timeout: seconds without an answer before giving up.

    Raises:
        InputError: no connection, the connection broke (run it again to go on), the checksum
            differs, another download of the same file is running, the folder cannot be written,
            or a file of that name exists and is not the official one.
    """
    if _verified(path, md5):
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            if _verified(path, md5):  # another download ended in between
                return path
            _fetch(url, file, part, progress, timeout)
            file.flush()
            os.fsync(file.fileno())
            found = _md5(part)
            if found != md5:
                page = _starts_like_page(part)
                part.unlink()
                raise InputError(
                    f"{url} sent {'a web page' if page else 'something else'} with md5 {found}, "
                    f"where the official file has {md5}: nothing was kept; try again later"
                )
            _give_name(part, path)
    except OSError as error:
        raise InputError(f"{part} cannot be written: {error.strerror or error}") from None
    return path


def _verified(path: Path, md5: str) -> bool:
    """Whether the file is there.

    Raises:
        InputError: something else is.
    """
    if not path.exists():
        return False
    try:
        found = _md5(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}: move it away") from None
    if found != md5:
        raise InputError(
            f"{path} exists and is not the official file, its md5 {found} and not {md5}: move it "
            "away to download"
        )
    return True


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The partial file, opened for this process alone; if nothing comes into it, it goes again."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{part} is being written by another download: wait for it"
                ) from None
            if not _is_at(file, part):  # whoever held the lock has renamed or removed it
                continue
            try:
                yield file
            finally:
                if os.fstat(descriptor).st_size == 0 and _is_at(file, part):
                    part.unlink()
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _fetch(url: str, file: BinaryIO, part: Path, progress: Progress | None, timeout: float) -> None:
    have = file.seek(0, os.SEEK_END)
    if not url.startswith(("https://", "http://")):
        raise InputError(f"{url} is not an http or https address")
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = 0
            file.seek(have)
            file.truncate()
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length and length.isdecimal() else None
            while block := _read(answer, url):
                have += len(block)
                if have > MAX_BYTES:
                    raise InputError(f"{url} sends more than {MAX_BYTES} bytes: not the archive")
                file.write(block)
                if progress is not None:
                    progress(part.stem, have, total)
    except urllib.error.HTTPError as error:
        # The partial file is complete, or longer than the file: the checksum decides.
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return
        raise InputError(f"{url} answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{url} cannot be reached ({reason}): run it again to go on") from None
    except http.client.HTTPException as error:
        raise InputError(f"{url} broke off ({error}): run it again to go on") from None
    if total is not None and have < total:
        raise InputError(f"{url} broke off at {have} of {total} bytes: run it again to go on")


def _read(answer: Any, url: str) -> bytes:
    try:
        block: bytes = answer.read(_BLOCK)
    except OSError as error:  # not that of a file
        raise InputError(f"{url} broke off ({error}): run it again to go on") from None
    return block


def _give_name(part: Path, path: Path) -> None:
    """Rename, but never over a file that came into being meanwhile."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise InputError(f"{path} appeared during the download and was left as it is") from None
    except OSError:
        # A file system without hard links.
        if path.exists():
            raise InputError(f"{path} appeared during the download: left as it is") from None
        os.rename(part, path)
        return
    part.unlink()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _starts_like_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"<")

"""Reading zip archives that may be damaged or hostile: nothing is ever extracted to disk."""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from metarl.errors import InputError


class Limits(NamedTuple):
    """What an honest archive does not exceed.

    Attributes:
        members: number of files and folders.
        member_bytes: size of one file, unpacked.
        total_bytes: size of all files, unpacked.
    """

    members: int = 50_000
    member_bytes: int = 1 << 16
    total_bytes: int = 1 << 27


OMNIGLOT = Limits()


class Member(NamedTuple):
    """One file: where it stands below the root, and its bytes."""

    name: str
    data: bytes


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


def read_zip(path: Path, limits: Limits = OMNIGLOT) -> Iterator[Member]:
    """Files of a zip archive in the order of their names, each checked against its CRC.

    Every name and declared size is checked before the first file is handed out.

    Raises:
        InputError: the file is missing, not a zip archive, truncated or damaged; or it holds an
            absolute name, a name with ``..``, a link, an encrypted or doubled file, or more than
            ``limits`` allow.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except _DAMAGE as error:
        raise InputError(f"{path} is not a readable zip archive ({_nature(path, error)})") from None
    with archive:
        files = _checked(path, archive.infolist(), limits)
        for info in files:
            try:
                with archive.open(info) as file:
                    # One byte more than declared: a declaration that lies is an error as well.
                    data = file.read(info.file_size + 1)
            except _DAMAGE as error:
                raise InputError(f"{path} is damaged at {info.filename!r}: {error}") from None
            if len(data) != info.file_size:
                raise InputError(f"{path} is damaged at {info.filename!r}: wrong size")
            yield Member(info.filename, data)


def read_folder(root: Path, limits: Limits = OMNIGLOT) -> Iterator[Member]:
    """Files below a folder in the order of their names, named as in a zip archive of ``root``.

    Raises:
        InputError: a file cannot be read or is larger than ``limits`` allow.
    """
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    if len(paths) > limits.members:
        raise InputError(f"{root} holds {len(paths)} files, more than the {limits.members} allowed")
    for path in paths:
        name = f"{root.name}/{path.relative_to(root).as_posix()}"
        try:
            size = path.stat().st_size
            if size > limits.member_bytes:
                raise InputError(f"{path} has {size} bytes, more than an image of this data set")
            yield Member(name, path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _checked(path: Path, infos: list[zipfile.ZipInfo], limits: Limits) -> list[zipfile.ZipInfo]:
    if len(infos) > limits.members:
        raise InputError(f"{path} lists {len(infos)} members, more than {limits.members}: refused")
    seen = set()
    total = 0
    for info in infos:
        reason = _objection(info, limits)
        if reason is None and info.filename in seen:
            reason = "is listed twice"
        if reason is not None:
            raise InputError(f"{path} is refused: its member {info.filename!r} {reason}")
        seen.add(info.filename)
        total += info.file_size
    if total > limits.total_bytes:
        raise InputError(
            f"{path} unpacks to {total} bytes, more than {limits.total_bytes}: refused"
        )
    return sorted((i for i in infos if not i.is_dir()), key=lambda info: info.filename)


def _objection(info: zipfile.ZipInfo, limits: Limits) -> str | None:
    # ZipInfo rewrites names (it cuts them at NUL); the original is what other programs see.
    name = info.orig_filename
    mode = info.external_attr >> 16
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in name.partition("/")[0]:
        return "has an absolute or foreign name"
    if ".." in name.split("/"):
        return "points outside the archive"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.file_size > limits.member_bytes:
        return f"unpacks to {info.file_size} bytes, more than an image of this data set"
    return None


def _nature(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "it is a folder"
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as cause:
        return str(cause.strerror)
    if not start:
        return "it is empty"
    if start.lstrip().startswith(b"<"):
        return "it is a web page, not the archive: download it again"
    if start.startswith(b"PK"):
        return "it is truncated or damaged: download it again"
    return str(error)

"""Downloading from a server on this machine: resumed, verified, never over a user's file."""

import fcntl
import hashlib
import http.client
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metarl.errors import InputError
from metarl.images import download_omniglot
from metarl.images.download import OMNIGLOT_MD5, download_file

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `CONTENT`; what the tests vary and look at."""

    ranges = True
    break_at: int | None = None
    body = CONTENT
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start and start >= len(server.body):
            self.send_error(416)
            return
        body = server.body[start:]
        self.send_response(206 if start else server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.break_at is None else body[: server.break_at])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, path: Path, **options: object) -> Path:
    return download_file(f"{server.url}/file", path, md5=MD5, timeout=5, **options)  # type: ignore[arg-type]


def test_file_arrives_with_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch(server, tmp_path / "new" / "a.zip", progress=lambda *a: seen.append(a))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["a.zip"]
    assert seen[-1] == ("a.zip", len(CONTENT), len(CONTENT))
    assert [n for _, n, _ in seen] == sorted(n for _, n, _ in seen)


def test_official_archives_are_asked_for_by_name(server: Server, tmp_path: Path) -> None:
    assert sorted(OMNIGLOT_MD5) == ["images_background.zip", "images_evaluation.zip"]
    paths = download_omniglot(tmp_path, url=server.url, md5=dict.fromkeys(OMNIGLOT_MD5, MD5))
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "omniglot/images_background.zip",
        "omniglot/images_evaluation.zip",
    ]
    server.asked.clear()
    download_omniglot(tmp_path, url=server.url, md5=dict.fromkeys(OMNIGLOT_MD5, MD5))
    assert server.asked == []


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_download_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    path = tmp_path / "a.zip"
    server.break_at = 100_000
    with pytest.raises(InputError, match=r"broke off.*run it again"):
        fetch(server, path)
    part = tmp_path / "a.zip.part"
    assert not path.exists()
    assert part.read_bytes() == CONTENT[: part.stat().st_size]
    have = part.stat().st_size
    assert have > 0
    server.break_at, server.ranges = None, ranges
    fetch(server, path)
    assert server.asked == [None, f"bytes={have}-"]
    assert path.read_bytes() == CONTENT
    assert not part.exists()


def test_complete_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"something else", CONTENT[:500] + b"!" + CONTENT[501:9000]])
def test_foreign_part_is_found_out(server: Server, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "a.zip.part").write_bytes(stale)
    with pytest.raises(InputError, match="md5"):
        fetch(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
    assert fetch(server, tmp_path / "a.zip").read_bytes() == CONTENT


def test_wrong_content_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.body = b"<html>please log in</html>"
    with pytest.raises(InputError, match="web page"):
        fetch(server, tmp_path / "a.zip")
    server.body = CONTENT[:-1]
    with pytest.raises(InputError, match=MD5):
        fetch(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_users_file_stays(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="move it away"):
        fetch(server, path)
    assert path.read_bytes() == b"mine"
    assert server.asked == []


def test_file_that_appears_meanwhile_stays(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"

    def appear(name: str, done: int, total: int | None) -> None:
        path.write_bytes(b"mine")

    with pytest.raises(InputError, match="appeared"):
        fetch(server, path, progress=appear)
    assert path.read_bytes() == b"mine"


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "a.zip.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(CONTENT[:100])
        other.flush()
        with pytest.raises(InputError, match="another download"):
            fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:100]


def test_two_at_once_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "a.zip.part"
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another download"):
            fetch(server, tmp_path / "a.zip")
        other.write(CONTENT[:100])
    assert part.read_bytes() == CONTENT[:100]
    assert fetch(server, tmp_path / "a.zip").read_bytes() == CONTENT


def test_other_download_ends_just_before_the_lock(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, part = tmp_path / "a.zip", tmp_path / "a.zip.part"

    def lock(file: object, flags: int) -> None:
        if not path.exists():
            part.write_bytes(CONTENT)
            part.rename(path)

    server.ranges = False
    monkeypatch.setattr("metarl.images.download.fcntl.flock", lock)
    assert fetch(server, path).read_bytes() == CONTENT
    assert server.asked == []
    assert list(tmp_path.iterdir()) == [path]


def test_folder_in_the_place_of_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(InputError, match=r"a\.zip cannot be read.*move it away"):
        fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").is_dir()


def test_no_server_and_bad_answers(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(InputError, match="answered 404"):
        fetch(server, tmp_path / "a.zip")
    with pytest.raises(InputError, match="cannot be reached"):
        download_file("http://127.0.0.1:1/file", tmp_path / "a.zip", md5=MD5, timeout=5)
    with pytest.raises(InputError, match="http or https"):
        download_file("file:///etc/passwd", tmp_path / "a.zip", md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_is_not_the_disks_fault(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> bytes:
        raise ssl.SSLError("decryption failed")

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    with pytest.raises(InputError, match=r"broke off .*decryption failed.*run it again"):
        fetch(server, tmp_path / "a.zip")


def test_endless_answer_is_cut(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metarl.images.download.MAX_BYTES", 100_000)
    with pytest.raises(InputError, match="more than 100000 bytes"):
        fetch(server, tmp_path / "a.zip")


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "omniglot").write_text("a file")
    with pytest.raises(InputError, match="omniglot"):
        download_omniglot(tmp_path, url=server.url, md5=dict.fromkeys(OMNIGLOT_MD5, MD5))
    assert (tmp_path / "omniglot").read_text() == "a file"


def test_a_part_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    (tmp_path / "a.zip.part").symlink_to(mine)
    with pytest.raises(InputError, match="cannot be written"):
        download_file("http://127.0.0.1:1/x", tmp_path / "a.zip", md5="0", timeout=1)
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "a.zip.part").is_symlink()

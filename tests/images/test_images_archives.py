"""Damaged and hostile archives (nothing is extracted, the error names the file)."""

import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from images_data import glyphs, png, write_archives
from PIL import Image

from metarl.errors import InputError
from metarl.images import load_omniglot
from metarl.images.archives import Limits, read_folder, read_zip
from metarl.images.pictures import decode_picture

PARTS = {"images_background": 2, "images_evaluation": 2}
INSIDE = "images_background/Alphabet_00/character01"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_archives(tmp_path / "data", PARTS)
    return tmp_path / "data"


def background(root: Path) -> Path:
    return root / "omniglot" / "images_background.zip"


def add(name: str, data: bytes = b"x", **attributes: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        info = zipfile.ZipInfo(name)
        for attribute, value in attributes.items():
            setattr(info, attribute, value)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)

    return damage


def replace_bytes(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(edit(path.read_bytes())) and None


def without(fragment: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            kept = [(n, archive.read(n)) for n in archive.namelist() if fragment not in n]
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in kept:
                archive.writestr(name, data)

    return damage


def exchange(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Another picture in place of one, in an otherwise sound archive."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            entries = [(n, archive.read(n)) for n in archive.namelist()]
        with zipfile.ZipFile(path, "w") as archive:
            for i, (name, data) in enumerate(entries):
                archive.writestr(name, edit(data) if i == 3 else data)

    return damage


def flip_in_data(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 12
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def encrypt_flags(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + bytes([data[at] | 1]) + data[at + 1 :]


def lying_size(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + (7).to_bytes(4, "little") + data[at + 4 :]


def huge_picture(_: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(file, "PNG")
    return file.getvalue()


def small_picture(_: bytes) -> bytes:
    return png(np.zeros((28, 28), np.uint8))


BAD = {
    "parent": (add(f"{INSIDE}/../../../../escaped.png"), "points outside"),
    "absolute": (add("/tmp/escaped.png"), "absolute"),
    "drive": (add("C:/escaped.png"), "absolute or foreign"),
    "backslash": (add("..\\escaped.png"), "absolute or foreign"),
    "link": (add("link.png", b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16), "link"),
    "device": (add("dev.png", external_attr=(stat.S_IFCHR | 0o600) << 16), "special file"),
    "bomb": (add(f"{INSIDE}/bomb.png", bytes(1 << 24)), "unpacks to 16777216 bytes"),
    "encrypted": (replace_bytes(encrypt_flags), "is encrypted"),
    "lying size": (replace_bytes(lying_size), "damaged"),
    "truncated": (replace_bytes(lambda b: b[: len(b) // 2]), "truncated or damaged"),
    "without its end": (replace_bytes(lambda b: b[:-30]), "truncated or damaged"),
    "empty": (replace_bytes(lambda b: b""), "it is empty"),
    "flipped bit": (replace_bytes(flip_in_data), "damaged at"),
    "web page": (replace_bytes(lambda b: b"<!DOCTYPE html><p>404"), "web page"),
    "other file": (replace_bytes(lambda b: b"\x80\x04K\x01."), "not a readable zip"),
    "missing class": (without("character02"), "holds 1 characters where 2 belong"),
    "missing drawing": (without("0001_05"), "holds 19 drawings"),
    "broken picture": (exchange(lambda b: b[: len(b) // 2]), "not a readable picture"),
    "no picture": (exchange(lambda b: b"GIF87a"), "not a readable picture"),
    "huge picture": (exchange(huge_picture), "8000 x 8000 pixels"),
    "small picture": (exchange(small_picture), "28 x 28 pixels where 105 x 105"),
    "other layout": (add("images_background/stray.png"), "pictures stand at"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_archive_is_refused_by_name(
    root: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, message = BAD[kind]
    path = background(root)
    damage(path)
    monkeypatch.chdir(tmp_path)
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        load_omniglot(root, cache=tmp_path / "cache", parts=PARTS)
    assert "images_background" in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    assert not Path("/tmp/escaped.png").exists()
    # With the official file in its place it goes through.
    write_archives(root, PARTS)
    assert len(load_omniglot(root, cache=tmp_path / "cache", parts=PARTS).images) == 4


def test_doubled_member_is_refused(root: Path) -> None:
    path = background(root)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"{INSIDE}/0000_00.png", b"other")
    with pytest.raises(InputError, match="is listed twice"):
        next(read_zip(path))


def test_limits_hold_before_anything_is_read(root: Path) -> None:
    path = background(root)
    for limits, message in (
        (Limits(members=10), "lists 40 members"),
        (Limits(member_bytes=50), "unpacks to"),
        (Limits(total_bytes=500), "unpacks to"),
    ):
        with pytest.raises(InputError, match=message):
            next(read_zip(path, limits))


def test_every_member_comes_in_order(root: Path) -> None:
    names = [member.name for member in read_zip(background(root))]
    assert len(names) == 40
    assert names == sorted(names)


def test_folder_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "large.png").write_bytes(bytes(1 << 17))
    with pytest.raises(InputError, match=r"large\.png has 131072 bytes"):
        list(read_folder(tmp_path / "part"))
    (tmp_path / "part" / "large.png").write_bytes(b"small")
    (tmp_path / "part" / "dangling.png").symlink_to(tmp_path / "nowhere")
    assert [m.name for m in read_folder(tmp_path / "part")] == ["part/large.png"]
    with pytest.raises(InputError, match="more than the 0"):
        list(read_folder(tmp_path / "part", Limits(members=0)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_archive(root: Path) -> None:
    background(root).chmod(0)
    with pytest.raises(InputError, match="images_background"):
        next(read_zip(background(root)))


def test_read_only_root_is_enough(root: Path, tmp_path: Path) -> None:
    for path in (*root.rglob("*"), root):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(load_omniglot(root, cache=tmp_path / "cache", parts=PARTS).images) == 4
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)


def test_colour_pictures_become_channels() -> None:
    file = io.BytesIO()
    colours = np.zeros((84, 84, 3), np.uint8)
    colours[..., 1] = 200
    Image.fromarray(colours).save(file, "PNG")
    pixels = decode_picture(file.getvalue(), "p", size=84, mode="RGB")
    assert pixels.shape == (3, 84, 84)
    assert pixels[1].min() == 200
    assert pixels[0].max() == 0
    drawn = png(glyphs(1).images[0, 0, 0])
    assert decode_picture(drawn, "p", size=14, mode="L").shape == (1, 14, 14)

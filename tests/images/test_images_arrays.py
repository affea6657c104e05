"""One flipped bit anywhere in an archive of arrays: an error, or the same arrays."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from metarl.errors import InputError
from metarl.images import ImageClasses, load_mini_imagenet
from metarl.images.arrays import read_arrays
from metarl.images.cache import cached

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 1, 2, 2)
CLASSES = ImageClasses(IMAGES, ("one", "two"))
# More than is read ahead with the header.
LARGE = np.arange(2 * 3 * 90 * 90).astype(np.uint8).reshape(2, 3, 1, 90, 90)
# A parser may warn of what it is about to refuse.
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::UserWarning")


def archive(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def flips(data: bytes, *places: range) -> Iterator[bytes]:
    """The data with one bit flipped, for each bit of the bytes at some places."""
    for at in (i for place in places for i in place):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def directory(data: bytes) -> range:
    return range(data.index(b"PK\x01\x02"), len(data))


def test_every_flip_is_seen_or_harmless(tmp_path: Path) -> None:
    data = archive(images=IMAGES, names=np.array(CLASSES.names))
    path, refused = tmp_path / "a.npz", 0
    for damaged in flips(data, range(len(data))):
        path.write_bytes(damaged)
        try:
            images, names = read_arrays(path, "images", "names", most=1 << 20)
        except ValueError:
            refused += 1
            continue
        assert np.array_equal(images, IMAGES)
        assert names.tolist() == list(CLASSES.names)
    assert refused > 0.7 * 8 * len(data)


def shape_of_less(data: bytes) -> bytes:
    """The header tells of two images of a class where there are three: a flip of one bit."""
    at = data.index(b"'shape': (2, 3,") + len("'shape': (2, ")
    return data[:at] + b"2" + data[at + 1 :]


def test_numpy_alone_takes_a_header_that_tells_of_less(tmp_path: Path) -> None:
    """Mutant: what is read before the end of a member has no checksum."""
    path = tmp_path / "a.npz"
    path.write_bytes(shape_of_less(archive(images=LARGE)))
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["images"].shape == (2, 2, 1, 90, 90)
    with pytest.raises(ValueError, match="longer than its header says"):
        read_arrays(path, "images", most=1 << 20)


def test_what_is_no_such_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content, message in (
        (archive(images=IMAGES)[:100], "not a zip file"),
        (archive(names=IMAGES), "no item named 'images.npy'"),
        (archive(images=np.zeros(1 << 21, np.uint8)), "unpacks to more than"),
        (archive(images=np.array([Path()], dtype=object)), "allow_pickle"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_arrays(path, "images", most=1 << 20)
    with pytest.raises(ValueError, match="No such file"):
        read_arrays(tmp_path / "none.npz", "images", most=1 << 20)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images.npy", b"no array")
    with pytest.raises(ValueError, match="magic string"):
        read_arrays(path, "images", most=1 << 20)


def test_a_damaged_cache_is_built_again(tmp_path: Path) -> None:
    built = []

    def build() -> ImageClasses:
        built.append(True)
        return CLASSES

    cached("set", "key", build, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    start = whole.index(b"\x93NUMPY")
    damages = [*flips(whole, range(start, start + 70, 3), directory(whole)[::5])]
    for damaged in damages:
        path.write_bytes(damaged)
        count = len(built)
        found = cached("set", "key", build, folder=tmp_path)
        assert np.array_equal(found.images, IMAGES)
        assert found.names == CLASSES.names
        assert (path.read_bytes() == damaged) == (len(built) == count)
    assert len(built) > 0.5 * len(damages)


def test_a_cache_that_tells_of_less_is_built_again(tmp_path: Path) -> None:
    classes = ImageClasses(LARGE, CLASSES.names)
    for _ in range(2):
        found = cached("set", "key", lambda: classes, folder=tmp_path)
        assert np.array_equal(found.images, LARGE)
        (path,) = tmp_path.iterdir()
        path.write_bytes(shape_of_less(path.read_bytes()))


def test_a_damaged_archive_of_the_users_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mini-imagenet" / "train.npz"
    path.parent.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (4, 84, 84, 3), dtype=np.uint8)
    data = archive(images=images, labels=np.array([0, 0, 1, 1]))
    start, refused = data.index(b"\x93NUMPY"), []
    for damaged in flips(data, range(start, start + 70, 3), directory(data)[::5]):
        path.write_bytes(damaged)
        try:
            found = load_mini_imagenet(tmp_path, "train", classes={"train": 2})
        except InputError as error:
            refused.append(str(error))
            continue
        assert np.array_equal(found.images.reshape(4, 3, 84, 84), np.moveaxis(images, -1, 1))
    assert len(refused) > 200
    assert all(line.startswith(f"{path} holds no readable arrays") for line in refused)

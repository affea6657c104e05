"""Omniglot: decoding, structure, the cache, the split."""

import multiprocessing
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from images_data import characters, data_root, write_archives
from PIL import Image

from metarl.errors import InputError
from metarl.images import SPLITS, ImageClasses, load_omniglot, omniglot_split

PARTS = {"images_background": 3, "images_evaluation": 2}
TEST_STARTS = [1, 4, 5, 10, 21]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_archives(tmp_path / "data", PARTS)
    return tmp_path / "data"


def load(root: Path, tmp_path: Path) -> ImageClasses:
    return load_omniglot(root, cache=tmp_path / "cache", parts=PARTS)


def test_pictures_are_inverted_resized_and_in_order(root: Path, tmp_path: Path) -> None:
    data = load(root, tmp_path)
    assert data.images.shape == (5, 20, 1, 28, 28)
    assert data.images.dtype == np.uint8
    assert data.names[0] == "images_background/Alphabet_00/character01"
    assert data.names[3] == "images_evaluation/Alphabet_00/character01"
    with (
        zipfile.ZipFile(root / "omniglot" / "images_background.zip") as archive,
        archive.open(f"{data.names[1]}/0001_07.png") as file,
        Image.open(file) as picture,
    ):
        grey = picture.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    assert np.array_equal(data.images[1, 7, 0], 255 - np.asarray(grey))
    # Mutant: a two-valued picture resized as it is has no grey levels.
    assert len(np.unique(data.images)) > 2


def test_unpacked_folders_serve_like_archives(root: Path, tmp_path: Path) -> None:
    packed = load(root, tmp_path)
    unpacked = tmp_path / "unpacked"
    for part in PARTS:
        with zipfile.ZipFile(root / "omniglot" / f"{part}.zip") as archive:
            archive.extractall(unpacked / "omniglot")
    data = load(unpacked, tmp_path)
    assert np.array_equal(data.images, packed.images)
    assert data.names == packed.names


def test_counts_are_checked(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images_background\.zip holds 3 characters where 964"):
        load_omniglot(root, cache=tmp_path / "cache")
    write_archives(root, PARTS, drawings=19)
    with pytest.raises(InputError, match=r"19 drawings of images_background/.* where 20 belong"):
        load(root, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_missing_sources_say_how_to_obtain_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="metarl download omniglot"):
        load(tmp_path, tmp_path)
    monkeypatch.delenv("METARL_DATA", raising=False)
    with pytest.raises(InputError, match="METARL_DATA"):
        load_omniglot()


def test_cache_is_used_and_rebuilt_when_damaged(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(root, tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    intact = cached.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("metarl.images.omniglot._decode", lambda *_: pytest.fail("decoded again"))
        assert np.array_equal(load(root, tmp_path).images, first.images)
    flipped = bytearray(intact)
    flipped[len(flipped) // 2] ^= 4
    for damage in (b"", intact[:1000], bytes(flipped), b"\x80\x04N."):
        cached.write_bytes(damage)
        assert np.array_equal(load(root, tmp_path).images, first.images)
        assert len(cached.read_bytes()) == len(intact)


def test_changed_source_is_decoded_again(root: Path, tmp_path: Path) -> None:
    before = load(root, tmp_path)
    source = root / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(source) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(source, "w") as archive:
        for (name, _), (_, data) in zip(entries, reversed(entries), strict=True):
            archive.writestr(name, data)
    assert not np.array_equal(load(root, tmp_path).images, before.images)


def test_unwritable_cache_is_only_a_warning(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    with pytest.warns(UserWarning, match="decoded again"):
        data = load(root, tmp_path)
    assert len(data.images) == 5
    assert (tmp_path / "cache").is_file()


def _load_and_exit(root: Path, tmp_path: Path, doomed: bool) -> None:
    if doomed:
        # Killed in the middle of the write.
        os.fsync = lambda _: os.kill(os.getpid(), 9)  # type: ignore[assignment]
    data = load(root, tmp_path)
    os._exit(0 if data.images.shape == (5, 20, 1, 28, 28) else 1)


@pytest.mark.parametrize("doomed", [0, 1, 2])
def test_two_at_once_and_killed_ones(root: Path, tmp_path: Path, doomed: int) -> None:
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_load_and_exit, args=(root, tmp_path, i < doomed)) for i in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert sorted(c.exitcode or 0 for c in children) == [-9] * doomed + [0] * (2 - doomed)
    assert len(load(root, tmp_path).images) == 5
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1


def test_nothing_of_the_user_is_touched(root: Path, tmp_path: Path) -> None:
    note = root / "omniglot" / "notes.txt"
    note.write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    for _ in range(2):
        load(root, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    shutil.rmtree(tmp_path / "cache")
    assert note.read_text() == "mine"


def test_splits_are_disjoint_and_fixed(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "omniglot-cache"
    data = characters(os.environ.get("METARL_DATA"), cache)
    parts = {split: omniglot_split(data, split) for split in SPLITS}
    assert {s: len(p.names) for s, p in parts.items()} == {
        "train": 1100,
        "validation": 100,
        "test": 423,
    }
    names = [name for part in parts.values() for name in part.names]
    assert len(set(names)) == 1623
    # The permutation is part of the results' meaning: it may never change.
    assert [data.names.index(n) for n in parts["test"].names[:5]] == TEST_STARTS
    with pytest.raises(InputError, match="validation"):
        omniglot_split(data, "valid")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1623"):
        omniglot_split(data.subset(range(10)), "train")


@pytest.mark.skipif(data_root(os.environ.get("METARL_DATA")) is None, reason="no data set here")
def test_real_characters(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "omniglot-cache"
    data = characters(os.environ.get("METARL_DATA"), cache)
    assert data.images.shape == (1623, 20, 1, 28, 28)
    assert data.names[0] == "images_background/Alphabet_of_the_Magi/character01"
    assert 18 < data.images.mean() < 25  # ink is 8 % of the paper

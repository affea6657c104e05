"""mini-ImageNet's layouts on generated pictures, and what is refused."""

import csv
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metarl.errors import InputError
from metarl.images import SPLITS, ImageClasses, load_mini_imagenet
from metarl.images.classes import Split

CLASSES: dict[Split, int] = {"train": 3, "validation": 2, "test": 2}
STEMS: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
EACH = 4


def picture(label: int, index: int, size: tuple[int, int] = (84, 84)) -> np.ndarray:
    colours = np.random.default_rng([label, index]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST))


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def labels(split: Split) -> list[tuple[int, str]]:
    first = 10 * SPLITS.index(split)
    return [(first + c, f"n{first + c:08d}") for c in range(CLASSES[split])]


def write_folders(folder: Path) -> None:
    for split in SPLITS:
        for label, name in labels(split):
            (folder / STEMS[split] / name).mkdir(parents=True)
            for i in range(EACH):
                path = folder / STEMS[split] / name / f"{name}_{i}.png"
                path.write_bytes(encoded(picture(label, i)))


def write_lists(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for split in SPLITS:
        with (folder / f"{STEMS[split]}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filename", "label"])
            for label, name in labels(split):
                for i in range(EACH):
                    rows.writerow([f"{name}_{i}.png", name])
                    (folder / "images" / f"{name}_{i}.png").write_bytes(encoded(picture(label, i)))


def write_arrays(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in SPLITS:
        images = [picture(label, i) for label, _ in labels(split) for i in range(EACH)]
        numbers = [label for label, _ in labels(split) for _ in range(EACH)]
        np.savez(folder / f"{STEMS[split]}.npz", images=np.stack(images), labels=numbers)


LAYOUTS = {"folders": write_folders, "lists": write_lists, "arrays": write_arrays}


def load(tmp_path: Path, split: Split) -> ImageClasses:
    return load_mini_imagenet(tmp_path, split, cache=tmp_path / "cache", classes=CLASSES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_classes(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path / "mini-imagenet")
    names: set[str] = set()
    for split in SPLITS:
        for _ in range(2):  # decoded, then from the cache
            data = load(tmp_path, split)
            truth = [
                [np.moveaxis(picture(label, i), -1, 0) for i in range(EACH)]
                for label, _ in labels(split)
            ]
            assert np.array_equal(data.images, np.array(truth))
        assert not names & set(data.names)
        names |= set(data.names)
    assert len(names) == 7


def test_pictures_are_resized(tmp_path: Path) -> None:
    folder = tmp_path / "mini-imagenet"
    write_folders(folder)
    name = labels("test")[0][1]
    large = picture(5, 5, (500, 375))
    (folder / "test" / name / f"{name}_0.png").write_bytes(encoded(large))
    small = Image.fromarray(large).resize((84, 84), Image.Resampling.LANCZOS)
    assert np.array_equal(
        load(tmp_path, "test").images[0, 0], np.moveaxis(np.asarray(small), -1, 0)
    )


def test_missing_data_says_how_to_obtain_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train split.*image-net\.org.*train\.csv"):
        load(tmp_path, "train")
    with pytest.raises(InputError, match="choose one of train"):
        load(tmp_path, "val")  # type: ignore[arg-type]


def test_counts_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "mini-imagenet"
    write_folders(folder)
    with pytest.raises(InputError, match="3 classes where 64 belong"):
        load_mini_imagenet(tmp_path, "train", cache=tmp_path / "cache")
    name = labels("test")[1][1]
    (folder / "test" / name / f"{name}_0.png").unlink()
    with pytest.raises(InputError, match=f"class {name} has 3 pictures and others have 4"):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,class\n", "columns filename,label"),
        ("filename,label\na.png\n", "line 2"),
        ("filename,label\n../a.png,n0\n", "line 2"),
        ("filename,label\n/etc/passwd,n0\n", "line 2"),
        ("filename,label\nmissing.png,n0\n", r"missing\.png, listed in .*train\.csv line 2"),
        ("filename,label\n", "no pictures"),
        ("filename,label\na\x00.png,n0\n", "line 2"),
        (b"\xff\xfe\x00", "not a readable list"),
    ],
)
def test_bad_lists(tmp_path: Path, content: str | bytes, message: str) -> None:
    folder = tmp_path / "mini-imagenet"
    (folder / "images").mkdir(parents=True)
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "train.csv").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load(tmp_path, "train")


class Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("canary"),))


@pytest.mark.parametrize(
    "kind",
    ["pickle", "objects", "shape", "dtype", "truncated", "missing", "column", "single", "large"],
)
def test_bad_arrays(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_arrays(tmp_path / "mini-imagenet")
    path = tmp_path / "mini-imagenet" / "train.npz"
    images, numbers = np.zeros((4, 84, 84, 3), np.uint8), np.zeros(4, int)
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"image_data": Canary()}))
    elif kind == "objects":
        np.savez(path, images=np.array([Canary()], dtype=object), labels=numbers)
    elif kind == "shape":
        np.savez(path, images=images[:, :28], labels=numbers)
    elif kind == "dtype":
        np.savez(path, images=images / 255, labels=numbers)
    elif kind == "column":
        np.savez(path, images=images, labels=numbers[:, None])
    elif kind == "single":
        np.savez(path, images=images, labels=np.array(3))
    elif kind == "large":
        monkeypatch.setattr("metarl.images.mini_imagenet._MAX_ARRAYS", images.nbytes)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        np.savez(path, images=images)
    with pytest.raises(InputError, match=r"train\.npz"):
        load(tmp_path, "train")
    assert not Path("canary").exists()


def test_broken_picture_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path / "mini-imagenet")
    name = labels("test")[1][1]
    path = tmp_path / "mini-imagenet" / "test" / name / f"{name}_2.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{name}_2.png is not a readable picture"):
        load(tmp_path, "test")

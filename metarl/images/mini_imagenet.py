"""mini-ImageNet (Vinyals et al. 2016), split as by Ravi & Larochelle 2017, from a user's folder."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metarl.checks import check_choice
from metarl.errors import InputError, NoDataError

from .archives import Limits, read_folder
from .arrays import read_arrays
from .cache import cached, fingerprint
from .classes import SPLITS, ImageClasses, Split
from .pictures import decode_picture
from .roots import data_root

CLASSES: dict[Split, int] = {"train": 64, "validation": 16, "test": 20}
SIZE = 84

HOW_TO_OBTAIN = (
    "mini-ImageNet may not be redistributed. Obtain ImageNet's ILSVRC2012 training images from "
    "image-net.org, take the 100 classes of Ravi & Larochelle's lists (train.csv, val.csv, "
    "test.csv: columns filename,label), and put them below DATA/mini-imagenet in one of the "
    "layouts: train|val|test/<class>/<pictures>; images/<pictures> beside the three lists; or "
    "train|val|test.npz with uint8 `images` (image, 84, 84, 3) and integer `labels` (image,)"
)

_STEMS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "validation"),
    "test": ("test",),
}
_LIMITS = Limits(members=200_000, member_bytes=1 << 26, total_bytes=1 << 36)
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
_DECODING = 1
_MAX_ARRAYS = 1 << 32


class _Picture(NamedTuple):
    label: str
    name: str
    data: bytes


def load_mini_imagenet(
    root: Path | str | None,
    split: Split,
    *,
    cache: Path | None = None,
    classes: Mapping[Split, int] = CLASSES,
) -> ImageClasses:
    """Classes of one split, ``(class, image, 3, 84, 84)``, in the order of their names.

    Pictures are resized to 84 x 84 by Lanczos' filter once and kept in the cache folder.

    Args:
        root: see `data_root`; it holds ``mini-imagenet/`` in one of the layouts of
            `HOW_TO_OBTAIN`.
        split: which of the three.
        cache: folder of the decoded images; None: the user's.
        classes: number of classes of each split.

    Raises:
        NoDataError: nothing of that layout is there; the message says how to obtain it.
        InputError: a file is missing or damaged, or the counts are not the data set's.
    """
    check_choice("split", split, SPLITS)
    top = data_root(root)
    if top is None:
        raise NoDataError(f"no data root: give --data DIR or set METARL_DATA. {HOW_TO_OBTAIN}")
    folder = top / "mini-imagenet"
    for stem in _STEMS[split]:
        arrays, lists, pictures = folder / f"{stem}.npz", folder / f"{stem}.csv", folder / stem
        if arrays.is_file():
            return _checked(_read_arrays(arrays), arrays, classes[split])
        if lists.is_file():
            sources, found = [lists, folder / "images"], lists
        elif pictures.is_dir():
            sources, found = [pictures], pictures
        else:
            continue
        key = fingerprint([s for s in sources if s.exists()], version=_DECODING)

        def build(found: Path = found) -> ImageClasses:
            listed = found.suffix == ".csv"
            return _decode(_read_list(found) if listed else _read_folders(found), found)

        loaded = cached(f"mini-imagenet-{split}", key, build, folder=cache)
        return _checked(loaded, found, classes[split])
    raise NoDataError(f"{folder} holds no {split} split. {HOW_TO_OBTAIN}")


def _read_folders(folder: Path) -> Iterator[_Picture]:
    for member in read_folder(folder, _LIMITS):
        pieces = member.name.split("/")
        if pieces[-1].lower().endswith(_PICTURES) and not pieces[-1].startswith("."):
            if len(pieces) != 3:
                raise InputError(
                    f"{folder} holds {member.name!r}, but pictures stand at <class>/<picture>"
                )
            yield _Picture(pieces[1], f"{folder.parent / member.name}", member.data)


def _read_list(path: Path) -> Iterator[_Picture]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a readable list: {error}") from None
    if not rows or [column.strip() for column in rows[0]] != ["filename", "label"]:
        raise InputError(f"{path} does not start with the columns filename,label")
    for number, row in enumerate(rows[1:], 2):
        # A name with a folder in it could lead out of the data set, one with a NUL names no file.
        if len(row) != 2 or row[0] in ("", "..") or Path(row[0]).name != row[0] or "\0" in row[0]:
            raise InputError(f"{path}, line {number}: expected a file name and a label, got {row}")
        picture = path.parent / "images" / row[0]
        try:
            if picture.stat().st_size > _LIMITS.member_bytes:
                raise InputError(f"{picture} is larger than a picture of this data set")
            data = picture.read_bytes()
        except OSError as error:
            raise InputError(
                f"{picture}, listed in {path} line {number}, cannot be read: {error.strerror}"
            ) from None
        yield _Picture(row[1], str(picture), data)


def _decode(pictures: Iterator[_Picture], source: Path) -> ImageClasses:
    found: dict[str, list[np.ndarray]] = {}
    for picture in pictures:
        pixels = decode_picture(picture.data, picture.name, size=SIZE, mode="RGB")
        found.setdefault(picture.label, []).append(pixels)
    return _grouped(found, source)


def _read_arrays(path: Path) -> ImageClasses:
    try:
        images, labels = read_arrays(path, "images", "labels", most=_MAX_ARRAYS)
    except ValueError as error:
        raise InputError(
            f"{path} holds no readable arrays `images` and `labels` without pickled objects: "
            f"{error}"
        ) from None
    pictures = images.dtype == np.uint8 and images.shape[1:] == (SIZE, SIZE, 3)
    named = labels.dtype.kind in "iuU" and labels.shape == images.shape[:1]
    if not pictures or not named:
        raise InputError(
            f"{path}: `images` is {images.dtype} {images.shape} and `labels` {labels.dtype} "
            f"{labels.shape}; expected uint8 (image, {SIZE}, {SIZE}, 3) and an integer or name "
            "for each"
        )
    by_label = {str(x): images[labels == x] for x in np.unique(labels)}
    return _grouped({n: list(np.moveaxis(i, -1, 1)) for n, i in by_label.items()}, path)


def _grouped(found: dict[str, list[np.ndarray]], source: Path) -> ImageClasses:
    if not found:
        raise InputError(f"{source} holds no pictures. {HOW_TO_OBTAIN}")
    counts = {len(images) for images in found.values()}
    if len(counts) != 1:
        most = max(counts)
        few = next(name for name, images in found.items() if len(images) < most)
        raise InputError(
            f"{source}: class {few} has {len(found[few])} pictures and others have {most}; "
            "the data set has equally many of each"
        )
    names = tuple(sorted(found))
    return ImageClasses(np.stack([np.stack(found[name]) for name in names]), names)


def _checked(data: ImageClasses, source: Path, classes: int) -> ImageClasses:
    if len(data.images) != classes:
        raise InputError(f"{source} holds {len(data.images)} classes where {classes} belong")
    return data

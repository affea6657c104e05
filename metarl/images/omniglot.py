"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 1623 characters, 20 drawings of each."""

import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from metarl.checks import check_choice
from metarl.errors import InputError, NoDataError

from .archives import read_folder, read_zip
from .cache import cached, fingerprint
from .classes import SPLITS, ImageClasses, Split
from .pictures import decode_picture
from .roots import data_root

PARTS = {"images_background": 964, "images_evaluation": 659}
"""The official archives and their numbers of characters."""

DRAWINGS = 20
DRAWN_SIZE = 105
SIZE = 28

_DECODING = 1


def omniglot_sources(root: Path | str | None = None) -> list[Path]:
    """The archives, or unpacked folders, of a data root.

    Args:
        root: see `data_root`; its ``omniglot/`` holds ``images_background.zip`` and
            ``images_evaluation.zip``, or these unpacked.

    Raises:
        NoDataError: no root, or a part is missing there; the message says how to obtain it.
    """
    top = data_root(root)
    if top is None:
        raise NoDataError(
            "no data root: give --data DIR or set METARL_DATA; `metarl download omniglot` fills it"
        )
    folder = top / "omniglot"
    sources = []
    for part in PARTS:
        choices = (folder / f"{part}.zip", folder / part)
        found = [path for path in choices if path.exists()]
        if not found:
            raise NoDataError(
                f"{choices[0]} does not exist, nor does the folder {choices[1]}: "
                f"run `metarl download omniglot --data {top}`, or put the official archives there"
            )
        sources.append(found[0])
    return sources


def load_omniglot(
    root: Path | str | None = None,
    *,
    cache: Path | None = None,
    parts: Mapping[str, int] = PARTS,
) -> ImageClasses:
    """All characters, ``(1623, 20, 1, 28, 28)``, ink 255 on 0.

    The pictures (105 x 105, black on white) are inverted and resized by Lanczos' filter once; the
    result is kept in the user's cache folder and found there by the contents of the sources.
    Characters are in the order of their names, the background set first.

    Args:
        root: see `omniglot_sources`.
        cache: folder of the decoded images; None: the user's.
        parts: name of each part and its number of characters.

    Raises:
        NoDataError: a source is missing.
        InputError: a source is damaged or hostile, or structure and counts are not the
            data set's. The message names the file.
    """
    sources = omniglot_sources(root)
    key = fingerprint(sources, version=_DECODING)
    return cached("omniglot", key, lambda: _decode(sources, parts), folder=cache)


def omniglot_split(characters: ImageClasses, split: Split) -> ImageClasses:
    """The 1100 training, 100 validation or 423 test characters, by a fixed permutation.

    Raises:
        InputError: no split of that name, or ``characters`` are not the data set's 1623.
    """
    check_choice("split", split, SPLITS)
    if len(characters.images) != sum(PARTS.values()):
        raise InputError(
            f"the split is of {sum(PARTS.values())} characters, these are {len(characters.images)}"
        )
    return characters.subset(_permutation()[split])


@functools.cache
def _permutation() -> dict[Split, tuple[int, ...]]:
    text = resources.files(__package__).joinpath("omniglot_split.json").read_text("utf-8")
    lists = json.loads(text)
    return {split: tuple(lists[split]) for split in SPLITS}


def _decode(sources: list[Path], parts: Mapping[str, int]) -> ImageClasses:
    names: list[str] = []
    images: list[np.ndarray] = []
    for source, (part, characters) in zip(sources, parts.items(), strict=True):
        drawings = _read_part(source, part)
        if len(drawings) != characters:
            raise InputError(
                f"{source} holds {len(drawings)} characters where {characters} belong: "
                "it is incomplete or not the official set"
            )
        for name, pictures in sorted(drawings.items()):
            if len(pictures) != DRAWINGS:
                raise InputError(
                    f"{source} holds {len(pictures)} drawings of {name} where {DRAWINGS} belong"
                )
            names.append(name)
            images.append(np.stack(pictures))
    return ImageClasses(np.stack(images), tuple(names))


def _read_part(source: Path, part: str) -> dict[str, list[np.ndarray]]:
    """Drawings by character; pictures stand at ``<part>/<alphabet>/<character>/<drawing>.png``."""
    drawings: dict[str, list[np.ndarray]] = {}
    for member in read_folder(source) if source.is_dir() else read_zip(source):
        pieces = member.name.split("/")
        if not member.name.endswith(".png") or pieces[-1].startswith("."):
            continue
        if len(pieces) != 4 or pieces[0] != part:
            raise InputError(
                f"{source} holds {member.name!r}, but pictures stand at "
                f"{part}/<alphabet>/<character>/<drawing>.png"
            )
        picture = decode_picture(
            member.data,
            f"{member.name!r} of {source}",
            size=SIZE,
            mode="L",
            expect=(DRAWN_SIZE, DRAWN_SIZE),
        )
        drawings.setdefault("/".join(pieces[:3]), []).append(255 - picture)
    return drawings

"""`metarl download`: the one command that uses the network."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from metarl.errors import InputError
from metarl.images import data_root
from metarl.images.download import download_omniglot

from ..options import parse, positionals

DATASETS = ("omniglot",)


@dataclass(frozen=True)
class DownloadCommand:
    """Download a data set from its official place: `metarl download omniglot`.

    Attributes:
        data: folder that holds data sets; METARL_DATA by default.
    """

    data: str | None = None


def run(argv: Sequence[str]) -> int:
    """Download, verify, say where the files are."""
    asks = bool(argv) and argv[0] in ("-h", "--help")
    names, rest = ([], argv) if asks else positionals(argv, "DATASET")
    command = parse(
        DownloadCommand, rest, prog="metarl download DATASET", default=DownloadCommand()
    )
    if names != [*DATASETS]:
        raise InputError(
            f"DATASET: there is {' and '.join(DATASETS)}, got {' '.join(names)} (mini-ImageNet may "
            "not be passed on: training on it says where its images go)"
        )
    root = data_root(command.data)
    if root is None:
        raise InputError("--data: name a folder, here or in METARL_DATA")
    for path in download_omniglot(root, progress=_progress):
        print(path)
    return 0


def _progress(name: str, done: int, total: int | None) -> None:
    if sys.stderr.isatty():
        share = f"{done / total:.0%}" if total else f"{done / 1e6:.1f} MB"
        print(f"\r{name}  {share}", end="\n" if done == total else "", file=sys.stderr)

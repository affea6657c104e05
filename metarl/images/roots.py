"""Where image data sets lie."""

import os
from pathlib import Path


def data_root(root: Path | str | None = None) -> Path | None:
    """The folder that holds data sets: the one named, else ``METARL_DATA``'s; None without both."""
    given = root if root is not None else os.environ.get("METARL_DATA")
    return Path(given) if given else None

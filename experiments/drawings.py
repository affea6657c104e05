"""The documents' figures, drawn from the shipped evaluations alone, so that they follow them."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .catalog import package_data
from .plots.curves import Curve, Points, adaptation_curves
from .plots.rl import SHIPPED, published
from .plots.sinusoid import BESIDE, paper_points

Groups = Mapping[str, list[dict[str, Any]]]
# Where a file says what it was drawn from.
SOURCE = "Source"


class Drawing(NamedTuple):
    """Adaptation curves of the shipped runs of an experiment, beside what was published.

    Attributes:
        curves: the first seed of each group, and published curves.
        points: published numbers.
    """

    curves: list[Curve]
    points: list[Points]

    @property
    def source(self) -> str:
        """Digest of every label and number in it."""
        told = [(label, e["mean"], e["ci95"]) for label, e, _ in self.curves]
        return hashlib.sha256(json.dumps([told, self.points]).encode()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Draw on white paper, with the digest in the file."""
        log = self.curves[0].evaluation["metric"] == "loss"
        figure = adaptation_curves(self.curves, self.points, log=log)
        told = PngInfo()
        told.add_text(SOURCE, self.source)
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(figure.light)) as image:
            image.save(path, pnginfo=told, dpi=image.info["dpi"], optimize=True)

    def is_in(self, path: Path) -> bool:
        """Whether a file shows these labels and numbers."""
        if not path.exists():
            return False
        with Image.open(path) as image:
            return bool(image.info.get(SOURCE) == self.source)


def drawings(groups: Groups) -> dict[str, Drawing]:
    """``<experiment>-adaptation.png`` -> what is in it, where runs are shipped.

    Args:
        groups: evaluations of the seeds of each group.
    """
    found = {}
    for name in package_data("paper", "returns"):
        labels = {f"{name}{suffix}": label for suffix, label in SHIPPED.items()}
        if curves := _first_seeds(groups, labels):
            theirs = published(name, curves[0].evaluation["tasks"])
            found[f"{name}-adaptation.png"] = Drawing([*curves, *theirs], [])
    if curves := _first_seeds(groups, BESIDE):
        found["sinusoid-adaptation.png"] = Drawing(curves, paper_points())
    return found


def _first_seeds(groups: Groups, labels: Mapping[str, str]) -> list[Curve]:
    return [
        Curve(label.replace(" (shipped)", ", ours"), groups[group][0])
        for group, label in labels.items()
        if groups.get(group)
    ]

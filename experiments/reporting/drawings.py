"""The documents' figures, drawn from the shipped evaluations alone, so that they follow them."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..catalog import package_data
from ..plots import rl, sinusoid
from ..plots.curves import Curve, Points, adaptation_curves, mean_of_seeds
from ..plots.panels import adaptation_panels

Groups = Mapping[str, list[dict[str, Any]]]
# Of each experiment, in the figure of all.
SIDE_BY_SIDE = ("", "-linear", "-paper", "-oracle")
# Where a file says what it was drawn from.
SOURCE = "Source"


class Drawing(NamedTuple):
    """Adaptation curves of the shipped runs of experiments, beside what was published.

    Attributes:
        panels: title -> each group, and published curves; one panel for each.
        points: published numbers, of a single panel.
    """

    panels: dict[str, list[Curve]]
    points: list[Points]

    @property
    def source(self) -> str:
        """Digest of every label and number in it."""
        told = [
            (title, label, e["mean"], e["ci95"])
            for title, curves in self.panels.items()
            for label, e, _ in curves
        ]
        return hashlib.sha256(json.dumps([told, self.points]).encode()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Draw on white paper, with the digest in the file."""
        first, *others = self.panels.values()
        if others:
            figure = adaptation_panels(self.panels)
        else:
            log = first[0].evaluation["metric"] == "loss"
            figure = adaptation_curves(first, self.points, log=log)
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

    ``policies-adaptation.png`` has all experiments of policies.

    Args:
        groups: evaluations of the seeds of each group.
    """
    found, panels = {}, {}
    for name in package_data("paper", "returns"):
        curves = {
            suffix: _over_seeds(groups, {name + suffix: label})
            for suffix, label in rl.SHIPPED.items()
        }
        if ours := [curve for some in curves.values() for curve in some]:
            theirs = rl.published(name, ours[0].evaluation["tasks"])
            found[f"{name}-adaptation.png"] = Drawing({name: [*ours, *theirs]}, [])
        if curves[""]:
            few = [curve for suffix in SIDE_BY_SIDE for curve in curves[suffix]]
            panels[name.replace("-", ", ")] = [*few, *theirs]
    if len(panels) > 1:
        found["policies-adaptation.png"] = Drawing(panels, [])
    if sinusoids := _over_seeds(groups, sinusoid.SHIPPED):
        found["sinusoid-adaptation.png"] = Drawing({"sinusoid": sinusoids}, sinusoid.paper_points())
    return found


def _over_seeds(groups: Groups, labels: Mapping[str, str]) -> list[Curve]:
    """Curves of groups: of several seeds the mean for each task, which all have in common."""
    return [
        Curve(label.replace(" (shipped)", ", ours"), mean_of_seeds(groups[group]))
        for group, label in labels.items()
        if groups.get(group)
    ]

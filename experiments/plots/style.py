"""How every figure looks: colours that colour-blind readers tell apart, on light and on dark."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

matplotlib.use("Agg")

# Okabe and Ito 2008, then two of Tol 2021, in the order of the lines in a figure; on dark paper the
# blue of the former would drown.
PALETTES = {
    "light": (
        "#0072B2",
        "#E69F00",
        "#009E73",
        "#CC79A7",
        "#D55E00",
        "#56B4E9",
        "#332288",
        "#999933",
    ),
    "dark": (
        "#4A9BD9",
        "#E69F00",
        "#009E73",
        "#CC79A7",
        "#D55E00",
        "#F0E442",
        "#B9A7E8",
        "#8E9E45",
    ),
}
# Matplotlib's names for the palette of the style in force.
COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

DPI = 144
# Of a logarithmic axis with numbers between the powers of ten.
DECADES = 5

_COMMON = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # names of runs may hold any sign
    "pdf.fonttype": 42,  # whole letters, which journals ask for
    "savefig.dpi": DPI,
}
_INKS = {"light": ("#ffffff", "#1b1b1b"), "dark": ("#16181c", "#e8e8e8")}

Rows = Sequence[Sequence[Any]]


class Figure(NamedTuple):
    """A drawn figure, with the numbers in it.

    Attributes:
        name: file name without suffix.
        title: heading on the page.
        caption: what is seen, with units and where the numbers come from.
        light: PNG for light pages.
        dark: the same for dark ones.
        pdf: for papers.
        rows: the numbers as a table, its first row the names of the columns.
    """

    name: str
    title: str
    caption: str
    light: bytes
    dark: bytes
    pdf: bytes
    rows: Rows


def ink() -> str:
    """Colour of text and of what has no colour of its own, under the style in force."""
    return str(matplotlib.rcParams["text.color"])


def inches(figure: Figure) -> float:
    """Width, at which letters have the size of print."""
    return int.from_bytes(figure.light[16:20], "big") / DPI


def draw(
    paint: Callable[[Canvas], None],
    *,
    name: str,
    title: str,
    caption: str,
    rows: Rows,
    size: tuple[float, float] = (5.6, 3.8),
) -> Figure:
    """Paint a figure twice, for light paper and for dark.

    Args:
        paint: draws on an empty canvas.
        name: see `Figure`.
        title: see `Figure`.
        caption: see `Figure`.
        rows: see `Figure`.
        size: inches.
    """
    images = {}
    for theme, (paper, text) in _INKS.items():
        colours = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), paper)
        colours |= dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), text
        )
        settings: dict[Any, Any] = {**_COMMON, **colours, "grid.color": text}
        settings["axes.prop_cycle"] = cycler(color=PALETTES[theme])
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # whatever the user's own file says
            matplotlib.rcParams.update(settings)
            canvas = Canvas(figsize=size)
            paint(canvas)
            images[theme] = _saved(canvas, "png", {"Software": None})
            if theme == "light":
                images["pdf"] = _saved(canvas, "pdf", {"CreationDate": None})
    return Figure(name, title, caption, images["light"], images["dark"], images["pdf"], rows)


def _saved(canvas: Canvas, kind: str, metadata: dict[str, None]) -> bytes:
    """A file without what would differ from one day, or version, to the next."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def band(
    axes: Axes,
    x: Sequence[float],
    mean: Sequence[float],
    half: Sequence[float],
    *,
    label: str,
    index: int,
    marker: bool = True,
) -> None:
    """A line with a band of plus and minus `half` around it."""
    colour = COLOURS[index % len(COLOURS)]
    # Shifted by one in every round of the colours, so that no two lines look the same.
    shape = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)] if marker else None
    # The first, which are those that were asked for, on top.
    axes.plot(
        x, mean, color=colour, marker=shape, markersize=5, label=label, zorder=3 - index / 100
    )
    low = [m - h for m, h in zip(mean, half, strict=True)]
    high = [m + h for m, h in zip(mean, half, strict=True)]
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def dashed(
    axes: Axes,
    x: Sequence[float],
    mean: Sequence[float],
    half: Sequence[float],
    *,
    label: str,
    index: int,
) -> None:
    """A published line: dashed, open marks, bars of plus and minus `half`, the colour of text."""
    axes.errorbar(
        x,
        mean,
        yerr=half,
        color=ink(),
        alpha=0.75,
        linestyle="--",
        linewidth=1.2,
        capsize=2,
        marker=MARKERS[index % len(MARKERS)],
        markerfacecolor="none",
        markersize=6,
        label=label,
    )


def plain_number(value: float) -> str:
    """Three digits, and all before the point, with a minus sign of print."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")


def log_scale(axes: Axes) -> None:
    """Logarithmic vertical axis with plain numbers on it, for what is drawn already."""
    if not math.isfinite(axes.dataLim.minposy):  # nothing is drawn that has a logarithm
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Over many decades only powers of ten find room, and with others there would be no number.
    few = math.log10(high / low) <= DECADES
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())

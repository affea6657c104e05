"""Images to test with: real characters where the data set is at hand, else drawn glyphs."""

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from metarl.images import ImageClasses, load_omniglot
from metarl.images.omniglot import PARTS

# The one place beside the checkout where the data set may lie.
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


def data_root(environment: str | None) -> Path | None:
    """Root of the real data: the environment's, else beside the checkout, else None."""
    for root in (Path(environment) if environment else None, BESIDE):
        if root is not None and (root / "omniglot").is_dir():
            return root
    return None


@functools.cache
def glyphs(classes: int, images: int = 20, size: int = 28, seed: int = 0) -> ImageClasses:
    """Characters of three strokes each; the drawings of one differ by jitter."""
    rng = np.random.default_rng(seed)
    ends = rng.uniform(0.15, 0.85, (classes, 1, 3, 2, 2)) * size
    ends = ends + rng.normal(0, 0.02 * size, (classes, images, 3, 2, 2))
    along = np.linspace(0, 1, size)[:, None]
    points = ends[..., :1, :] * (1 - along) + ends[..., 1:, :] * along  # (..., stroke, point, xy)
    points = np.clip(points, 1, size - 2).astype(np.int64).reshape(classes * images, -1, 2)
    pixels = np.zeros((classes * images, size, size), np.uint8)
    drawing = np.arange(classes * images)[:, None]
    for dx, dy in ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)):
        pixels[drawing, points[..., 1] + dy, points[..., 0] + dx] = 255
    pixels = pixels.reshape(classes, images, 1, size, size)
    return ImageClasses(pixels, tuple(f"glyph{c:04d}" for c in range(classes)))


def characters(environment: str | None, cache: Path) -> ImageClasses:
    """All 1623 classes: real ones, else as many glyphs."""
    root = data_root(environment)
    return glyphs(sum(PARTS.values())) if root is None else load_omniglot(root, cache=cache)


def png(pixels: np.ndarray) -> bytes:
    """Black ink on white, two-valued, as the official pictures are."""
    file = io.BytesIO()
    Image.fromarray(np.where(pixels > 127, 0, 255).astype(np.uint8)).convert("1").save(file, "PNG")
    return file.getvalue()


def official_names(part: str, count: int) -> list[str]:
    """Names of ``count`` characters in the official layout."""
    return [f"{part}/Alphabet_{c // 10:02d}/character{c % 10 + 1:02d}" for c in range(count)]


def write_archives(root: Path, parts: dict[str, int], drawings: int = 20) -> list[Path]:
    """Glyphs as archives in the official layout below ``root/omniglot``."""
    (root / "omniglot").mkdir(parents=True, exist_ok=True)
    data = glyphs(max(parts.values()), drawings, 35)
    paths = []
    for part, count in parts.items():
        paths.append(root / "omniglot" / f"{part}.zip")
        with zipfile.ZipFile(paths[-1], "w") as archive:
            for c, name in enumerate(official_names(part, count)):
                for i in range(drawings):
                    archive.writestr(
                        f"{name}/{c:04d}_{i:02d}.png",
                        png(np.kron(data.images[c, i, 0], np.ones((3, 3), np.uint8))),
                    )
    return paths

"""Images grouped by class: what every data set becomes."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class ImageClasses(NamedTuple):
    """Classes with equally many images each."""

    images: np.ndarray  # (class, image, channel, height, width), uint8
    names: tuple[str, ...]  # of the classes

    def subset(self, index: Sequence[int] | np.ndarray) -> "ImageClasses":
        """The classes of ``index``, in its order."""
        chosen = np.asarray(index, dtype=np.int64)
        return ImageClasses(self.images[chosen], tuple(self.names[i] for i in chosen))

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
        """The classes of ``index``, in its order, or those where a mask is true."""
        asked = np.asarray(index)
        chosen = np.flatnonzero(asked) if asked.dtype == bool else asked.astype(np.int64)
        return ImageClasses(self.images[chosen], tuple(self.names[i] for i in chosen))

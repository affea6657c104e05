"""Decoding picture files to arrays of one size, with bounds on what is decoded."""

import io
import zlib
from typing import Literal

import numpy as np

from metarl.errors import InputError

MAX_PIXELS = 1 << 24
"""Larger pictures are refused before they are decoded."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF")


def decode_picture(
    data: bytes,
    name: str,
    *,
    size: int,
    mode: Literal["L", "RGB"],
    expect: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decode a picture and resize it to ``size x size`` (Lanczos).

    Args:
        data: the file's bytes.
        name: of the file, for errors.
        size: height and width of the result.
        mode: ``L`` (grey) or ``RGB``.
        expect: width and height that the file must have; None for any.

    Returns:
        ``(channel, size, size)``, uint8.

    Raises:
        InputError: not a picture, damaged, of another size than expected, or too large.
    """
    # On first use: only loading data needs a decoder.
    from PIL import Image

    failures = (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        zlib.error,
        Image.DecompressionBombError,
    )
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            width, height = picture.size
            if expect is not None and (width, height) != expect:
                raise InputError(
                    f"{name} is {width} x {height} pixels where {expect[0]} x {expect[1]} belong"
                )
            if width * height > MAX_PIXELS:
                raise InputError(f"{name} has {width} x {height} pixels: refused as too large")
            # Convert first: two-valued pictures would be resized without averaging.
            converted = picture.convert(mode)
            if converted.size != (size, size):
                converted = converted.resize((size, size), Image.Resampling.LANCZOS)
            pixels = np.asarray(converted, dtype=np.uint8)
    except InputError:
        raise
    except failures as error:
        raise InputError(f"{name} is not a readable picture: {error}") from None
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)

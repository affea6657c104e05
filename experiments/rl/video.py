"""A grid of episodes as a film: rows are tasks, columns numbers of gradient steps."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from metarl.errors import InputError
from metarl.runs.files import TEMPORARY, replace, saving

from .cells import CELL, LINE, STRIP, TEXT, draw_cell, font, gauge_range
from .episodes import Episode, Task

HEAD = 26
SUFFIXES = (".gif", ".mp4")

Grid = Sequence[Sequence[Episode]]


def check_file(out: Path) -> None:
    """Refuse what cannot be written, before an hour of drawing.

    Raises:
        InputError: another suffix, no such directory, or no encoder for MP4.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(f"--out {out}: the name ends in {' or '.join(SUFFIXES)}")
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {out}: needs a file name in a directory that exists")
    if out.suffix == ".mp4":
        _encoder()


def write_video(out: Path, frames: Sequence[Image.Image], fps: int) -> None:
    """Write a GIF or, with the extra ``metarl-policies[video]``, an MP4; whole or not at all.

    Args:
        out: file; see `check_file`.
        frames: pictures of one size.
        fps: pictures a second.

    Raises:
        InputError: see `check_file`.
        SaveError: the disk is full or read-only.
    """
    if out.suffix == ".gif":
        box = io.BytesIO()
        # Nearest colours of an even palette: an adaptive one would drop the small marks.
        method, dither = Image.Quantize.FASTOCTREE, Image.Dither.NONE
        first, *rest = (frame.quantize(method=method, dither=dither) for frame in frames)
        first.save(
            box, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0
        )
        replace(out, box.getvalue())
        return
    encoder = _encoder()
    temporary = out.with_name(f"{TEMPORARY}{os.getpid()}-{out.name}")
    try:
        with saving(out):
            writer = encoder.write_frames(
                str(temporary),
                frames[0].size,
                fps=fps,
                codec="libx264",
                quality=7,
                macro_block_size=2,
                ffmpeg_log_level="error",
            )
            writer.send(None)
            for frame in frames:
                writer.send(np.asarray(frame.convert("RGB")).tobytes())
            writer.close()
            os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _encoder() -> Any:
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        raise InputError(
            "MP4 needs an encoder: pip install 'metarl-policies[video]', or choose a .gif"
        ) from None
    return imageio_ffmpeg


def compose(
    grid: Grid, tasks: Sequence[Task], columns: Sequence[str], *, flat: bool = False
) -> Iterator[Image.Image]:
    """The pictures of a film; an episode that ended early stays at its last picture.

    Args:
        grid: episodes, a row for each task, a column for each number of steps.
        tasks: of the rows.
        columns: headings.
        flat: the world is a plane: a map with the trail says all that its picture does.
    """
    letters = font(13)
    size = (CELL * len(columns), HEAD + (CELL + STRIP) * len(tasks))
    ranges = [gauge_range(row, task) for row, task in zip(grid, tasks, strict=True)]
    times = sorted({t for row in grid for episode in row for t in episode.times})
    for time in times:
        frame = Image.new("RGB", size, "#ffffff")
        draw = ImageDraw.Draw(frame)
        for j, name in enumerate(columns):
            draw.text((CELL * j + CELL / 2, HEAD / 2), name, TEXT, letters, anchor="mm")
        for i, (row, task) in enumerate(zip(grid, tasks, strict=True)):
            for j, episode in enumerate(row):
                cell = draw_cell(episode, task, time, ranges[i], flat=flat)
                frame.paste(cell, (CELL * j, HEAD + (CELL + STRIP) * i))
        for j in range(1, len(columns)):
            draw.line((CELL * j, HEAD, CELL * j, size[1]), LINE, 1)
        for i in range(len(tasks)):
            y = HEAD + (CELL + STRIP) * i
            draw.line((0, y, size[0], y), LINE, 1)
        yield frame

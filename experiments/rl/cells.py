"""One cell of a film: a picture of an episode, with its goal and what it does now."""

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .episodes import Episode, Task

CELL, STRIP = 240, 44
GOAL, NOW, TEXT, LINE = "#009E73", "#0072B2", "#1b1b1b", "#b0b4b8"


def draw_cell(
    episode: Episode, task: Task, time: int, limits: tuple[float, float], *, flat: bool
) -> Image.Image:
    """Picture, task, return so far, and velocity or map, at a time step.

    Args:
        episode: held at its last picture once it ended.
        task: its goal.
        time: step.
        limits: of the gauge, see `gauge_range`.
        flat: the map fills the cell.
    """
    cell = Image.new("RGB", (CELL, CELL + STRIP), "#ffffff")
    index = max(i for i, t in enumerate(episode.times) if t <= time)
    step = episode.times[index]
    picture = Image.fromarray(episode.pictures[index])
    picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    cell.paste(picture, ((CELL - picture.width) // 2, (CELL - picture.height) // 2))
    draw = ImageDraw.Draw(cell)
    moved = {name: values[max(step - 1, 0)] for name, values in episode.motion.items()}
    goal: Any = next(iter(task.values()), None)
    told = f"return {_number(episode.returns[step], 0)}"
    draw.text((CELL - 6, CELL + 12), told, TEXT, font(11), anchor="rm")
    velocity = np.asarray(moved.get("velocity", 0.0))
    if (_speed(task) is not None or _way(task) is not None) and velocity.ndim == 0:
        now = float(velocity) if step else 0.0
        _gauge(draw, _speed(task), now, limits)
        told = f"{words(task)}, now {_number(now, 1)}"
        draw.text((6, CELL + 12), told, TEXT, font(11), anchor="lm")
        if (way := _way(task)) is not None:
            _arrow(draw, way)
    else:
        draw.text((6, CELL + 12), words(task), TEXT, font(11), anchor="lm")
        position = episode.motion.get("position")
        if position is not None and position.ndim == 2 and np.shape(goal) == (2,):
            side = CELL if flat else 72
            _map(draw, np.asarray(goal), position[:step], side)
    return cell


def words(task: Task) -> str:
    """A task in words; names may mean anything, so that numbers have no units."""
    if not task:
        return ""
    (name, value), *_ = task.items()
    if (way := _way(task)) is not None:
        return "forwards" if way > 0 else "backwards"
    numbers = np.ravel(np.asarray(value))
    if numbers.dtype.kind not in "iuf":
        return f"{name} {value}"
    text = ", ".join(_number(float(number), 2) for number in numbers)
    return f"goal {text}" if name == "velocity" else f"{name} {text}"


def _speed(task: Task) -> float | None:
    """The velocity of a task that is one."""
    value = task.get("velocity")
    return float(value) if isinstance(value, int | float | np.number) else None


def _way(task: Task) -> float | None:
    """1 or -1, the direction of a task that is one; others' directions may be angles or words."""
    value = task.get("direction")
    if isinstance(value, int | float | np.number) and value in (1, -1):
        return float(value)
    return None


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def gauge_range(row: Sequence[Episode], task: Task) -> tuple[float, float]:
    """Ends of the gauge: all velocities of a row's episodes, the goal and zero."""
    values = [0.0, _speed(task) or 0.0]
    for episode in row:
        velocity = episode.motion.get("velocity")
        if velocity is not None and velocity.ndim == 1:
            values += [float(velocity.min()), float(velocity.max())]
    return min(values) - 0.05, max(values) + 0.05


def _gauge(
    draw: ImageDraw.ImageDraw, goal: float | None, now: float, limits: tuple[float, float]
) -> None:
    """A bar from zero to the velocity now; a triangle at the goal."""
    y = CELL + 33

    def x(value: float) -> float:
        return 8 + (CELL - 16) * (value - limits[0]) / (limits[1] - limits[0])

    draw.line((8, y, CELL - 8, y), LINE, 1)
    draw.rectangle((min(x(0), x(now)), y - 3, max(x(0), x(now)), y + 3), NOW)
    draw.line((x(0), y - 6, x(0), y + 6), TEXT, 1)
    if goal is not None:
        tip = x(goal)
        draw.polygon([(tip, y - 1), (tip - 6, y - 10), (tip + 6, y - 10)], GOAL)
        draw.line((tip, y - 1, tip, y + 7), GOAL, 2)


def _arrow(draw: ImageDraw.ImageDraw, direction: float) -> None:
    """Where to go, in the picture's upper corner."""
    tip, tail = (CELL - 20, 40) if direction > 0 else (40, CELL - 20)
    head = tip - 12 * direction
    draw.line((tail, 16, head, 16), GOAL, 4)
    draw.polygon([(tip, 16), (head, 9), (head, 23)], GOAL)


def _map(draw: ImageDraw.ImageDraw, goal: np.ndarray, trail: np.ndarray, side: int) -> None:
    """Seen from above, in the picture's upper right corner: start, trail and goal."""
    corner = (CELL - side, 0)
    reach = max(1.0, 1.15 * float(np.abs(goal).max()), *np.abs(trail).ravel().tolist())

    def point(position: Iterable[float]) -> tuple[float, float]:
        x, y = (float(v) / reach for v in position)
        return corner[0] + side / 2 * (1 + x), corner[1] + side / 2 * (1 - y)

    draw.rectangle((*corner, corner[0] + side, corner[1] + side), "#ffffff", LINE)
    points = [point((0, 0)), *map(point, trail)]
    draw.line(points, NOW, 1)
    (x, y), (now_x, now_y) = point(goal), points[-1]
    draw.polygon([(x - 6, y), (x, y - 6), (x + 6, y), (x, y + 6)], GOAL)
    draw.ellipse((now_x - 4, now_y - 4, now_x + 4, now_y + 4), NOW)


def font(size: int) -> Any:
    """Letters of a height in pixels, those of the figures."""
    path = resources.files(matplotlib) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)

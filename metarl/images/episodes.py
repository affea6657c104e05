"""N-way K-shot episodes, drawn by index for a whole meta-batch at once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.checks import check_counts
from metarl.errors import InputError

from .classes import ImageClasses


class Episode(NamedTuple):
    """Support or query images of each task; one task's slice lacks the leading dimension."""

    images: Tensor  # (task, image, channel, height, width), in [0, 1]
    labels: Tensor  # (task, image), int64 in 0 .. ways - 1
    reference: Tensor | None = None  # images whose moments normalise these; None: their own
    step: int | None = None  # row of per-step batch norm: k of support k; of a query, the last used


class EpisodeIndex(NamedTuple):
    """Which images make the tasks; the position of a class in its task is its label."""

    classes: np.ndarray  # (task, way), distinct within a task
    support: np.ndarray  # (task, way, shot), images of the class
    query: np.ndarray  # (task, way, query), others of its images
    turns: np.ndarray  # (task, way), multiples of 90 degrees


def draw_episodes(
    rng: np.random.Generator,
    *,
    classes: int,
    images: int,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    rotate: bool,
) -> EpisodeIndex:
    """Choose classes, images and rotations of a meta-batch.

    Each task has ``ways`` distinct classes in random order, each class ``shots + queries``
    distinct images; with ``rotate`` each class of a task is turned by a random multiple of 90
    degrees. A pure function of the generator's state: draw the tasks of item i from
    ``stream(seed, purpose, i)``, and they do not depend on what was drawn before.

    Args:
        rng: source of randomness.
        classes: number of classes to choose from.
        images: of each class.
        tasks: number of episodes.
        ways: classes of a task.
        shots: support images of each class.
        queries: query images of each class.
        rotate: whether classes are turned.

    Raises:
        InputError: there are fewer classes or images than a task needs, or a count below 1.
    """
    check_counts(tasks=tasks, ways=ways, shots=shots, queries=queries)
    if ways > classes or shots + queries > images:
        raise InputError(
            f"{ways} ways of {shots} + {queries} images need as many classes and images a class; "
            f"there are {classes} classes of {images} images"
        )
    chosen = _smallest(rng.random((tasks, classes)), ways)
    drawn = _smallest(rng.random((tasks, ways, images)), shots + queries)
    turns = rng.integers(4, size=(tasks, ways)) if rotate else np.zeros((tasks, ways), np.int64)
    return EpisodeIndex(chosen, drawn[..., :shots], drawn[..., shots:], turns)


def gather_episodes(
    data: ImageClasses,
    index: EpisodeIndex,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Episode, Episode]:
    """Support and query of an index; images in order of class, /255.

    Args:
        data: the classes that the index counts.
        index: see `draw_episodes`.
        dtype: of the images.
        device: where the tensors go; images cross over as bytes.

    Returns:
        Support with ``ways * shots`` images a task and query with ``ways * queries``.

    Raises:
        InputError: the images are no bytes or lack a dimension, or classes are turned whose images
            are not square.
    """
    _check_images(data.images, turned=bool(index.turns.any()))
    return (
        _gather(data, index, index.support, dtype, device),
        _gather(data, index, index.query, dtype, device),
    )


def sample_episodes(
    data: ImageClasses,
    rng: np.random.Generator,
    *,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    rotate: bool = False,
    rows: slice = slice(None),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Episode, Episode]:
    """`draw_episodes` from all of ``data``, then `gather_episodes` for some ``rows`` of them.

    ``rotate`` is for Omniglot, whose characters are other ones when turned.
    """
    index = draw_episodes(
        rng,
        classes=data.images.shape[0],
        images=data.images.shape[1],
        tasks=tasks,
        ways=ways,
        shots=shots,
        queries=queries,
        rotate=rotate,
    )
    part = EpisodeIndex(*(x[rows] for x in index))
    return gather_episodes(data, part, dtype=dtype, device=device)


def repeat_support(support: Episode, steps: int) -> list[Episode]:
    """The same support for each inner step, with the step's number."""
    return [support._replace(step=step) for step in range(steps)]


def at_step(query: Episode, step: int, *, reference: Episode | None = None) -> Episode:
    """A query to be measured after ``step`` inner steps.

    Args:
        query: the query.
        step: inner steps taken.
        reference: the support, whose moments then normalise the query (mode *support*); None: the
            query's own moments (mode *transductive*).
    """
    # Per-step batch norm at the end of the path uses the last inner step's row.
    return query._replace(
        reference=None if reference is None else reference.images, step=max(step - 1, 0)
    )


def _smallest(keys: np.ndarray, count: int) -> np.ndarray:
    """Positions of the ``count`` smallest keys of the last axis, from the smallest up."""
    some = np.argpartition(keys, count - 1, axis=-1)[..., :count]
    order = np.argsort(np.take_along_axis(keys, some, -1), axis=-1)
    return np.take_along_axis(some, order, -1)


def _check_images(images: np.ndarray, *, turned: bool) -> None:
    if images.dtype != np.uint8 or images.ndim != 5:
        raise InputError(
            f"images are {images.dtype} of shape {images.shape}: they must be uint8, 0 to 255, of "
            "shape (class, image, channel, height, width)"
        )
    height, width = images.shape[-2:]
    if turned and height != width:
        raise InputError(
            f"images of {height} x {width} pixels do not fit themselves turned by 90 degrees: give "
            "rotate=False"
        )


def _gather(
    data: ImageClasses,
    index: EpisodeIndex,
    chosen: np.ndarray,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Episode:
    tasks, ways, each = chosen.shape
    images = data.images[index.classes[:, :, None], chosen]
    for turn in (1, 2, 3):
        of_turn = index.turns == turn
        if of_turn.any():
            images[of_turn] = np.rot90(images[of_turn], turn, axes=(-2, -1))
    pixels = torch.from_numpy(images).to(device).flatten(1, 2)
    labels = torch.arange(ways, device=device).repeat_interleave(each).repeat(tasks, 1)
    return Episode(pixels.to(dtype) / 255, labels)

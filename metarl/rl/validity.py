"""Which sampled episodes count: those asked for, finite, of physics that did not diverge."""

import operator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.errors import NonFiniteError

from .rollout import Rollout, arrays_of, check_finite, map_rollout


class Counts(NamedTuple):
    """What one collection cost."""

    env_steps: int  # transitions of running episodes, those of invalid ones included
    invalid_episodes: int  # dropped because their physics diverged


def whole_tasks(
    out: Rollout,
    invalid: NDArray[np.bool_],
    *,
    tasks: int,
    episodes: int,
    max_invalid: float,
    dtype: torch.dtype,
    mixed: int = 1,
) -> tuple[Rollout, Counts]:
    """Drop padding and mask invalid episodes; shape into (task, episode), floats of ``dtype``.

    Args:
        out: ``(row, ...)``, row ``task * episodes + episode``; those beyond the last task are
            padding.
        invalid: ``(row,)``, whose physics diverged.
        tasks: wanted.
        episodes: of each.
        max_invalid: fraction of them that may be invalid.
        dtype: of floats.
        mixed: so many consecutive tasks make one batch, which needs one valid episode.

    Raises:
        NonFiniteError: a number is not finite, more episodes are invalid than may be, or all of a
            task.
    """
    rows = tasks * episodes

    def by_task(rollout: Rollout) -> Rollout:
        return map_rollout(lambda x: x.reshape(tasks, episodes, *x.shape[1:]), rollout)

    padding = map_rollout(operator.itemgetter(slice(rows, None)), out)
    out, invalid = map_rollout(operator.itemgetter(slice(rows)), out), invalid[:rows]
    check_finite(out, episodes)
    try:
        check_finite(padding, episodes)
    except NonFiniteError as error:  # the rows beside it may have been cut short by it
        raise NonFiniteError(
            f"non-finite {error.place} of task {tasks - 1}, in an episode beyond those asked "
            "for, which fills an environment up",
            place=error.place,
            task=tasks - 1,
            batch=error.batch,
        ) from None
    counts = Counts(int(out.mask.sum()), int(invalid.sum()))
    if counts.invalid_episodes > max_invalid * rows:
        task = int(invalid.argmax()) // episodes
        raise NonFiniteError(
            f"the physics of {counts.invalid_episodes} of {rows} episodes diverged, more than "
            f"{max_invalid:.0%}: look at the size of the actions and the time step",
            place="physics",
            task=task,
            batch=arrays_of(by_task(out), task),
        )
    lost = invalid.reshape(tasks // mixed, -1).all(1)
    if lost.any():
        task = int(lost.argmax()) * mixed
        raise NonFiniteError(
            f"the physics of every episode of task {task} diverged",
            place="physics",
            task=task,
            batch=arrays_of(by_task(out), task),
        )
    out.mask[torch.from_numpy(invalid)] = 0.0
    device = out.distribution[0].device

    def placed(x: Tensor) -> Tensor:
        return x.to(device, dtype if x.is_floating_point() else x.dtype)

    return by_task(map_rollout(placed, out)), counts

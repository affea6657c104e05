"""What a few-shot net makes of tasks after each of some inner steps."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

import metarl
from metarl.images import Classified, Episode, at_step, repeat_support

from ..configs.images import Config
from ..memory import tasks_at_once
from .tasks import ChosenTasks, Tasks

Mode = Literal["transductive", "support"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Most tasks whose images are gathered and that adapt at once.
AT_ONCE = 50


def query_at(tasks: Tasks, step: int, mode: Mode) -> Episode:
    """The query as it is seen after a step, normalised by its own moments or by the support's."""
    return at_step(tasks.query, step, reference=tasks.support if mode == "support" else None)


@functools.lru_cache(maxsize=8)
def _each_query(loss: metarl.Loss) -> metarl.Loss:
    """The loss on several queries of a task, which thus adapts to them once."""
    return lambda params, queries: tuple(loss(params, query) for query in queries)


@dataclass(frozen=True)
class AdaptedNet:
    """A net that adapts, also for more steps than it was trained for."""

    config: Config
    apply: Callable[..., Tensor]
    loss: metarl.Loss
    inner: metarl.InnerLoop
    mapping: str

    def _extended(
        self, params: metarl.Params, steps: int
    ) -> tuple[metarl.Params, metarl.InnerLoop]:
        return metarl.extended_rates(
            params,
            self.inner,
            trained_steps=self.config.steps,
            steps=max(steps, 1),
            factors=self.config.later_lr_factors,
        )

    @torch.no_grad()
    def path(self, params: metarl.Params, tasks: Tasks, steps: int) -> list[metarl.Params]:
        """Parameters of each task after 0..steps steps."""
        model, inner = self._extended(params, steps)
        if steps == 0:
            return [metarl.expand_params(model, tasks.number)]
        supports = repeat_support(tasks.support, steps)
        return metarl.adapt_path(self.loss, model, supports, inner, mapping=self.mapping)

    @torch.no_grad()
    def curves(
        self, params: metarl.Params, tasks: Tasks | ChosenTasks, steps: int, *modes: Mode
    ) -> list[Classified]:
        """Loss and accuracy on the query after 0..steps steps, each (steps + 1, task), by mode.

        A part of the tasks at a time, so that memory does not grow with their number.
        """
        model, inner = self._extended(params, steps)
        at_once = min(AT_ONCE, tasks_at_once(model, tasks.part(slice(1)), steps))
        starts = range(0, tasks.number, at_once)
        parts = [
            metarl.adaptation_curve(
                self.loss,
                _each_query(self.loss),
                model,
                repeat_support(part.support, steps),
                [tuple(query_at(part, k, mode) for mode in modes) for k in range(steps + 1)],
                inner,
                mapping=self.mapping,
            )
            for part in (tasks.part(slice(i, i + at_once)) for i in starts)
        ]
        return [
            Classified(*(torch.cat(rows, 1).cpu() for rows in zip(*curve, strict=True)))
            for curve in zip(*parts, strict=True)
        ]

    @torch.no_grad()
    def predictions(self, params: metarl.Params, tasks: Tasks, steps: int) -> Tensor:
        """Classes predicted for the query after a number of steps, (task, image)."""
        theta = self.path(params, tasks, steps)[-1]
        query = query_at(tasks, steps, self.config.moments)
        rows = [
            self.apply(
                {name: p[i] for name, p in theta.items()},
                query.images[i],
                None if query.reference is None else query.reference[i],
                query.step,
            )
            for i in range(tasks.number)
        ]
        return torch.stack(rows).argmax(-1)

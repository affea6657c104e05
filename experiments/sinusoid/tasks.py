"""Where the tasks of the sinusoid experiment come from."""

import functools
from typing import NamedTuple

import numpy as np

import metarl
from metarl.distributed import ALONE, Ranks
from metarl.supervised import Regression, Sinusoids, sample_points, sample_tasks

from ..configs.sinusoid import Config
from ..machine import Machine

# Keying a stream costs as much as drawing 25 tasks, so that many iterations share one.
BLOCK = 100


class Episodes(NamedTuple):
    """Points of tasks: to adapt on, and to measure on."""

    support: Regression
    query: Regression

    def part(self, rows: slice) -> "Episodes":
        """Some of the tasks."""
        return Episodes(*(Regression(*(x[rows] for x in points)) for points in self))


class Source:
    """Points of fresh tasks, for training in blocks of meta-batches."""

    def __init__(self, config: Config, machine: Machine, ranks: Ranks = ALONE) -> None:
        self.config = config
        self.machine = machine
        self.rows = ranks.rows(config.meta_batch)
        self.block = functools.lru_cache(maxsize=2)(self._block)

    def episodes(
        self, tasks: Sinusoids, shots: int, query: int, rng: np.random.Generator
    ) -> Episodes:
        """Fresh points of the tasks, as this model sees them."""
        points = sample_points(
            tasks,
            shots + query,
            rng,
            observe_task=self.config.observe_task,
            dtype=self.machine.torch_dtype,
            device=self.machine.device,
        )
        return Episodes(
            Regression(*(x[:, :shots].contiguous() for x in points)),
            Regression(*(x[:, shots:].contiguous() for x in points)),
        )

    def _block(self, seed: int, block: int) -> list[Episodes]:
        """Of the meta-batches of iterations ``block * BLOCK`` and following, this rank's tasks."""
        config = self.config
        rng = metarl.stream(seed, "train-tasks", block)
        tasks = sample_tasks(BLOCK * config.meta_batch, rng)
        all_ = self.episodes(tasks, config.shots, config.query, rng)
        columns = [
            x.view(BLOCK, config.meta_batch, *x.shape[1:])[:, self.rows].contiguous().unbind()
            for points in all_
            for x in points
        ]
        return [
            Episodes(Regression(a, b), Regression(c, d))
            for a, b, c, d in zip(*columns, strict=True)
        ]

    def held_out(
        self, seed: int, purpose: str, tasks: int, shots: int
    ) -> tuple[Sinusoids, Episodes]:
        """Tasks of a stream that training never draws from, and points of them."""
        chosen = sample_tasks(tasks, metarl.stream(seed, f"{purpose}-tasks"))
        rng = metarl.stream(seed, f"{purpose}-points", shots)
        return chosen, self.episodes(chosen, shots, shots, rng)

"""What a meta-iteration costs on many ranks: a model, from what `metarl bench scale` measured."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Costs(NamedTuple):
    """Of one experiment.

    Attributes:
        fixed: seconds of an iteration that a rank spends however few tasks it has.
        per_task: seconds of each of its tasks.
        skew: how much longer the slower of two ranks takes than the mean of the two, in parts of
            it.
        calls: collective operations of an iteration.
        megabytes: 10^6 bytes that a rank hands over in them.
        latency: seconds of an all-reduce of one number between two ranks.
        per_megabyte: further seconds of one of 10^6 bytes.
    """

    fixed: float
    per_task: float
    skew: float
    calls: float
    megabytes: float
    latency: float
    per_megabyte: float


class Seconds(NamedTuple):
    """Of an iteration.

    Attributes:
        own: a rank's own work, on average.
        skew: how much longer the slowest takes.
        exchange: calls and bytes.
    """

    own: float
    skew: float
    exchange: float

    @property
    def total(self) -> float:
        """Of all three."""
        return self.own + self.skew + self.exchange


def costs(measured: Mapping[str, float], name: str, tasks: int) -> Costs:
    """From the bench's results.

    Args:
        measured: of the bench.
        name: the experiment.
        tasks: of the iterations that were measured.
    """
    whole, half = measured[f"{name}-1x1"], measured[f"{name}-half"]
    per_task = min(max(whole - half, 0.0) / (tasks - tasks // 2), whole / tasks)
    return Costs(
        fixed=max(whole - tasks * per_task, 0.0),
        per_task=per_task,
        skew=measured[f"{name}-skew"] / half,
        calls=measured[f"{name}-calls"],
        megabytes=measured[f"{name}-bytes"] / 1e6,
        latency=measured["latency"],
        per_megabyte=measured["megabyte"],
    )


def seconds(c: Costs, tasks: int, ranks: int) -> Seconds:
    """Of an iteration of T tasks on R ranks.

        own       =  fixed + per_task T / R
        skew      =  skew own m(R) / m(2)
        exchange  =  calls (R - 1) latency  +  megabytes (2 (R - 1) / R) per_megabyte

    Ranks' times are taken for normal and independent, the largest of R then being m(R) standard
    deviations above the mean. gloo's ring takes 2 (R - 1) steps, two of which are ``latency``, and
    a rank sends its bytes twice but for its own part, which between two ranks is
    ``per_megabyte``.
    """
    own = c.fixed + c.per_task * tasks / ranks
    rest = (ranks - 1) / ranks
    return Seconds(
        own,
        c.skew * own * largest_of(ranks) / largest_of(2),
        c.calls * (ranks - 1) * c.latency + c.megabytes * 2 * rest * c.per_megabyte,
    )


def largest_of(count: int) -> float:
    """Expectation of the largest of so many standard normal numbers."""
    if count == 1:
        return 0.0
    x = np.linspace(-8.0, 8.0, 4001)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x]) ** count
    return float((0.5 * (x[1:] + x[:-1]) * np.diff(below)).sum())

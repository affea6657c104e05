"""What an experiment family offers to the training loop, the evaluator and the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from .machine import Machine
from .memory import Needs

Metrics = Mapping[str, Tensor | float]


@dataclass
class State:
    """All that one iteration changes and a checkpoint holds.

    Attributes:
        params: name -> leaf tensor theta, changed in place.
        optimizer: the meta-optimiser, over tensors of ``params``; None where the update is a pure
            function of theta (trust region).
        extra: further numbers that the next iteration depends on, as JSON.
    """

    params: dict[str, Tensor]
    optimizer: Optimizer | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Evaluation(NamedTuple):
    """Adaptation curves on held-out tasks.

    Attributes:
        metric: ``"loss"``, ``"return"`` or ``"accuracy"`` (a fraction).
        per_task: (K + 1, task) the metric after k = 0..K steps; 0 is the unadapted model.
        variants: further numbers, by name, as JSON.
        task_seed: what the tasks were drawn with, where the options leave it open.
    """

    metric: str
    per_task: np.ndarray
    variants: dict[str, Any]
    task_seed: int | str | None = None


class Learner(Protocol):
    """One experiment, configured: iterations of a state, no loop of its own.

    Attributes:
        machine: how it computes, with nothing left to choose.
        shown: names of the two metrics in the progress line: before and after adaptation. The
            latter, on validation tasks, chooses the best checkpoint.
        higher_is_better: its direction.
    """

    machine: Machine
    shown: tuple[str, str]
    higher_is_better: bool

    def params(self, seed: int) -> dict[str, Tensor]:
        """Theta before the first iteration, learned step sizes among them; reads no data."""

    def init(self, seed: int) -> State:
        """State before the first iteration; compiles nothing.

        Raises:
            metarl.errors.InputError: data that training needs is missing.
        """

    def needs(self, state: State) -> Needs:
        """Memory that an iteration takes, from shapes; all ranks call it."""

    def step(self, state: State, iteration: int) -> Metrics:
        """Iteration number ``iteration`` (from 0), in place.

        Raises:
            metarl.errors.NonFiniteError: before theta is spoilt.
        """

    def validate(self, state: State) -> Metrics:
        """Metrics on the fixed validation tasks; changes nothing."""

    def evaluate(self, params: dict[str, Tensor], options: Any) -> Evaluation:
        """Adaptation curves of ``params`` on test tasks; changes nothing."""


def mean_and_ci95(per_task: np.ndarray) -> dict[str, list[float]]:
    """Mean over tasks and half-width 1.96 s.e. after each number of steps.

    Args:
        per_task: (K + 1, task). Numbers that are not finite make theirs not finite; the half-width
            of one task is NaN, since it says nothing of others.
    """
    with np.errstate(all="ignore"):
        mean = per_task.mean(1)
        error = per_task.std(1, ddof=1) if per_task.shape[1] > 1 else np.full_like(mean, np.nan)
        ci95 = 1.96 * error / np.sqrt(per_task.shape[1])
    return {"mean": mean.tolist(), "ci95": ci95.tolist()}

"""Configuration of the sinusoid regression (Finn, Abbeel, Levine 2017, section 5.1)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from .base import FamilyConfig
from .bounds import Range, check_product

# Networks this small lose time to every thread beyond the first.
THREADS = 1
# Iterations from which on compiling the step, about 20 s, is earned back.
LONG_RUN = 1_000

Count = Annotated[int, Range(1, 10**9)]
Points = Annotated[int, Range(1, 10_000)]
Rate = Annotated[float, Range(0, 100)]


@dataclass(frozen=True)
class Config(FamilyConfig):
    """Sinusoid regression.

    Attributes:
        iterations: meta-updates.
        meta_batch: tasks in an iteration.
        shots: points a task adapts on in training.
        query: points its loss after adaptation is taken on.
        inner_steps: gradient steps in training; 0 trains one model on all tasks mixed.
        inner_lr: step size alpha of the inner loop; where it starts if it is learned.
        learned_lr: whether step sizes are learned: no, one per tensor, one per element (Meta-SGD).
        lr_per_step: separate learned step sizes for each inner step (LSLR).
        first_order: drop second derivatives (FOMAML).
        lr: step size of Adam, the meta-optimiser.
        lr_decay: none, or cosine down to zero over the iterations.
        later_lr_factors: step sizes beyond the trained steps, as multiples of the last trained one;
            the last of them serves all further steps.
        hidden: widths of the hidden layers, ReLU.
        init_std: weights start at a truncated normal of this standard deviation, biases at zero.
        observe_task: give the model amplitude and phase as inputs (the oracle).
        log_every: iterations in a metrics record.
        validate_every: iterations between validations.
        patience: stop when validation has not improved for so many iterations; by default never.
        validation_tasks: fixed tasks of each validation.
        validation_shots: points a validation task adapts on.
    """

    metric: ClassVar[str] = "loss"
    counts: ClassVar[tuple[str, ...]] = ("shots",)

    iterations: Count = 70_000
    meta_batch: Points = 25
    shots: Points = 10
    query: Points = 10
    inner_steps: Annotated[int, Range(0, 100)] = 1
    inner_lr: Rate = 0.01
    learned_lr: Literal["no", "tensor", "element"] = "no"
    lr_per_step: bool = False
    first_order: bool = False
    lr: Rate = 1e-3
    lr_decay: Literal["none", "cosine"] = "none"
    later_lr_factors: tuple[Rate, ...] = (1.0,)
    hidden: tuple[Annotated[int, Range(1, 10_000)], ...] = (40, 40)
    init_std: Annotated[float, Range(0, 10, above=True)] = 0.01
    observe_task: bool = False
    log_every: Count = 100
    validate_every: Count = 5_000
    patience: Count | None = None
    validation_tasks: Points = 600
    validation_shots: Points = 5

    def check_sizes(self) -> None:
        """Refuse sizes that ask for too much memory together (ValueError)."""
        check_product(1e6, "points", meta_batch=self.meta_batch, shots=self.shots)
        check_product(1e6, "points", meta_batch=self.meta_batch, query=self.query)
        tasks, shots = self.validation_tasks, self.validation_shots
        check_product(1e6, "points", validation_tasks=tasks, validation_shots=shots)


@dataclass(frozen=True)
class EvaluateOptions:
    """Protocol of the paper: 600 tasks, 5 points, 10 gradient steps on the same points.

    Attributes:
        tasks: held-out tasks.
        steps: gradient steps; the curve has one point more.
        task_seed: of the stream of test tasks.
        shots: points a task adapts on, and as many fresh ones to measure on.
    """

    tasks: Annotated[int, Range(1, 100_000)] = 600
    steps: Annotated[int, Range(1, 1_000)] = 10
    task_seed: int = 0
    shots: Points = 5

    def check_sizes(self) -> None:
        """Refuse sizes that ask for too much memory together (ValueError)."""
        check_product(1e6, "points", tasks=self.tasks, shots=self.shots)
        check_product(1e6, "losses", tasks=self.tasks, steps=self.steps)

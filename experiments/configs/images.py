"""Configuration of the few-shot image experiments (Finn, Abbeel, Levine 2017, section 5.2)."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from .base import FamilyConfig
from .bounds import Range, check_product

# One task's chain to a thread.
THREADS = 64
# Iterations from which on compiling the step, about a minute, is earned back.
LONG_RUN = 1_000

Count = Annotated[int, Range(1, 10**9)]
Until = Annotated[int, Range(0, 10**9)]
Few = Annotated[int, Range(1, 1_000)]
Rate = Annotated[float, Range(0, 100)]


@dataclass(frozen=True)
class Config(FamilyConfig):
    """Few-shot images.

    Attributes:
        dataset: omniglot or mini-imagenet.
        data: root that holds omniglot/ or mini-imagenet/; METARL_DATA by default.
        net: strided or pooled convolutions (Omniglot's, mini-ImageNet's), or dense layers.
        ways: classes of a task.
        shots: images of a class that a task adapts on.
        query: images of a class that the loss after adaptation is taken on; as many as shots by
            default.
        iterations: meta-updates.
        meta_batch: tasks in an iteration; the paper's for these ways and shots by default.
        inner_steps: gradient steps in training; the paper's for these ways by default.
        inner_lr: step size alpha, for the mean cross-entropy; where it starts if it is learned.
        learned_lr: whether step sizes are learned: no, one per tensor, one per element.
        lr_per_step: separate learned step sizes for each inner step (LSLR).
        first_order: drop second derivatives (FOMAML).
        first_order_until: iteration before which second derivatives are dropped (MAML++).
        multi_step_until: iteration before which the losses after the earlier inner steps count as
            well, as much as the last at first, then ever less (MAML++).
        head_scale: multiplies the initial weights of the last layer.
        batch_norm: the query is normalised by its own moments (transductive), or by those of the
            support; per_step: by its own, with one scale and shift for every inner step (MAML++).
        rotate: turn each class of an Omniglot task by a random multiple of 90 degrees.
        lr: step size of Adam, the meta-optimiser.
        lr_decay: none, or cosine down to zero over the iterations.
        clip: bound on each element of the meta-gradient; by default the paper's for the data set
            and shots: none for Omniglot, 0.13 for mini-ImageNet, 0.67 with more than one shot.
        later_lr_factors: step sizes beyond the trained steps, as multiples of the last trained one;
            the last of them serves all further steps.
        log_every: iterations in a metrics record.
        validate_every: iterations between validations.
        patience: stop when validation has not improved for so many iterations; by default never.
        validation_tasks: fixed tasks of each validation.
    """

    metric: ClassVar[str] = "accuracy"

    dataset: Literal["omniglot", "mini-imagenet"] = "omniglot"
    data: str | None = None
    net: Literal["strided", "pooled", "dense"] = "strided"
    ways: Few = 5
    shots: Few = 1
    query: Few | None = None
    iterations: Count = 60_000
    meta_batch: Few | None = None
    inner_steps: Few | None = None
    inner_lr: Rate = 2.0
    learned_lr: Literal["no", "tensor", "element"] = "no"
    lr_per_step: bool = False
    first_order: bool = False
    first_order_until: Until = 0
    multi_step_until: Until = 0
    head_scale: Rate = 1.0
    batch_norm: Literal["transductive", "support", "per_step"] = "transductive"
    rotate: bool = True
    lr: Rate = 1e-3
    lr_decay: Literal["none", "cosine"] = "none"
    clip: Annotated[float | None, Range(0, 1e9, above=True)] = None
    later_lr_factors: tuple[Rate, ...] = (1.0,)
    log_every: Count = 100
    validate_every: Count = 1_000
    patience: Count | None = None
    validation_tasks: Few = 200

    def check_sizes(self) -> None:
        """Refuse sizes that ask for too much memory together (ValueError)."""
        check_product(1e5, "images", meta_batch=self.tasks, ways=self.ways, shots=self.shots)
        check_product(1e5, "images", meta_batch=self.tasks, ways=self.ways, query=self.queries)

    def task_settings(self, options: Any) -> dict[str, Any]:
        """What images tasks are made of."""
        del options
        return {"dataset": self.dataset, "rotate": self.rotate}

    def size_settings(self, options: Any) -> dict[str, Any]:
        """Classes of a task and images of each."""
        del options
        return {"ways": self.ways, "shots": self.shots}

    @property
    def queries(self) -> int:
        """Query images of a class in training."""
        return self.shots if self.query is None else self.query

    @property
    def moments(self) -> Literal["transductive", "support"]:
        """Whose moments normalise the query in training and validation."""
        return "support" if self.batch_norm == "support" else "transductive"

    @property
    def bound(self) -> float | None:
        """Bound on each element of the meta-gradient; None for none."""
        if self.clip is not None or self.dataset == "omniglot":
            return self.clip
        return 0.13 if self.shots == 1 else 0.67

    @property
    def tasks(self) -> int:
        """Tasks in an iteration."""
        if self.meta_batch is not None:
            return self.meta_batch
        if self.dataset == "mini-imagenet":
            return 4 if self.shots == 1 else 2
        return 32 if self.ways <= 5 else 16

    @property
    def steps(self) -> int:
        """Inner steps in training."""
        if self.inner_steps is not None:
            return self.inner_steps
        return 5 if self.dataset == "mini-imagenet" or self.ways > 5 else 1

    @property
    def test_steps(self) -> int:
        """Inner steps that the paper tests after."""
        if self.dataset == "mini-imagenet":
            return 10
        return 3 if self.ways <= 5 else 5


@dataclass(frozen=True)
class EvaluateOptions:
    """Protocol of the paper: 600 test tasks, as many query images as shots.

    Attributes:
        tasks: test tasks.
        steps: gradient steps; the paper's number for the run's ways by default.
        task_seed: of the stream of test tasks.
    """

    tasks: Annotated[int, Range(1, 10_000)] = 600
    steps: Annotated[int | None, Range(1, 1_000)] = None
    task_seed: int = 0

    def check_sizes(self) -> None:
        """Refuse sizes that ask for too much memory together (ValueError)."""
        check_product(1e6, "accuracies", tasks=self.tasks, steps=self.steps or 1)

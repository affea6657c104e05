"""Configuration of meta-policies (Finn, Abbeel, Levine 2017, section 5.3)."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from .base import FamilyConfig
from .bounds import Range, check_product

# As many as there are: physics and chains of tasks keep every core busy.
THREADS = 1024
# Iterations from which on compiling the step, about a minute, is earned back.
LONG_RUN = 200
# What the meta-updates do not read.
_UNUSED = {
    "trpo": ("--lr", "--epochs", "--clip"),
    "adam": ("--max-kl", "--damping", "--cg-steps", "--fisher-fraction", "--epochs", "--clip"),
    "promp": ("--damping", "--cg-steps", "--fisher-fraction"),
}
# What gymnasium.make would import to find an environment of metarl's own.
OURS = "metarl_envs:"

Count = Annotated[int, Range(1, 10**9)]
Size = Annotated[int, Range(1, 100_000)]
Steps = Annotated[int, Range(0, 100)]
Rate = Annotated[float, Range(0, 100)]
Fraction = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, 1e6, above=True)]


@dataclass(frozen=True)
class EnvConfig:
    """The environment.

    Attributes:
        id: gymnasium id, as package_of_yours:MyTask-v0 for one that `metarl check` passes.
        physics: of metarl's own environments: paper (2017) or gym (gymnasium's v5).
        horizon: most steps of an episode.
        task_range: low and high of the task distribution; the environment's own by default.
        sparse: sparse rewards (navigation).
        workers: processes that step an environment without a vector environment of its own; 0
            steps it in this process.
    """

    id: str = "metarl/HalfCheetahVelocity-v0"
    physics: Literal["paper", "gym"] = "paper"
    horizon: Size = 200
    task_range: tuple[float, float] | None = None
    sparse: bool = False
    workers: Annotated[int, Range(0, 1024)] = 0

    def __post_init__(self) -> None:
        # Both forms name one environment. A config.json written by hand may hold any type.
        if isinstance(self.id, str):
            object.__setattr__(self, "id", self.id.removeprefix(OURS))


@dataclass(frozen=True)
class Config(FamilyConfig):
    """Meta-policies by gradient-based adaptation.

    Attributes:
        env: the environment.
        iterations: meta-updates; 0 leaves the policy as it was initialised.
        meta_batch: tasks in an iteration.
        episodes: per task, before each inner step and after the last.
        inner_steps: policy-gradient steps in training; 0 trains one policy on all tasks mixed.
        inner_lr: step size alpha of the inner loop; where it starts if it is learned.
        learned_lr: whether step sizes are learned: no, one per tensor, one per element (Meta-SGD),
            or signal: per element, and once measured on training tasks set to what leaves out the
            noise of inner steps, which takes a theta that adapts already.
        signal_after: iterations, with steps of inner_lr alone, before signal measures; 0 is for a
            run that goes on --from one which has learned to adapt.
        lr_per_step: separate learned step sizes for each inner step (LSLR).
        first_order: drop second derivatives (FOMAML).
        adapted: parameters that adapt: all, or the last layer and the log-std (ANIL).
        inner_surrogate: loglik (the paper's code), linear (curvature without loglik's bias, and
            as steady), lvc (curvature exact at horizon 1), dice.
        sampling_correction: emaml adds how the support samples depend on theta; with loglik only.
        observe_task: append the task to the observation (the oracle).
        update: trpo, promp or adam.
        max_kl: trust region of trpo, and the inner KL that promp aims at.
        damping: of trpo's Fisher matrix, multiple of the identity. A larger one holds theta where
            adapted policies are so sure that the trust region does not.
        cg_steps: conjugate-gradient steps of trpo. With few, the update stays among the directions
            that all tasks agree on; with many, it follows the noise of the batch.
        fisher_fraction: of the time steps that trpo's Fisher products see; 10 steps at least.
        lr: step size of Adam, for promp and adam.
        lr_decay: none, or cosine over the iterations: of lr to zero, under trpo of max_kl to a
            hundredth.
        epochs: of promp.
        clip: ratio bound of promp.
        discount: gamma.
        gae_lambda: lambda of the generalised advantage estimator.
        inner_gae_lambda: that of inner steps, gae_lambda by default; a small one has less noise.
        bootstrap_time_limit: value the state at the time limit instead of 0.
        best_reward: reward of a time step with nothing left to gain; each task's inner step is then
            as long as its mean reward is below it (Polyak's step size) instead of all alike.
        hidden: widths of the policy's hidden layers.
        activation: between them.
        init_std: standard deviation of the actions at the start.
        min_std: its floor.
        head_scale: multiplies the initial weights of the policy's last layer.
        later_lr_factors: step sizes beyond the trained steps, as multiples of the last trained one;
            the last of them serves all further steps.
        evaluation_lr: first step size in evaluations where --inner-steps 0 trained none; inner_lr
            by default.
        evaluation_steps: K of the evaluation.
        evaluation_episodes: per task before each step of the evaluation; episodes by default.
        log_every: iterations in a metrics record.
        validate_every: iterations between validations.
        patience: stop when validation has not improved for so many iterations; by default never.
        validation_tasks: fixed tasks of each validation.
    """

    metric: ClassVar[str] = "return"
    counts: ClassVar[tuple[str, ...]] = ("episodes",)
    held_out: ClassVar[dict[str, int]] = {"tasks": 200, "task_seed": 0}
    mends: ClassVar[dict[str, str]] = {
        "env.task_range": "; add --task-range LOW HIGH",
        "evaluation_episodes": "; add --episodes N",
    }

    env: EnvConfig = field(default_factory=EnvConfig)
    iterations: Annotated[int, Range(0, 10**9)] = 500
    meta_batch: Size = 40
    episodes: Size = 20
    inner_steps: Steps = 1
    inner_lr: Rate = 0.1
    learned_lr: Literal["no", "tensor", "element", "signal"] = "no"
    signal_after: Annotated[int, Range(0, 10**9)] = 0
    lr_per_step: bool = False
    first_order: bool = False
    adapted: Literal["all", "head"] = "all"
    inner_surrogate: Literal["loglik", "linear", "lvc", "dice"] = "loglik"
    sampling_correction: Literal["off", "emaml"] = "off"
    observe_task: bool = False
    update: Literal["trpo", "promp", "adam"] = "trpo"
    max_kl: Positive = 0.01
    damping: Annotated[float, Range(0, 1e6)] = 1e-5
    cg_steps: Annotated[int, Range(1, 1000)] = 10
    fisher_fraction: Annotated[float, Range(0, 1, above=True)] = 0.1
    lr: Positive = 1e-3
    lr_decay: Literal["none", "cosine"] = "none"
    epochs: Annotated[int, Range(1, 1000)] = 5
    clip: Annotated[float, Range(0, 1, above=True)] = 0.3
    discount: Fraction = 0.99
    gae_lambda: Fraction = 1.0
    inner_gae_lambda: Fraction | None = None
    bootstrap_time_limit: bool = False
    best_reward: Annotated[float, Range(-1e9, 1e9)] | None = None
    hidden: tuple[Annotated[int, Range(1, 10_000)], ...] = (100, 100)
    activation: Literal["relu", "tanh"] = "relu"
    init_std: Positive = 1.0
    min_std: Positive = 1e-6
    head_scale: Rate = 1.0
    later_lr_factors: tuple[Rate, ...] = (0.5,)
    evaluation_lr: Rate | None = None
    evaluation_steps: Steps = 3
    evaluation_episodes: Size | None = None
    log_every: Count = 1
    validate_every: Count = 25
    patience: Count | None = None
    validation_tasks: Size = 40

    def check_sizes(self) -> None:
        """Refuse sizes that ask for too much memory together (ValueError)."""
        sizes = {"episodes": self.episodes, "env__horizon": self.env.horizon}
        check_product(1e8, "time steps", meta_batch=self.meta_batch, **sizes)
        check_product(1e8, "time steps", validation_tasks=self.validation_tasks, **sizes)

    def task_settings(self, options: "EvaluateOptions") -> dict[str, Any]:
        """The environment, and its range of tasks where these are drawn from it."""
        env = self.env
        settings: dict[str, Any] = {
            "env.id": env.id,
            "env.physics": env.physics,
            "env.horizon": env.horizon,
            "env.sparse": env.sparse,
        }
        if options.task_range is None and options.task_seed != "paper":
            settings["env.task_range"] = env.task_range
        return settings

    def size_settings(self, options: "EvaluateOptions") -> dict[str, Any]:
        """Episodes of a task."""
        if options.episodes is not None:
            return {}
        return {"evaluation_episodes": self.evaluation_episodes or self.episodes}

    def unused(self) -> dict[str, str]:
        """What the meta-update does not read."""
        return dict.fromkeys(_UNUSED[self.update], f"--update {self.update}")

    def suspect(self) -> str | None:
        """An environment of the user's."""
        if self.env.id.startswith("metarl/"):
            return None
        return f"`metarl check {self.env.id}` finds what the environment lacks, if it does"


@dataclass(frozen=True)
class EvaluateOptions:
    """Protocol of the paper: its 40 goals, fresh rollouts (stochastic policy) before each step.

    Of a run with an --env.task-range of its own: 40 fresh tasks from that.

    Attributes:
        tasks: held-out tasks; all of the paper's by default, else 40.
        steps: gradient steps; the preset's evaluation_steps by default.
        episodes: per task before each step; the preset's by default.
        task_seed: paper for the paper's goals, or a number for fresh tasks from the test stream; by
            default paper, but 0 where the run or --task-range has another range than the paper, or
            the paper has no goals.
        task_range: low and high of the task distribution, for fresh tasks; the run's by default.
    """

    tasks: Size | None = None
    steps: Steps | None = None
    episodes: Size | None = None
    task_seed: int | Literal["paper"] | None = None
    task_range: tuple[float, float] | None = None

    def check_sizes(self) -> None:
        """Refuse sizes that ask for too much memory together (ValueError)."""
        check_product(1e6, "episodes", tasks=self.tasks or 40, episodes=self.episodes or 1)

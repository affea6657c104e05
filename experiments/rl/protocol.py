"""The protocol of evaluating policies: which tasks, how many steps and episodes, what is told."""

from collections.abc import Callable
from typing import Any

import numpy as np

import metarl
from metarl.errors import InputError
from metarl.rl.collect import Collected

from ..configs.rl import Config, EnvConfig, EvaluateOptions
from ..family import Evaluation
from .environments import paper_tasks

Task = dict[str, Any]
TASKS = 40


def steps_and_episodes(config: Config, options: EvaluateOptions) -> tuple[int, int]:
    """Gradient steps, and episodes before each: what the options leave open, as the run says."""
    steps = config.evaluation_steps if options.steps is None else options.steps
    episodes = config.evaluation_episodes if options.episodes is None else options.episodes
    return steps, config.episodes if episodes is None else episodes


def test_tasks(
    env: EnvConfig,
    options: EvaluateOptions,
    sample: Callable[[int, np.random.Generator], list[Task]],
) -> tuple[list[Task], int | str]:
    """The tasks of an evaluation, and what they were drawn with.

    The paper's goals where the run learned on their distribution, unless the options say otherwise:
    a run with a range of its own is measured on tasks from that.

    Args:
        env: the run's environment.
        options: of the evaluation.
        sample: draws fresh tasks from the options' range.

    Raises:
        InputError: more of the paper's tasks than it has, from another range, or of none.
    """
    seed = _task_seed(env, options)
    if seed == "paper":
        return _paper_tasks(env, options), seed
    count = TASKS if options.tasks is None else options.tasks
    return sample(count, metarl.stream(int(seed), "test-tasks")), seed


def _task_seed(env: EnvConfig, options: EvaluateOptions) -> int | str:
    if options.task_seed is not None:
        return options.task_seed
    fresh = _task_range(env, options) is not None or paper_tasks(env) is None
    return 0 if fresh else "paper"


def _task_range(env: EnvConfig, options: EvaluateOptions) -> tuple[float, float] | None:
    """Where fresh tasks come from; None is the environment's own range."""
    return env.task_range if options.task_range is None else options.task_range


def _paper_tasks(env: EnvConfig, options: EvaluateOptions) -> list[Task]:
    paper = paper_tasks(env)
    if paper is None:
        raise InputError(f"--task-seed paper: the paper has no goals for {env.id}; give a number")
    if options.task_range is not None:
        raise InputError("--task-range: the paper's goals are fixed; give --task-seed a number")
    if options.tasks is not None and options.tasks > len(paper):
        raise InputError(
            f"--tasks {options.tasks}: the paper has {len(paper)} goals; add --task-seed 0"
        )
    return paper[: options.tasks]


def rollout_seed(drawn: int | str) -> int:
    """What keys the rollouts on tasks drawn so."""
    return metarl.seed_of(0 if drawn == "paper" else int(drawn), "test-rollouts")


def evaluation(
    env: EnvConfig,
    options: EvaluateOptions,
    tasks: list[Task],
    drawn: int | str,
    episodes: int,
    collected: Collected,
) -> Evaluation:
    """Returns after each step, with what they were measured on."""
    variants: dict[str, Any] = {
        "episodes": episodes,
        "physics": env.physics,
        "task": _columns(tasks),
        "env_steps": collected.env_steps,
        "invalid_episodes": collected.invalid_episodes,
    }
    task_range = _task_range(env, options)
    if drawn != "paper" and task_range is not None:
        variants["task_range"] = list(task_range)
    returns = collected.returns().cpu().double().numpy()
    return Evaluation("return", returns, variants, task_seed=drawn)


def _columns(tasks: list[Task]) -> dict[str, list[Any]]:
    """Each quantity of all tasks, for JSON: null where a task lacks it."""
    names = dict.fromkeys(name for task in tasks for name in task)
    return {str(name): [_plain(task.get(name)) for task in tasks] for name in names}


def _plain(value: Any) -> Any:
    """What JSON can hold of a user's value: its text where nothing else."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)

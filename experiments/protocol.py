"""The protocol of evaluating policies: which tasks, how many steps and episodes, what is told."""

from collections.abc import Callable
from typing import Any

import numpy as np

import metarl
from metarl.errors import InputError
from metarl.rl.collect import Collected

from .configs.rl import Config, EnvConfig, EvaluateOptions
from .environments import paper_tasks
from .family import Evaluation

Task = dict[str, Any]
TASKS = 40


def steps_and_episodes(config: Config, options: EvaluateOptions) -> tuple[int, int]:
    """Gradient steps, and episodes before each: what the options leave open, as the run says."""
    steps = config.evaluation_steps if options.steps is None else options.steps
    return steps, options.episodes or config.evaluation_episodes or config.episodes


def test_tasks(
    env: EnvConfig,
    options: EvaluateOptions,
    sample: Callable[[int, np.random.Generator], list[Task]],
) -> tuple[list[Task], int | str]:
    """The tasks of an evaluation, and what they were drawn with.

    Args:
        env: the run's environment.
        options: of the evaluation.
        sample: draws fresh tasks from the options' range.

    Raises:
        InputError: more of the paper's tasks than it has, or from another range.
    """
    paper = paper_tasks(env) if options.task_seed == "paper" else None
    if paper is not None:
        if options.task_range is not None:
            raise InputError("--task-range: the paper's goals are fixed; add --task-seed 0")
        if options.tasks is not None and options.tasks > len(paper):
            raise InputError(
                f"--tasks {options.tasks}: the paper has {len(paper)} goals; add --task-seed 0"
            )
        return paper[: options.tasks], "paper"
    seed = 0 if options.task_seed == "paper" else int(options.task_seed)
    return sample(options.tasks or TASKS, metarl.stream(seed, "test-tasks")), seed


def rollout_seed(drawn: int | str) -> int:
    """What keys the rollouts on tasks drawn so."""
    return metarl.seed_of(0 if drawn == "paper" else int(drawn), "test-rollouts")


def evaluation(
    env: EnvConfig, tasks: list[Task], drawn: int | str, episodes: int, collected: Collected
) -> Evaluation:
    """Returns after each step, with what they were measured on."""
    variants = {
        "episodes": episodes,
        "physics": env.physics,
        "task": {name: [_plain(task[name]) for task in tasks] for name in tasks[0]},
        "env_steps": collected.env_steps,
        "invalid_episodes": collected.invalid_episodes,
    }
    returns = collected.returns().double().cpu().numpy()
    return Evaluation("return", returns, variants, task_seed=drawn)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

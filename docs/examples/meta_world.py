"""Meta-World's tasks: reach, push and others with a goal that the policy does not see.

Meta-World pins an older MuJoCo than metarl's own environments take, so it needs an environment of
its own (metaworld 3.1.1 wants mujoco 3.3.0):

    python -m venv meta-world
    meta-world/bin/pip install metaworld torch tensorboard tyro rich matplotlib pillow
    meta-world/bin/pip install --no-deps PATH_OF_THE_CLONE_OF_METARL

Then, from the folder of this file:

    meta-world/bin/metarl train maml --env.id meta_world:ML1-reach-v0 --env.horizon 200

metarl's navigation, cheetah and ant are not for that environment. ``metarl check`` finds that the
first observation depends on the task: Meta-World's tasks say where things lie, too.
"""

from typing import Any

import gymnasium
import metaworld
import numpy as np


class GoalsOf(gymnasium.Env):
    """One manipulation, such as ``reach-v3``; a task is which of its goals is meant (ML1)."""

    def __init__(self, name: str, *, seed: int = 0) -> None:
        benchmark = metaworld.ML1(name, seed=seed)
        self.goals = benchmark.train_tasks
        self.env = benchmark.train_classes[name]()
        self.env.set_task(self.goals[0])
        self.observation_space, self.action_space = (
            self.env.observation_space,
            self.env.action_space,
        )
        self._task = {"goal_number": 0}

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Numbers of goals."""
        return [{"goal_number": int(i)} for i in rng.integers(len(self.goals), size=n)]

    @property
    def task(self) -> dict[str, Any]:
        return self._task

    @task.setter
    def task(self, task: dict[str, Any]) -> None:
        self._task = task
        self.env.set_task(self.goals[task["goal_number"]])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.env.reset(seed=seed)

    def step(self, action: np.ndarray) -> Any:
        return self.env.step(action)


for name in ("reach", "push", "pick-place"):
    gymnasium.register(f"ML1-{name}-v0", GoalsOf, kwargs={"name": f"{name}-v3"})

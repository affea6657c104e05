"""Collects episodes of many tasks at once, one batched policy call per time step."""

import math
import operator
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl.checks import check_counts
from metarl.errors import InputError
from metarl.mapping import autocast_active
from metarl.params import Params
from metarl.streams import seed_of
from metarl.threads import one_intra_op_thread

from . import vector
from .actions import action_map, check_actions
from .distributions import Distribution
from .mapped import Mapped, check_params, map_policy, one_by_one
from .noise import action_noise
from .rollout import Rollout, empty_rollout, map_rollout
from .spaces import check_alike, observation_length, trying
from .stepping import run_episodes, run_lanes
from .validity import Counts, whole_tasks

Env = VectorEnv[Any, Any, Any]


class Sampler:
    """Exactly ``episodes`` episodes of every task, from vector environments.

    Row ``task * episodes + episode`` is one episode. All rows run at once where the environments
    have room, else one group of rows after the other. Several vector environments run on a Python
    thread each, so that the physics of one overlaps the policy of the other: see
    `metarl.rl.make_halves`. All randomness comes from the seed of `collect`, whatever the
    number of threads. How rows are split matters only where it leaves padding, rows of the last
    group beyond the last task: below 4096 rows, the starts of native environments depend on the
    number of all rows, padding included.

    Args:
        envs: vector environments with ``AutoresetMode.DISABLED``, flat ``Box`` observations and
            ``Box`` or ``Discrete`` actions. They stay the caller's, to close and to reuse. A class
            of one's own has ``sample_tasks(n, rng)`` and ``set_attr("task", tasks)``, starts its
            rows otherwise for every seed, and takes ``options["reset_mask"]``.
        episodes: per task.
        horizon: most steps of an episode.
        timeout: seconds that a worker process may take for any answer.
        max_invalid: fraction of invalid episodes above which `collect` fails; it also fails when a
            task is left without any valid one.
        exact: give the policy one task at a time, so that its actions do not depend, to the bit,
            on how many there are. Slower.

    Raises:
        InputError: the environments do not fit, there is none or one twice, or a number is below 1.
    """

    def __init__(
        self,
        envs: Env | Sequence[Env],
        *,
        episodes: int,
        horizon: int,
        timeout: float = 60.0,
        max_invalid: float = 0.25,
        exact: bool = False,
    ) -> None:
        check_counts(episodes=episodes, horizon=horizon)
        given = [envs] if isinstance(envs, VectorEnv | gymnasium.Env | str) else list(envs)
        single = [env for env in given if not isinstance(env, VectorEnv)]
        if single:
            kind = "an id" if isinstance(single[0], str) else "a single environment"
            raise InputError(
                f"envs is {kind}: give vector environments, as gymnasium.make_vec makes them"
            )
        self.envs = given
        if not self.envs:
            raise InputError("envs is empty: a sampler needs one vector environment at least")
        if len({id(env.unwrapped) for env in self.envs}) < len(self.envs):
            raise InputError(
                "envs holds one vector environment twice: each is stepped on a thread of its own"
            )
        self.episodes, self.horizon = episodes, horizon
        self.timeout, self.max_invalid = timeout, max_invalid
        self.exact = exact
        self._tasks: list[vector.Task | None] = []
        self._block = (0, 0)
        for env in self.envs:
            vector.check_vector(env)
            if exact and env.num_envs % episodes:
                raise InputError(
                    f"{env.num_envs} environments hold no whole tasks of {episodes} episodes, "
                    "which exact results need: choose a multiple"
                )
        check_alike(self.envs)
        self._observation_dim = observation_length(self.envs[0].single_observation_space)
        self._to_env = action_map(self.envs[0].single_action_space)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[vector.Task]:
        """Draw ``n`` tasks from the environment's task distribution."""
        return vector.sample_tasks(self.envs[0], n, rng, timeout=self.timeout)

    def set_tasks(
        self, tasks: Sequence[vector.Task | None], *, block: tuple[int, int] | None = None
    ) -> None:
        """Choose the tasks of the collections to come; None is what the environments hold.

        Args:
            tasks: to be sampled here; all of them or none is None.
            block: ``(first, total)`` where these are part of ``total`` tasks, the others being
                sampled elsewhere: each then has the noise it would have if all were sampled here,
                as long as nowhere is padding.

        Raises:
            InputError: there is none, or some are None and some are not.
        """
        if not tasks:
            raise InputError("tasks is empty: give one at least")
        if 0 < sum(task is None for task in tasks) < len(tasks):
            raise InputError("some tasks are None: give all of them, or None for each")
        self._tasks = list(tasks)
        self._block = (0, len(self._tasks)) if block is None else block

    def collect(
        self, policy: nn.Module, params: Params, *, seed: int, mixed: int = 1
    ) -> tuple[Rollout, Counts]:
        """Sample every task's episodes with its own parameters.

        Args:
            policy: ``(..., observation) -> Gaussian`` or ``Categorical``.
            params: name -> ``(task, ...)``, as ``expand_params`` or an adaptation gives them.
            seed: keys all noise, of actions and of starting states.
            mixed: so many consecutive tasks will make one batch: any of them may be left without a
                valid episode, not all.

        Raises:
            InputError: parameters of another number of tasks than `set_tasks` was given, a
                policy that does not fit the environment's spaces, or ``torch.autocast``.
            NonFiniteError: parameters, an observation, an action or a reward is not finite, or too
                many episodes are invalid.
            WorkerError: a worker process does not answer.
        """
        if autocast_active():
            raise InputError(
                "the sampler acts on threads of its own, which do not see torch.autocast: call "
                "collect outside of it"
            )
        # Idle OpenMP threads spin after each operation and would take the physics' cores.
        with one_intra_op_thread():
            return self._collect(policy, {n: p.detach() for n, p in params.items()}, seed, mixed)

    def _collect(
        self, policy: nn.Module, params: Params, seed: int, mixed: int
    ) -> tuple[Rollout, Counts]:
        check_params(params, len(self._tasks))
        apply = map_policy(policy, params)
        apply = one_by_one(apply) if self.exact else apply
        firsts, total = self._groups()
        like = self._try(apply, params)
        out = empty_rollout(total, self.horizon, self._observation_dim, like)
        noise = action_noise(seed, out, self._block[0] * self.episodes)
        invalid = np.zeros(total, dtype=np.bool_)

        def run(lane: int, abandoned: Event) -> None:
            torch.set_num_threads(1)
            for first in firsts[lane :: len(self.envs)]:
                rows = slice(first, first + self.envs[lane].num_envs)
                start = self._reset(lane, first, total, seed)
                with torch.inference_mode():
                    invalid[rows] = run_episodes(
                        self.envs[lane],
                        start,
                        self._act(apply, params, rows),
                        noise[rows],
                        map_rollout(operator.itemgetter(rows), out),
                        to_env=self._to_env,
                        timeout=self.timeout,
                        abandoned=abandoned,
                    )

        run_lanes(run, len(self.envs))
        return whole_tasks(
            out,
            invalid,
            tasks=len(self._tasks),
            episodes=self.episodes,
            max_invalid=self.max_invalid,
            dtype=like[0].dtype,
            mixed=mixed,
        )

    def _try(self, apply: Mapped, params: Params) -> Distribution:
        """What the policy says to one observation, of zeros."""
        one = {name: p[:1] for name, p in params.items()}
        zeros = next(iter(one.values())).new_zeros(1, 1, self._observation_dim)
        with trying(self._observation_dim), torch.inference_mode():
            distribution = apply(one, zeros)
        check_actions(distribution, self.envs[0].single_action_space)
        return distribution

    def _groups(self) -> tuple[list[int], int]:
        """First rows of the groups, ``i`` running on environment ``i % len(envs)``; their end."""
        firsts, row = [], 0
        while row < len(self._tasks) * self.episodes:
            firsts.append(row)
            row += self.envs[(len(firsts) - 1) % len(self.envs)].num_envs
        return firsts, row

    def _task_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Task of each row; rows beyond the last task are padding and play its last."""
        tasks: NDArray[np.int64] = np.minimum(rows // self.episodes, len(self._tasks) - 1)
        return tasks

    def _reset(self, lane: int, first: int, total: int, seed: int) -> NDArray[Any]:
        env = self.envs[lane]
        tasks = self._task_of(np.arange(first, first + env.num_envs))
        # Each time: the environments are the caller's, who may have given them others since.
        vector.set_tasks(env, [self._tasks[i] for i in tasks], timeout=self.timeout)
        start = seed_of(seed, "reset")
        before, all_rows = (tasks * self.episodes for tasks in self._block)
        return vector.reset(
            env,
            seed=start,
            first=before + first,
            total=max(all_rows, before + total),
            timeout=self.timeout,
        )

    def _act(self, apply: Mapped, params: Params, rows: slice) -> Callable[[Tensor], Distribution]:
        """The policy of some rows, ``(row, feature) -> (row, action)``."""
        like = next(iter(params.values()))
        device, dtype = like.device, like.dtype
        if not self.exact and all(p.stride(0) == 0 for p in params.values()):
            # One value that all tasks see, as expand_params gives it: one task of all rows.
            group, own = rows.stop - rows.start, {name: p[:1] for name, p in params.items()}
        else:
            # The policy sees (task, episode) where these rows are whole tasks, else equal parts,
            # each within one task.
            group = math.gcd(self.episodes, rows.start, rows.stop)
            tasks = self._task_of(np.arange(rows.start, rows.stop, group))
            index = torch.from_numpy(tasks).to(device)
            own = {name: p[index] for name, p in params.items()}

        def act(observations: Tensor) -> Distribution:
            distribution = apply(
                own, observations.to(device, dtype).reshape(-1, group, self._observation_dim)
            )
            return type(distribution)(*(field.flatten(0, 1) for field in distribution))

        return act

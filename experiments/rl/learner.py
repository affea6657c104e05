"""Meta-policies: what one meta-iteration is, how it is validated and evaluated."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from gymnasium.vector import VectorEnv

import metarl
from metarl.distributed import ALONE, Ranks
from metarl.inner import adapting
from metarl.rl.collect import Collected, collect_meta_batch
from metarl.rl.loading import inner_loop, weighting
from metarl.rl.maml import meta_step
from metarl.rl.objectives import policy_objectives
from metarl.rl.sampler import Sampler

from ..configs.rl import Config, EvaluateOptions
from ..family import Evaluation, Metrics, State
from ..machine import Machine
from ..memory import Needs
from .contradictions import (
    check_options,
    check_range,
    warn_of_horizon,
    warn_of_options,
    warn_of_standing_still,
)
from .environments import make_policy, make_sampler, require_tasks, time_limit
from .memory import policy_needs
from .meta_update import meta_update
from .protocol import evaluation, rollout_seed, steps_and_episodes, test_tasks
from .step_sizes import measure_rates, unmeasured

VALIDATION_SEED = 0
Tasks = Sequence[dict[str, Any]]


def build(config: Config, machine: Machine, ranks: Ranks = ALONE) -> "PolicyLearner":
    """Learner of the configuration; nothing is compiled yet."""
    return PolicyLearner(config, machine, ranks)


class PolicyLearner:
    """The `Learner` of meta-policies; see `metarl_experiments.family`."""

    shown = ("return_before", "return_after")
    higher_is_better = True

    def __init__(self, config: Config, machine: Machine, ranks: Ranks = ALONE) -> None:
        check_options(config)
        self.config = config
        self.machine = machine
        self.mapping = machine.task_mapping
        self.sampler = functools.lru_cache(maxsize=2)(self._sampler)
        self.workers: VectorEnv[Any, Any, Any] | None = None
        # One policy on all tasks mixed plays a fresh task in every episode.
        self.mixed = config.episodes if config.inner_steps == 0 else 1
        self.ranks, self.rows = ranks, ranks.rows(config.meta_batch)
        own = self.rows.stop - self.rows.start
        # Tasks and episodes that are sampled here.
        self.sizes = (own * self.mixed, config.episodes // self.mixed)
        self.policy = self._policy(0)
        _, self.apply = metarl.from_module(self.policy)
        self.inner = replace(inner_loop(vars(config)), recompute=machine.recompute)
        self.objectives = policy_objectives(
            self.apply,
            self.inner,
            inner_surrogate=config.inner_surrogate,
            sampling_correction=config.sampling_correction,
            clip=config.clip,
        )
        self.weighting = weighting(vars(config))

    def _sampler(
        self, tasks: int, episodes: int, task_range: tuple[float, float] | None = None
    ) -> Sampler:
        env = self.config.env
        if task_range is not None:
            env = replace(env, task_range=task_range)
        sampler = make_sampler(
            env,
            tasks=tasks,
            episodes=episodes,
            observe_task=self.config.observe_task,
            threads=self.machine.threads,
            exact=self.machine.exact,
            workers=self.workers,
        )
        if env.workers:
            self.workers = sampler.envs[0]
        return sampler

    def _policy(self, seed: int) -> torch.nn.Module:
        generator = metarl.torch_stream(seed, "initial-weights")
        policy = make_policy(self.config, self.sampler(*self.sizes), generator)
        return policy.to(device=self.machine.device, dtype=self.machine.torch_dtype)

    def params(self, seed: int) -> metarl.Params:
        """Weights, and perhaps learned step sizes."""
        config = self.config
        params, _ = metarl.from_module(self._policy(seed))
        if config.learned_lr != "no":
            params |= metarl.learned_rates(
                {name: params[name] for name in adapting(params, self.inner)},
                config.inner_lr,
                per="tensor" if config.learned_lr == "tensor" else "element",
                steps=config.inner_steps if config.lr_per_step else None,
            )
        return params

    def init(self, seed: int) -> State:
        """Theta, and Adam where it is the meta-optimiser.

        Raises:
            InputError: the environment has no tasks.
        """
        sampler = self.sampler(*self.sizes)
        require_tasks(sampler)  # now, when there is no run directory yet
        if self.ranks.rank == 0:
            warn_of_options(self.config)
            warn_of_horizon(self.config.env, time_limit(sampler))
        params = self.params(seed)
        if self.config.update == "trpo":
            return State(params, None, {"seed": seed})
        optimizer = torch.optim.Adam(params.values(), lr=self.config.lr)
        return State(params, optimizer, {"seed": seed, "penalty": 5e-4})

    def needs(self, state: State) -> Needs:
        """Memory of an iteration, see `policy_needs`."""
        env = self.sampler(*self.sizes).envs[0]
        features = env.single_observation_space.shape
        assert features is not None
        own = self.rows.stop - self.rows.start
        return policy_needs(
            self.config,
            self.objectives,
            self.apply,
            state.params,
            tasks=own,
            features=features[0],
            mapping=self.mapping,
            threads=self.machine.threads,
        )

    def step(self, state: State, iteration: int) -> Metrics:
        """One meta-iteration: sample, adapt, sample, update."""
        seed = state.extra["seed"]
        sampler = self.sampler(*self.sizes)
        shared: dict[str, Any] = {
            "policy": self.policy,
            "objectives": self.objectives,
            "weighting": self.weighting,
            "mapping": self.mapping,
            "ranks": self.ranks,
        }
        rng = metarl.stream(seed, "train-tasks", iteration)
        collect = functools.partial(
            collect_meta_batch,
            sampler=sampler,
            tasks=sampler.sample_tasks(self.config.meta_batch * self.mixed, rng),
            inner_steps=self.config.inner_steps,
            seed=metarl.seed_of(seed, "train-rollouts", iteration),
            mixed=self.mixed,
            **shared,
        )
        update = functools.partial(
            meta_update,
            self.config,
            self.objectives,
            state,
            iteration,
            mapping=self.mapping,
            reduce=self.ranks.reducer(self.machine.exact),
        )
        theta, measured = state.params, 0
        measuring = self.config.signal_after if self.config.learned_lr == "signal" else -1
        if iteration < measuring:
            theta = unmeasured(theta, self.config.inner_lr)
        with self.ranks.own_tasks(self.rows):
            if iteration == measuring:
                measured = measure_rates(
                    state.params,
                    self.config.inner_lr,
                    sampler,
                    meta_batch=self.config.meta_batch,
                    seed=seed,
                    **shared,
                )
            moved, metrics = meta_step(
                theta,
                collect,
                update,
                objectives=self.objectives,
                mapping=self.mapping,
                ranks=self.ranks,
            )
        with torch.no_grad():
            for name, p in theta.items():
                if moved[name] is not p:
                    p.copy_(moved[name])
        metrics["env_steps"] += measured
        if self.ranks.rank == 0:
            warn_of_standing_still(self.config, metrics)
        return metrics

    def adapt(
        self,
        params: metarl.Params,
        sampler: Sampler,
        tasks: Tasks,
        steps: int,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> Collected:
        """Act, take a gradient step, act again, ``steps`` times; also beyond the trained steps."""
        config = self.config
        model, inner = metarl.extended_rates(
            params,
            inner_loop(vars(config), evaluating=True),
            trained_steps=config.inner_steps,
            steps=steps,
            factors=config.later_lr_factors,
        )
        return collect_meta_batch(
            model,
            policy=self.policy,
            objectives=self.objectives,
            sampler=sampler,
            tasks=tasks,
            inner=inner,
            inner_steps=steps,
            weighting=self.weighting,
            seed=seed,
            mapping=self.machine.mapping,
            ranks=ranks,
        )

    def validate(self, state: State) -> Metrics:
        """Returns before and after the trained number of steps, on fixed tasks."""
        config = self.config
        own = self.ranks.rows(config.validation_tasks)
        sampler = self.sampler(own.stop - own.start, config.episodes)
        rng = metarl.stream(VALIDATION_SEED, "validation-tasks")
        tasks = sampler.sample_tasks(config.validation_tasks, rng)
        seed = metarl.seed_of(VALIDATION_SEED, "validation-rollouts")
        found = self.adapt(state.params, sampler, tasks, config.inner_steps, seed, self.ranks)
        returns = self.ranks.gather(found.returns().T).T
        return {
            "return_before": float(returns[0].mean()),
            "return_after": float(returns[-1].mean()),
        }

    def test_tasks(self, options: EvaluateOptions) -> tuple[list[dict[str, Any]], int | str]:
        """The tasks of an evaluation, and what they were drawn with; see `protocol.test_tasks`."""
        check_range("--task-range", options.task_range)
        sampler = self.sampler(1, 1, options.task_range)
        return test_tasks(self.config.env, options, sampler.sample_tasks)

    def evaluate(self, params: metarl.Params, options: EvaluateOptions) -> Evaluation:
        """Adaptation curves by the paper's protocol, or on fresh tasks."""
        tasks, drawn = self.test_tasks(options)
        steps, episodes = steps_and_episodes(self.config, options)
        sampler = self.sampler(len(tasks), episodes)
        collected = self.adapt(params, sampler, tasks, steps, rollout_seed(drawn))
        return evaluation(self.config.env, options, tasks, drawn, episodes, collected)

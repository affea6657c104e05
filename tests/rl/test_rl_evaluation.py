"""Adaptation curves of policies: an independent reference, and what evaluating leaves alone."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.errors import InputError
from metarl.rl.distributions import log_prob
from metarl.rl.weighting import Weighting
from metarl_experiments.catalog import package_data
from metarl_experiments.configs.rl import Config, EnvConfig, EvaluateOptions
from metarl_experiments.machine import Machine
from metarl_experiments.rl.environments import paper_tasks
from metarl_experiments.rl.learner import VALIDATION_SEED, PolicyLearner
from metarl_experiments.rl.protocol import evaluation

DOUBLE = Machine("cpu", "float64", 1, "auto", "off")
SMALL = Config(
    EnvConfig("metarl/Navigation2D-v0", horizon=15),
    meta_batch=3,
    episodes=4,
    inner_lr=0.3,
    hidden=(8,),
    later_lr_factors=(0.5, 0.25),
)
# Whose goals each environment is measured on, written out.
GOALS = {
    "metarl/Navigation2D-v0": "navigation",
    "metarl/HalfCheetahVelocity-v0": "cheetah-velocity",
    "metarl/HalfCheetahDirection-v0": "cheetah-direction",
    "metarl/AntVelocity-v0": "ant-velocity",
    "metarl/AntDirection-v0": "ant-direction",
}
OPTIONS = EvaluateOptions(tasks=3, steps=4, episodes=5, task_seed=7)


def trained(config: Config, iterations: int = 2) -> tuple[PolicyLearner, Any]:
    learner = PolicyLearner(config, DOUBLE)
    state = learner.init(0)
    for i in range(iterations):
        learner.step(state, i)
    return learner, state


@pytest.mark.parametrize("env_id", GOALS)
def test_the_papers_goals_are_those_of_the_environment(env_id: str) -> None:
    tasks = paper_tasks(EnvConfig(env_id))
    assert tasks is not None
    ours = [np.asarray(next(iter(task.values()))).tolist() for task in tasks]
    assert ours == package_data("paper", "returns")[GOALS[env_id]]["goals"]


def detached(params: metarl.Params) -> metarl.Params:
    return {name: p.detach().clone() for name, p in params.items()}


def reference_curve(learner: PolicyLearner, params: metarl.Params) -> np.ndarray:
    """Act, one plain gradient step, act again: each task by autograd, rates by hand."""
    config, seed = learner.config, metarl.seed_of(7, "test-rollouts")
    tasks, _ = learner.test_tasks(OPTIONS)
    sampler = learner.sampler(3, 5)
    sampler.set_tasks(tasks)
    model, rates = metarl.split_rates(params)
    thetas, curve = [detached(model) for _ in tasks], []
    for k in range(5):
        batched = {n: torch.stack([theta[n] for theta in thetas]) for n in model}
        rollout, _ = sampler.collect(
            learner.policy, batched, seed=metarl.seed_of(seed, "rollout", k)
        )
        curve.append((rollout.rewards * rollout.mask).sum((1, 2)).numpy() / 5)
        weights = Weighting()(rollout)
        trained_steps = max(config.inner_steps, 1)
        factor = 1.0 if k < trained_steps else (0.5, 0.25, 0.25, 0.25)[k - trained_steps]
        for i, theta in enumerate(thetas):
            theta = {n: p.requires_grad_() for n, p in theta.items()}
            new = log_prob(learner.apply(theta, rollout.observations[i]), rollout.actions[i])
            loss = -(new * weights[i] * rollout.mask[i]).sum() / rollout.mask[i].sum()
            for (n, p), g in zip(
                theta.items(), torch.autograd.grad(loss, list(theta.values())), strict=True
            ):
                rate = rates.get(n, torch.tensor(config.evaluation_lr or config.inner_lr))
                thetas[i][n] = (p - factor * rate * g).detach()
    return np.stack(curve)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, inner_steps=2, learned_lr="element"),
        replace(SMALL, learned_lr="tensor", update="adam"),
        replace(SMALL, first_order=True),
        replace(SMALL, inner_steps=0),
        replace(SMALL, inner_steps=0, evaluation_lr=0.1),
    ],
    ids=["plain", "meta-sgd", "tensor", "first-order", "pretrained", "fine-tuned"],
)
def test_curve_equals_an_independent_reference(config: Config) -> None:
    learner, state = trained(config)
    params = detached(state.params)
    curve = learner.evaluate(params, OPTIONS).per_task
    assert curve.shape == (5, 3)
    reference = reference_curve(learner, params)
    np.testing.assert_allclose(curve, reference, rtol=1e-6)
    wrong = PolicyLearner(replace(config, later_lr_factors=(1.0,)), DOUBLE)
    assert not np.allclose(wrong.evaluate(params, OPTIONS).per_task, reference, rtol=1e-3)
    more = learner.evaluate(params, replace(OPTIONS, steps=6)).per_task
    np.testing.assert_array_equal(more[:5], curve)
    none = learner.evaluate(params, replace(OPTIONS, steps=0)).per_task
    np.testing.assert_array_equal(none, curve[:1])


def test_curve_begins_with_the_unadapted_policy() -> None:
    """Every task alone, theta itself acting."""
    learner, state = trained(SMALL)
    params = detached(state.params)
    curve = learner.evaluate(params, OPTIONS).per_task
    sampler = learner.sampler(3, 5)
    sampler.set_tasks(learner.test_tasks(OPTIONS)[0])
    seed = metarl.seed_of(metarl.seed_of(7, "test-rollouts"), "rollout", 0)
    rollout, _ = sampler.collect(learner.policy, metarl.expand_params(params, 3), seed=seed)
    returns = (rollout.rewards * rollout.mask).sum(-1).mean(-1)
    np.testing.assert_allclose(curve[0], returns, rtol=1e-12)


def test_evaluation_and_validation_change_nothing() -> None:
    learner, state = trained(replace(SMALL, update="promp"))
    before, extra = detached(state.params), dict(state.extra)
    moments = {k: v["exp_avg"].clone() for k, v in state.optimizer.state.items()}
    random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = learner.evaluate(state.params, OPTIONS).per_task
    assert learner.validate(state) == learner.validate(state)
    np.testing.assert_array_equal(learner.evaluate(state.params, OPTIONS).per_task, one)
    assert all(torch.equal(before[n], p) for n, p in state.params.items())
    assert all(torch.equal(v["exp_avg"], moments[k]) for k, v in state.optimizer.state.items())
    assert state.extra == extra
    assert torch.equal(random[0], torch.get_rng_state())
    assert (random[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_evaluating_between_iterations_changes_no_iteration() -> None:
    _, state = trained(SMALL, 2)
    other = PolicyLearner(SMALL, DOUBLE)
    again = other.init(0)
    other.step(again, 0)
    other.validate(again)
    other.evaluate(again.params, OPTIONS)
    other.step(again, 1)
    assert all(torch.equal(p, state.params[n]) for n, p in again.params.items())


def test_train_validation_and_test_tasks_are_disjoint() -> None:
    learner = PolicyLearner(SMALL, DOUBLE)
    sampler = learner.sampler(1, 1)
    drawn = [learner.test_tasks(replace(OPTIONS, tasks=200, task_seed=s))[0] for s in (0, 1)]
    for purpose, *index in (("train-tasks", 0), ("train-tasks", 1), ("validation-tasks",)):
        assert VALIDATION_SEED == 0
        drawn.append(sampler.sample_tasks(200, metarl.stream(0, purpose, *index)))  # type: ignore[arg-type]
    goals = np.concatenate([[task["goal"] for task in tasks] for tasks in drawn])
    assert len(np.unique(goals, axis=0)) == len(goals) == 1000
    seeds = [metarl.seed_of(0, f"{name}-rollouts") for name in ("train", "validation", "test")]
    assert len(set(seeds)) == 3


def test_protocols() -> None:
    learner, state = trained(SMALL, 0)
    paper = learner.evaluate(state.params, EvaluateOptions(steps=0, episodes=2))
    assert (paper.metric, paper.task_seed, paper.per_task.shape) == ("return", "paper", (1, 40))
    inside = replace(OPTIONS, task_range=(0.1, 0.2), steps=0)
    goals = np.array(learner.evaluate(state.params, inside).variants["task"]["goal"])
    assert goals.shape == (3, 2)
    for bad in (EvaluateOptions(tasks=41), EvaluateOptions(task_range=(0, 1), task_seed="paper")):
        with pytest.raises(InputError, match="--task-seed"):
            learner.evaluate(state.params, bad)


def test_tasks_come_from_the_range_that_was_trained_on() -> None:
    """Unless they are asked for, the paper's goals are no test of a run on another range."""

    def drawn(env: EnvConfig, **options: Any) -> tuple[int | str, int, float]:
        learner = PolicyLearner(replace(SMALL, env=env), DOUBLE)
        tasks, seed = learner.test_tasks(EvaluateOptions(**options))
        return seed, len(tasks), max(float(abs(task["goal"]).max()) for task in tasks)

    wide = replace(SMALL.env, task_range=(3.0, 4.0))
    assert drawn(SMALL.env)[:2] == ("paper", 40)
    assert drawn(SMALL.env)[2] < 0.5
    seed, count, farthest = drawn(wide)
    assert (seed, count) == (0, 40)
    assert 3 < farthest < 4
    assert drawn(wide, task_seed="paper") == drawn(SMALL.env)
    seed, count, farthest = drawn(SMALL.env, task_range=(8.0, 9.0), tasks=3)
    assert (seed, count) == (0, 3)
    assert 8 < farthest < 9
    assert drawn(wide, task_seed=5)[0] == 5
    goalless = PolicyLearner(replace(SMALL, env=EnvConfig("metarl/AntGoal-v0")), DOUBLE)
    with pytest.raises(InputError, match="--task-seed paper: the paper has no goals"):
        goalless.test_tasks(EvaluateOptions(task_seed="paper"))
    with pytest.raises(InputError, match="--task-range 5 1: low must be below high"):
        goalless.test_tasks(EvaluateOptions(task_range=(5.0, 1.0)))


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        ({"inner_steps": 0, "learned_lr": "tensor"}, "--learned-lr"),
        ({"inner_lr": 0.0, "learned_lr": "signal"}, "--inner-lr"),
        ({"signal_after": 1}, "--signal-after"),
        ({"inner_steps": 1, "evaluation_lr": 0.5}, "--evaluation-lr"),
        ({"lr_per_step": True}, "--lr-per-step"),
        ({"sampling_correction": "emaml", "inner_surrogate": "dice"}, "sampling_correction"),
        ({"sampling_correction": "emaml", "update": "promp"}, "--sampling-correction"),
        ({"later_lr_factors": ()}, "--later-lr-factors"),
        ({"init_std": 0.1, "min_std": 0.2}, "--min-std 0.2: is above --init-std 0.1"),
        ({"env": EnvConfig("CartPole-v1", sparse=True)}, "--env.sparse: is for"),
        ({"env": EnvConfig("nowhere:Task-v0")}, "--env.id nowhere:Task-v0"),
        ({"env": EnvConfig("metarl/Navigation2D-v0", workers=3)}, "--env.workers"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], naming: str) -> None:
    with pytest.raises(InputError, match=f"^{naming}"):
        PolicyLearner(replace(SMALL, **options), DOUBLE)


def test_tasks_of_any_kind_can_be_told() -> None:
    class Wind:
        def __repr__(self) -> str:
            return "Wind()"

    tasks: list[Any] = [
        {"mass": np.float32(0.5), "body": {"arms": np.arange(2), "legs": (np.int64(4), "long")}},
        {"wind": Wind(), "mass": None},
    ]
    collected: Any = SimpleNamespace(returns=lambda: torch.ones(2, 2), env_steps=1)
    collected.invalid_episodes = 0
    found = evaluation(SMALL.env, OPTIONS, tasks, 7, 5, collected).variants["task"]
    assert json.loads(json.dumps(found)) == {
        "mass": [0.5, None],
        "body": [{"arms": [0, 1], "legs": [4, "long"]}, None],
        "wind": [None, "Wind()"],
    }

"""Meta-policies: each option, seed and iteration arrives where it is used."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from meta_steps import walk
from spies import Call, recorded

from metarl import InnerLoop, step_moments, torch_stream
from metarl.rl import load
from metarl.rl.policies import CategoricalMLP, GaussianMLP
from metarl.rl.weighting import Weighting
from metarl.runs import open_run
from metarl_experiments.configs.rl import Config, EnvConfig, EvaluateOptions
from metarl_experiments.machine import Machine
from metarl_experiments.rl.environments import make_policy
from metarl_experiments.rl.learner import PolicyLearner
from metarl_experiments.rl.protocol import steps_and_episodes
from metarl_experiments.state import snapshot

MACHINE = Machine("cpu", "float32", 1, "auto", "off")
PLAIN = Config(
    EnvConfig("metarl/Navigation2D-v0", horizon=6),
    meta_batch=2,
    episodes=3,
    hidden=(5,),
    validation_tasks=2,
)
# Nothing that a policy, its objectives or its adaptation is made of is as by default.
UNLIKE = replace(
    PLAIN,
    inner_steps=2,
    inner_lr=0.2,
    learned_lr="element",
    lr_per_step=True,
    first_order=True,
    adapted="head",
    inner_surrogate="lvc",
    update="promp",
    clip=0.15,
    discount=0.9,
    gae_lambda=0.8,
    inner_gae_lambda=0.6,
    bootstrap_time_limit=True,
    best_reward=1.5,
    activation="tanh",
    init_std=0.5,
    min_std=0.25,
    head_scale=0.1,
    later_lr_factors=(0.75, 0.3),
    evaluation_steps=5,
    evaluation_episodes=7,
)
COLLECT = "metarl_experiments.rl.learner.collect_meta_batch"
WEIGHTING = Weighting(0.9, 0.8, True, inner_gae_lambda=0.6, best_reward=1.5)


def goals(calls: list[Call]) -> list[tuple[float, ...]]:
    """The first task's of each call."""
    return [tuple(call.options["tasks"][0]["goal"]) for call in calls]


@pytest.mark.parametrize(
    "other",
    [{}, {"update": "trpo", "inner_surrogate": "loglik", "sampling_correction": "emaml"}],
    ids=["promp", "emaml"],
)
def test_inner_loop_objectives_and_weights_are_as_configured(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(UNLIKE, **other)
    made = recorded(monkeypatch, "metarl_experiments.rl.learner.policy_objectives")
    learner = PolicyLearner(config, replace(MACHINE, recompute=True))
    assert replace(learner.inner, adapted=None) == InnerLoop(0.2, True, recompute=True)
    assert learner.weighting == WEIGHTING
    assert made[0].args == (learner.apply, learner.inner)
    assert made[0].options == {
        name: getattr(config, name) for name in ("inner_surrogate", "sampling_correction", "clip")
    }


def test_theta_is_the_seeds_with_rates_of_each_step_for_what_adapts() -> None:
    learner = PolicyLearner(UNLIKE, MACHINE)
    one, other = learner.params(1), learner.params(2)
    assert not torch.equal(one["mean.layers.0.weight"], other["mean.layers.0.weight"])
    rates = {name: p.shape for name, p in one.items() if name.startswith("inner_lr.")}
    assert rates == {
        f"inner_lr.{name}": (2, *one[name].shape)
        for name in ("mean.layers.1.weight", "mean.layers.1.bias", "log_std")
    }
    assert all(bool((one[name] == 0.2).all()) for name in rates)


@pytest.mark.parametrize("discrete", [False, True])
def test_policy_is_as_configured(discrete: bool) -> None:
    shared: Any = {"hidden": (5,), "activation": "tanh", "head_scale": 0.1}
    generators = (torch_stream(0, "weights") for _ in range(2))
    policy = make_policy(UNLIKE, walk(discrete=discrete).options["sampler"], next(generators))
    asked = (
        CategoricalMLP(2, 3, generator=next(generators), **shared)
        if discrete
        else GaussianMLP(2, 2, init_std=0.5, min_std=0.25, generator=next(generators), **shared)
    )
    observations = torch.linspace(-3, 3, 8).view(4, 2)
    for _ in range(2):
        for ours, theirs in zip(policy(observations), asked(observations), strict=True):
            assert torch.equal(ours, theirs)
        for module in (policy, asked):  # a standard deviation below its floor
            module.load_state_dict({name: p - 2 for name, p in module.state_dict().items()})


def test_environments_and_samplers_are_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    env = EnvConfig(PLAIN.env.id, "gym", 6, (0.1, 0.2), sparse=True)
    calls = recorded(monkeypatch, "metarl_experiments.rl.environments.make_halves")
    config = replace(PLAIN, env=env, observe_task=True)
    sampler = PolicyLearner(config, replace(MACHINE, exact=True)).sampler(4, 7, (0.3, 0.4))
    assert (sampler.episodes, sampler.horizon, sampler.exact) == (7, 6, True)
    shared = {"threads": 1, "physics": "gym", "horizon": 6, "observe_task": True, "sparse": True}
    of_training, of_evaluation = (call.options for call in calls)
    assert of_training == {**shared, "tasks": 2, "episodes": 3, "task_range": (0.1, 0.2)}
    assert of_evaluation == {**shared, "tasks": 4, "episodes": 7, "task_range": (0.3, 0.4)}


def test_an_iteration_takes_the_configured_steps_and_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = PolicyLearner(UNLIKE, MACHINE)
    calls = recorded(monkeypatch, COLLECT)
    updates = recorded(monkeypatch, "metarl_experiments.rl.learner.meta_update")
    learner.step(state := learner.init(0), 3)
    assert calls[0].options["inner_steps"] == 2
    assert updates[0].args[:4] == (UNLIKE, learner.objectives, state, 3)


def test_every_iteration_the_validation_and_the_test_draw_on_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = PolicyLearner(PLAIN, MACHINE)
    calls, state = recorded(monkeypatch, COLLECT), learner.init(0)
    for iteration in range(2):
        learner.step(state, iteration)
    learner.validate(state)
    learner.evaluate(state.params, EvaluateOptions(tasks=2, task_seed=0))
    # Mutants: the same tasks or noise in every iteration; validation on the tasks of the test.
    assert len(set(goals(calls))) == 4
    assert len({call.options["seed"] for call in calls}) == 4


def test_each_seed_trains_on_tasks_of_its_own_and_validates_on_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = PolicyLearner(PLAIN, MACHINE)
    calls = recorded(monkeypatch, COLLECT)
    states = [learner.init(seed) for seed in (0, 1)]
    for state in states:
        learner.step(state, 0)
    assert len(set(goals(calls))) == 2
    assert len({call.options["seed"] for call in calls}) == 2
    states[1].params = states[0].params
    assert learner.validate(states[0]) == learner.validate(states[1])


def test_validation_is_of_the_configured_tasks_episodes_and_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(PLAIN, inner_steps=2, validation_tasks=3, episodes=4)
    learner = PolicyLearner(config, MACHINE)
    calls = recorded(monkeypatch, COLLECT)
    learner.validate(learner.init(0))
    (call,) = calls
    assert call.options["inner_steps"] == 2
    assert len(call.options["tasks"]) == 3
    assert call.options["sampler"].episodes == 4


def test_one_policy_for_all_plays_a_task_an_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = PolicyLearner(replace(PLAIN, inner_steps=0), MACHINE)
    calls = recorded(monkeypatch, COLLECT)
    learner.step(learner.init(0), 0)
    assert len({tuple(task["goal"]) for task in calls[0].options["tasks"]}) == 2 * 3
    assert (calls[0].options["mixed"], calls[0].options["sampler"].episodes) == (3, 1)


def test_validation_tells_the_first_and_the_last_return(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = PolicyLearner(PLAIN, MACHINE)
    returns = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    monkeypatch.setattr(learner, "adapt", lambda *_: SimpleNamespace(returns=lambda: returns))
    found = learner.validate(learner.init(0))
    assert found == {"return_before": 1.5, "return_after": 150.0}


def test_step_sizes_are_measured_twice_on_tasks_of_each_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("metarl_experiments.rl.step_sizes.BATCHES", 2)
    calls = recorded(monkeypatch, "metarl_experiments.rl.step_sizes.adapt_by_acting")
    learner = PolicyLearner(replace(PLAIN, learned_lr="signal"), MACHINE)
    learner.step(learner.init(0), 0)
    first, again, second, once_more = goals(calls)
    assert first == again != second == once_more
    # Mutant: both steps of a task on the same episodes, whose noise then seems to be signal.
    assert len({call.options["seed"] for call in calls}) == 4


def test_step_sizes_are_those_of_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl_experiments.rl.step_sizes.BATCHES", 3)
    seen = []
    moments = step_moments

    def watched(one: Any, other: Any) -> Any:
        seen.append(moments(one, other))
        return seen[-1]

    monkeypatch.setattr("metarl.step_moments", watched)
    given = recorded(monkeypatch, "metarl.signal_rates")
    learner = PolicyLearner(replace(PLAIN, learned_lr="signal"), MACHINE)
    learner.step(learner.init(0), 0)
    for kind in (0, 1):
        for name, mean in given[0].args[kind].items():
            each = torch.stack([batch[kind][name] for batch in seen])
            assert len(each) == 3
            assert torch.allclose(mean, each.mean(0), rtol=1e-6)


def test_options_of_an_evaluation_come_before_the_runs() -> None:
    assert steps_and_episodes(UNLIKE, EvaluateOptions()) == (5, 7)
    assert steps_and_episodes(UNLIKE, EvaluateOptions(steps=0, episodes=9)) == (0, 9)
    assert steps_and_episodes(replace(UNLIKE, evaluation_episodes=None), EvaluateOptions())[1] == 3


def test_loaded_policy_adapts_as_the_run_was_configured(tmp_path: Path) -> None:
    state = PolicyLearner(UNLIKE, MACHINE).init(0)
    with open_run(tmp_path / "run", {"config": asdict(UNLIKE)}) as run:
        run.save(snapshot(state, 0, {}))
    policy = load(tmp_path / "run")
    assert policy.weighting == WEIGHTING
    assert replace(policy.inner, adapted=None) == InnerLoop(0.2, True)
    assert (policy.inner_steps, policy.later_lr_factors) == (2, (0.75, 0.3))
    assert (policy.inner_surrogate, policy.episodes, policy.horizon) == ("lvc", 7, 6)

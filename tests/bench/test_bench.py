"""Every bench of policies on sizes that take no time, and the alternatives that they time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import flat, rel

from metarl.objective import mean_over_tasks
from metarl.params import expand_params
from metarl_experiments.bench import memory
from metarl_experiments.bench.fisher import fisher_bench
from metarl_experiments.bench.memory import measure, memory_bench
from metarl_experiments.bench.meta_gradient import meta_gradient_bench
from metarl_experiments.bench.meta_iteration import PARTS, meta_iteration_bench
from metarl_experiments.bench.meta_iteration_gym import GYM, meta_iteration_gym_bench
from metarl_experiments.bench.navigation import navigation_bench
from metarl_experiments.bench.parts.loop import loop_objective
from metarl_experiments.bench.parts.physics import played_controls, raw_physics
from metarl_experiments.bench.parts.products import operations_of, products
from metarl_experiments.bench.parts.timing import medians, on_threads
from metarl_experiments.bench.parts.update import CHEETAH, NAVIGATION, prepare
from metarl_experiments.bench.sampler import sampler_bench
from metarl_experiments.configs.rl import Config
from metarl_experiments.machine import Machine
from metarl_experiments.rl.learner import PolicyLearner

EAGER = Machine(device="cpu", compile="off")


def tiny(config: Config) -> Config:
    env = replace(config.env, horizon=12)
    return replace(config, env=env, meta_batch=2, episodes=2, hidden=(8, 8))


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sane(results: dict[str, float], *names: str) -> None:
    assert set(names) <= set(results)
    assert all(math.isfinite(x) for x in results.values())
    assert all(results[name] > 0 for name in names)


def test_meta_gradient() -> None:
    results = meta_gradient_bench(1, tiny(CHEETAH), EAGER)
    ratios = ("mm/gradient", "vmap/gradient", "loop/gradient", "first-order/exact")
    sane(results, "milliseconds", *ratios)


def test_fisher() -> None:
    results = fisher_bench(1, tiny(CHEETAH), EAGER)
    sane(results, "milliseconds", "fisher/gradient", "first-order/exact")


def test_meta_iteration() -> None:
    results = meta_iteration_bench(1, tiny(CHEETAH), EAGER)
    sane(results, "seconds", "iteration/physics", "sample", "gradient")
    assert set(PARTS) < set(results)
    sane(meta_iteration_gym_bench(1, tiny(GYM), EAGER), "seconds", "iteration/physics")


def test_navigation() -> None:
    sane(navigation_bench(1, tiny(NAVIGATION), EAGER), "seconds", "loop/update")


def test_sampler() -> None:
    results = sampler_bench(1, tasks=2, episodes=2, steps={"paper": 3, "gym": 3}, sync_steps=2)
    sane(results, "paper/raw", "gym/raw", "gym/sync")


def test_physics_alone_has_the_controls_that_were_played() -> None:
    learner = PolicyLearner(tiny(CHEETAH), EAGER)
    sampler = learner.sampler(*learner.sizes)
    sampler.set_tasks(sampler.sample_tasks(2, np.random.default_rng(0)))
    theta = expand_params(learner.init(0).params, 2)
    controls = played_controls(sampler, learner.policy, theta, collections=2)
    assert controls.shape == (2, 2 * 2, 12, 6)  # collection, task and episode, time, actuator
    again = sampler.collect(learner.policy, theta, seed=1)[0].actions
    assert np.array_equal(controls[1], again.flatten(0, 1).clamp(-1, 1))
    assert abs(controls).max() == 1 < abs(again).max()
    env = learner.config.env
    assert raw_physics(env.id, env.physics, controls, cores=1)() == 2 * 4 * 12


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tiny(CHEETAH)
    changes = {name: getattr(small, name) for name in ("env", "episodes", "hidden")}
    held = torch.zeros(50_000_000)  # touched, and given back before the measurement
    del held
    assert -0.05 < measure(2, EAGER, **changes) < 1
    monkeypatch.setattr(memory.sys, "executable", "echo")
    monkeypatch.setattr(memory.subprocess, "run", _answering(iter(("0.5", "0.7"))))
    assert memory_bench(2, tasks=(40,)) == {"gigabytes-40": 0.7}


def _answering(answers: object) -> object:
    import subprocess

    def run(command: list[str], **_: object) -> object:
        return subprocess.CompletedProcess(command, 0, next(answers), "")  # type: ignore[call-overload]

    return run


@pytest.mark.parametrize("config", [CHEETAH, NAVIGATION])
def test_the_loop_computes_the_same(config: Config) -> None:
    learner, theta, data, few = prepare(tiny(config), EAGER)
    objectives = learner.objectives
    ours = mean_over_tasks(objectives.surrogate, data)
    theirs = loop_objective(learner, data, few)
    sampled = mean_over_tasks(objectives.surrogate, few, fisher=objectives.fisher)
    *values, gradient = ours.gradient(theta)
    *loop_values, loop_gradient = theirs.gradient(theta)
    assert rel(flat(loop_gradient), flat(gradient)) < 1e-4
    for a, b in zip(
        (*values, *ours.value(theta)), (*loop_values, *theirs.value(theta)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    fisher = flat(sampled.fisher(theta, gradient))
    assert rel(flat(theirs.fisher(theta, gradient)), fisher) < 1e-4
    # Mutants: another step size inside, and products on all time steps.
    other = type(learner)(replace(learner.config, inner_lr=0.3), learner.machine)
    assert rel(flat(loop_objective(other, data, few).gradient(theta)[2]), flat(gradient)) > 1e-2
    whole = loop_objective(learner, data, data)
    assert rel(flat(whole.fisher(theta, gradient)), fisher) > 1e-2


def test_operations_and_peaks_are_counted() -> None:
    x, w = torch.randn(7, 5), torch.randn(5, 3)
    assert operations_of(lambda: x @ w) == 2 * 7 * 5 * 3
    for run, operations in products(7, 5).values():
        assert operations_of(run) in (operations, 0)  # what is not torch's own is not counted


def test_medians_leave_the_first_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((0, 10, 12, 20, 24, 30, 39))  # beginnings, and ends of all calls but the first
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    calls: list[int] = []
    assert medians({"run": lambda: calls.append(1)}, 3) == {"run": 4}
    assert len(calls) == 4


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    assert on_threads(torch.get_num_threads, 1)() == 1
    assert torch.get_num_threads() == before


def test_presets_of_the_benches_are_the_papers() -> None:
    assert (CHEETAH.inner_lr, NAVIGATION.inner_lr) == (0.1, 0.5)
    assert not CHEETAH.first_order
    assert not NAVIGATION.first_order
    assert (CHEETAH.meta_batch, CHEETAH.episodes, CHEETAH.env.horizon) == (40, 20, 200)
    assert (NAVIGATION.meta_batch, NAVIGATION.episodes, NAVIGATION.env.horizon) == (20, 20, 100)
    assert CHEETAH.hidden == (100, 100)

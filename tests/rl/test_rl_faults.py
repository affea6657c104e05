"""Non-finite numbers in a meta-iteration of policies: named, and theta as it was."""

import copy
import pickle
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from meta_steps import Setting, updated, walk
from walkers import Walker

from metarl import InnerLoop
from metarl.errors import NonFiniteError
from metarl.rl import maml, objectives
from metarl.rl.clock import Clock
from metarl.rl.collect import collect_meta_batch
from metarl.rl.updates import promp_update, require_usable
from metarl.rl.weighting import Weighting

F32 = torch.float32
NAN, INF = float("nan"), float("inf")
UPDATES = ("trpo", "adam", "promp")


def caught(setting: Setting, name: str = "trpo") -> NonFiniteError:
    """The error of one meta-iteration, which left theta and the optimiser as they were."""
    update, optimizer = updated(setting, name)
    before = {n: p.detach().clone() for n, p in setting.theta.items()}
    with pytest.raises(NonFiniteError) as error:
        setting.step(update)
    for n, p in setting.theta.items():
        assert torch.equal(p.nan_to_num(), before[n].nan_to_num()), n
    assert optimizer is None or not optimizer.state
    return error.value


def faulty(where: str, value: float, task: int) -> list[dict[str, Any]]:
    tasks = Walker.sample_tasks(3, np.random.default_rng(0))
    tasks[task] = {**tasks[task], "fault": (1, where, value)}
    return tasks


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e300])
@pytest.mark.parametrize("where", ["observation", "reward"])
@pytest.mark.parametrize("task", [0, 2])
def test_from_the_environment(where: str, value: float, task: int) -> None:
    error = caught(walk(faulty(where, value, task), dtype=F32))
    assert (error.place, error.task) == (where, task)
    assert error.batch


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["log_std", "mean.layers.0.weight"])
def test_parameters(name: str, value: float) -> None:
    setting = walk(dtype=F32)
    with torch.no_grad():
        setting.theta[name].view(-1)[0] = value
    assert caught(setting).place == f"parameter {name}"


@pytest.mark.parametrize(("name", "value"), [("log_std", 1e30), ("mean.layers.1.weight", 3e38)])
def test_action(name: str, value: float) -> None:
    setting = walk(dtype=F32)
    with torch.no_grad():
        setting.theta[name].fill_(value)
        setting.theta["mean.layers.0.bias"].fill_(9.0)
    error = caught(setting)
    assert (error.place, error.task) == ("action", 0)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("inner_steps", [1, 2])
def test_inner_gradient(optimizer: Any, inner_steps: int) -> None:
    """One task's rewards are so large that its step is not finite."""
    setting = walk(
        faulty("reward", 1e30, 2),
        inner=InnerLoop(1e10, optimizer=optimizer),
        inner_steps=inner_steps,
        weighting=Weighting(standardized=False, baseline="zero"),
        dtype=F32,
    )
    error = caught(setting)
    assert (error.place, error.task) == ("inner gradient", 2)
    assert {"0.observations", "0.actions", "0.weights", "0.mask"} == set(error.batch)


def test_advantage() -> None:
    """Each reward fits into float32, their sum does not."""
    tasks = [{"slope": 0.1}, {"slope": 1.2e38}]
    error = caught(walk(tasks, weighting=Weighting(discount=1.0, baseline="zero"), dtype=F32))
    assert (error.place, error.task) == ("advantage", 1)


@pytest.mark.parametrize("value", [NAN, INF])
def test_advantage_and_baseline_target(value: float) -> None:
    setting = walk(dtype=F32)
    rollout = collect_meta_batch(setting.theta, seed=0, clock=Clock(), **setting.options).rollouts[
        0
    ]
    rewards = rollout.rewards.clone()
    rewards[1, 0, 0] = value
    for baseline, place in (("zero", "advantage"), ("linear", "baseline")):
        with pytest.raises(NonFiniteError) as error:
            Weighting(baseline=baseline)(rollout._replace(rewards=rewards))  # type: ignore[arg-type]
        assert (error.value.place, error.value.task) == (place, 1)


def spoil(setting: Setting, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Weights of one step of the last task's query, after all checks of what was sampled."""
    real = maml.old_policy

    def old_policy(*args: Any, **kwargs: Any) -> Any:
        data = real(*args, **kwargs)
        data.query.weights[2, 0, 0] = value
        return data

    monkeypatch.setattr(maml, "old_policy", old_policy)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("value", [NAN, INF])
def test_loss_names_the_task(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = walk(dtype=F32)
    spoil(setting, monkeypatch, value)
    error = caught(setting, name)
    assert (error.place, error.task) == ("loss", 2)
    assert "1.weights" in error.batch


@pytest.mark.parametrize("name", UPDATES)
def test_outer_gradient_names_the_task(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large finite weight on a narrow policy: its loss is finite, its gradient is not."""
    setting = walk(dtype=F32, init_std=1e-6, inner=InnerLoop(1e-20))
    spoil(setting, monkeypatch, 1e36)
    error = caught(setting, name)
    assert error.place.startswith("outer gradient of ")
    assert error.task == 2


@pytest.mark.parametrize("name", UPDATES)
def test_kl(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = walk(dtype=F32)
    real = objectives.kl
    monkeypatch.setattr(objectives, "kl", lambda p, q: real(p, q) * NAN)
    error = caught(setting, name)
    assert (error.place, error.task) == ("KL", 0)


@pytest.mark.parametrize("earlier", [0, 1])
def test_late_epoch_of_promp_puts_theta_and_moments_back(
    earlier: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = walk(dtype=F32)
    update, optimizer = updated(setting, "promp")
    for _ in range(earlier):
        setting.step(update)
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    step = optimizer.step

    def overshoot() -> None:
        step()
        with torch.no_grad():
            setting.theta["mean.layers.0.bias"].fill_(NAN)

    monkeypatch.setattr(optimizer, "step", overshoot)
    before = {n: p.detach().clone() for n, p in setting.theta.items()}
    with pytest.raises(NonFiniteError):
        setting.step(update)
    assert all(torch.equal(p, before[n]) for n, p in setting.theta.items())
    after = optimizer.state_dict()["state"]
    assert len(after) == len(moments) == earlier * len(before)
    for i, own in moments.items():
        assert all(torch.equal(after[i][name], x) for name, x in own.items())


def test_errors_survive_pickling() -> None:
    error = NonFiniteError("x is not finite", place="x", task=3, batch={"x": np.ones(2)})
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.place, again.task) == ("x is not finite", "x", 3)
    assert again.batch["x"].tolist() == [1.0, 1.0]


def test_the_last_epoch_of_promp_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient follows it that would not be finite."""
    setting = walk(dtype=F32)
    update, optimizer = updated(setting, "promp")
    step, epochs, done = optimizer.step, signature(promp_update).parameters["epochs"].default, []

    def overshoot() -> None:
        step()
        done.append(1)
        if len(done) == epochs:
            with torch.no_grad():
                setting.theta["mean.layers.0.bias"].fill_(float("nan"))

    monkeypatch.setattr(optimizer, "step", overshoot)
    before = {name: p.detach().clone() for name, p in setting.theta.items()}
    with pytest.raises(NonFiniteError):
        setting.step(update)
    assert len(done) == epochs
    assert all(torch.equal(p, before[name]) for name, p in setting.theta.items())


def test_a_gradient_whose_square_overflows_is_none() -> None:
    with pytest.raises(NonFiniteError, match="outer gradient of w"):
        require_usable(torch.zeros(()), torch.zeros(()), {"w": torch.tensor([1e25])})

"""On one recorded batch an update does not depend on the number of torch's threads."""

from collections.abc import Iterator

import pytest
import torch
from oracles import flat, rel
from torch import Tensor

from metarl import mean_over_tasks, stream, torch_stream, trust_region
from metarl.params import Params
from metarl.rl.batches import subsample
from metarl.rl.old_policy import old_policy
from metarl.rl.updates import trpo_update
from metarl_experiments.configs.rl import Config, EnvConfig
from metarl_experiments.machine import Machine
from metarl_experiments.rl.learner import PolicyLearner

TOLERANCE = 1e-5  # of float32


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def updated(mapping: str) -> list[dict[str, Tensor]]:
    """Gradient, Fisher product and accepted step, as vectors, on one thread and on two."""
    config = Config(EnvConfig("metarl/Navigation2D-v0", horizon=50), 1, 4, 10, inner_lr=0.5)
    learner = PolicyLearner(config, Machine("cpu", "float32", 1, "auto", "off"))
    theta = {n: p.detach() for n, p in learner.init(0).params.items()}
    sampler = learner.sampler(*learner.sizes)
    tasks = sampler.sample_tasks(4, stream(0, "tasks"))
    data = learner.adapt(theta, sampler, tasks, 1, 0).data
    return [_of(learner, theta, data, mapping, threads) for threads in (1, 2)]


def _of(
    learner: PolicyLearner, theta: Params, data: object, mapping: str, threads: int
) -> dict[str, Tensor]:
    torch.set_num_threads(threads)
    objectives = learner.objectives
    old = old_policy(objectives, theta, data, mapping=mapping)  # type: ignore[arg-type]
    few = subsample(old, 0.1, torch_stream(0, "fisher"))
    whole = mean_over_tasks(objectives.surrogate, old, mapping=mapping)
    part = mean_over_tasks(objectives.surrogate, few, fisher=objectives.fisher, mapping=mapping)
    gradient = whole.gradient(theta)[2]
    moved, metrics = trpo_update(
        objectives,
        theta,
        old,
        max_kl=0.01,
        generator=torch_stream(0, "fisher"),
        fisher_fraction=0.1,
        mapping=mapping,
    )
    assert metrics["step_accepted"]
    step = {n: p - theta[n] for n, p in moved.items()}
    return {
        "gradient": flat(gradient),
        "product": flat(part.fisher(theta, gradient)),
        "step": flat(step),
    }


@pytest.mark.parametrize("mapping", ["vmap", "chunk:1", "threads"])
def test_threads_change_no_update(mapping: str) -> None:
    one, two = updated(mapping)
    assert {name: rel(two[name], x) < TOLERANCE for name, x in one.items()} == dict.fromkeys(
        ("gradient", "product", "step"), True
    ), {name: rel(two[name], x) for name, x in one.items()}


def test_vectors_of_single_precision_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def single(tree: Params, like: Params) -> Tensor:
        return torch.cat([tree[name].detach().reshape(-1) for name in like])

    monkeypatch.setattr(trust_region, "_flat", single)
    one, two = updated("vmap")
    assert rel(two["step"], one["step"]) > TOLERANCE

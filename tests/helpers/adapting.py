"""Made-up meta-batches of small policies, for exact checks of their objectives."""

from typing import Any, NamedTuple

import torch
from oracles import F64, draw
from torch import Tensor

from metarl import InnerLoop, from_module
from metarl.params import Params
from metarl.rl.batches import Batch, MetaBatch
from metarl.rl.distributions import Categorical, Gaussian
from metarl.rl.objectives import PolicyObjectives, policy_objectives
from metarl.rl.old_policy import own_policy
from metarl.rl.policies import CategoricalMLP, GaussianMLP
from metarl.streams import torch_stream

TASKS, EPISODES, HORIZON, OBS, ACT = 3, 4, 6, 2, 2


class Problem(NamedTuple):
    theta: Params
    inner: InnerLoop
    objectives: PolicyObjectives
    data: MetaBatch
    apply: Any


def _mask(seed: int) -> Tensor:
    lengths = torch.randint(1, HORIZON + 1, (TASKS, EPISODES), generator=torch_stream(seed, "len"))
    return (torch.arange(HORIZON) < lengths[..., None]).to(F64)


def _batch(discrete: bool, seed: int) -> Batch:
    shape = (TASKS, EPISODES, HORIZON)
    observations, mask = draw(*shape, OBS, seed=seed), _mask(seed)
    weights = draw(*shape, seed=seed + 1) * mask
    noise = draw(*shape, ACT, seed=seed + 2)
    if discrete:
        old: Any = Categorical(torch.zeros(*shape, ACT, dtype=F64))
        return Batch(observations, noise.argmax(-1), weights, mask, old)
    return Batch(observations, noise, weights, mask, Gaussian(0 * noise, 0 * noise))


def problem(
    *, discrete: bool = False, steps: int = 1, lr: float = 0.3, dtype: Any = F64, **options: Any
) -> Problem:
    """Random data, whose old policies are the objective's own; ``options`` are its."""
    generator = torch_stream(0, "weights")
    kind: Any = CategoricalMLP if discrete else GaussianMLP
    policy = kind(OBS, ACT, hidden=(3,), activation="tanh", generator=generator)
    theta, apply = from_module(policy, dtype=dtype)
    theta = {name: p.detach() + 0.1 * draw(*p.shape).to(dtype) for name, p in theta.items()}
    inner = InnerLoop(lr)
    objectives = policy_objectives(apply, inner, **options)
    supports = tuple(_batch(discrete, 10 * (k + 1)) for k in range(steps))
    data = MetaBatch(supports, _batch(discrete, 5), draw(TASKS))
    data = torch.utils._pytree.tree_map(lambda x: x.to(dtype) if x.is_floating_point() else x, data)
    return Problem(theta, inner, objectives, own_policy(objectives, theta, data), apply)

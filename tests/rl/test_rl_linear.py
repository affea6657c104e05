"""The surrogate that is linear in the policy's outputs, against exact expectations."""

import math

import numpy as np
import pytest
import torch
from oracles import F64, rel
from torch import Tensor

from metarl.errors import InputError
from metarl.inner import InnerLoop
from metarl.params import Params
from metarl.rl.batches import Batch
from metarl.rl.distributions import (
    Categorical,
    Distribution,
    Gaussian,
    kl,
    linear_log_prob,
    log_prob,
    sample,
)
from metarl.rl.objectives import policy_gradient_loss, policy_objectives
from metarl.rl.surrogates import InnerSurrogate

THETA = {"w": torch.tensor([0.4, -0.7, 0.3], dtype=F64)}
OBSERVATIONS = torch.tensor([[0.5], [-1.2]], dtype=F64)
BASE = torch.tensor([1.5, -0.4], dtype=F64)  # the weights' mean at each state
SLOPE = torch.tensor([0.8, -1.1], dtype=F64)  # how they grow with the action


def bent(params: Params, observations: Tensor) -> Gaussian:
    """Mean and deviation that are not linear in the parameters."""
    w = params["w"]
    mean = torch.sin(w[0] * observations) * w[1] + w[2] ** 2
    return Gaussian(mean, (w[0] * w[2] * torch.cos(observations)).expand_as(mean))


def expected(kind: InnerSurrogate, curvature: float = 0.0) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the expected surrogate, by Gauss-Hermite quadrature over actions."""
    nodes, masses = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(12))
    masses = masses / math.sqrt(2 * math.pi)
    observations = OBSERVATIONS[:, None].expand(2, 12, 1)
    old = Gaussian(*(x.detach() for x in bent(THETA, observations)))
    actions = old.mean + old.log_std.exp() * nodes[None, :, None]
    value = reward(actions[..., 0], curvature)
    batch = Batch(observations, actions, masses * value, torch.ones_like(value), old)
    loss = policy_gradient_loss(bent, kind=kind)
    return derivatives(lambda w: -value.numel() * loss({"w": w}, batch))


def reward(action: Tensor, curvature: float) -> Tensor:
    return BASE[:, None] + SLOPE[:, None] * action + 0.5 * curvature * action**2


def truth(curvature: float = 0.0) -> tuple[Tensor, Tensor]:
    """The same of the expected reward, in closed form."""

    def value(w: Tensor) -> Tensor:
        policy = bent({"w": w}, OBSERVATIONS)
        mean, variance = policy.mean[:, 0], (2 * policy.log_std[:, 0]).exp()
        return (BASE + SLOPE * mean + 0.5 * curvature * (mean**2 + variance)).sum()

    return derivatives(value)


def derivatives(fn: object) -> tuple[Tensor, Tensor]:
    w = THETA["w"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fn(w), w, create_graph=True)  # type: ignore[operator]
    rows = [torch.autograd.grad(x, w, retain_graph=True)[0] for x in gradient]
    return gradient.detach(), torch.stack(rows)


def test_exact_where_rewards_are_linear_in_actions() -> None:
    """Gradient and Hessian, whatever the reward's mean at a state; loglik's Hessian takes it in."""
    gradient, hessian = truth()
    found = expected("linear")
    assert rel(found[0], gradient) < 1e-12
    assert rel(found[1], hessian) < 1e-12
    mutant = expected("loglik")
    assert rel(mutant[0], gradient) < 1e-12
    assert rel(mutant[1], hessian) > 0.5


def test_curvature_of_rewards_is_left_out() -> None:
    """With a reward of curvature q the Hessian misses ``q J'J`` of the mean, no more and no less.

    The deviation enters by ``q/2 exp(2 log_std)``, whose second derivative in it is missed too.
    """
    q = -0.6
    gradient, hessian = truth(q)
    found = expected("linear", q)
    assert rel(found[0], gradient) < 1e-12
    missed = torch.zeros_like(hessian)
    for observation in OBSERVATIONS:
        policy = torch.func.jacrev(lambda w, o=observation: torch.cat(bent({"w": w}, o)))
        of_mean, of_log_std = policy(THETA["w"])
        variance = (2 * bent(THETA, observation).log_std).exp()
        missed += q * torch.outer(of_mean, of_mean)
        missed += 2 * q * variance * torch.outer(of_log_std, of_log_std)
    assert rel(found[1] + missed, hessian) < 1e-12
    assert rel(found[1], hessian) > 0.01


def distributions() -> list[tuple[Distribution, Distribution, Tensor]]:
    g = torch.Generator().manual_seed(0)
    fields = torch.randn(4, 5, 3, generator=g, dtype=F64)
    old, new = Gaussian(fields[0], fields[1]), Gaussian(fields[2], fields[3])
    one, other = Categorical(fields[0]), Categorical(fields[1])
    return [
        (old, new, sample(old, torch.randn(5, 3, generator=g, dtype=F64))),
        (one, other, sample(one, torch.rand(5, generator=g, dtype=F64))),
    ]


@pytest.mark.parametrize("case", [0, 1], ids=["gaussian", "categorical"])
def test_first_order_of_the_log_density(case: int) -> None:
    """The remainder shrinks with the square of the distance; nothing is left at the start."""
    old, new, action = distributions()[case]

    def between(step: float) -> Distribution:
        return type(old)(*(a + step * (b - a) for a, b in zip(old, new, strict=True)))

    def remainder(step: float) -> float:
        there = between(step)
        whole = log_prob(there, action) - log_prob(old, action)
        return float((whole - linear_log_prob(old, there, action)).abs().max())

    assert torch.equal(linear_log_prob(old, old, action), torch.zeros(5, dtype=F64))
    assert 3.9 < remainder(1e-3) / remainder(5e-4) < 4.1
    assert torch.allclose(
        linear_log_prob(old, between(1), action), 2 * linear_log_prob(old, between(0.5), action)
    )


def test_refuses_what_does_not_go_together() -> None:
    (gaussian, _, action), (categorical, _, _) = distributions()
    with pytest.raises(TypeError, match="Gaussian and Categorical"):
        linear_log_prob(gaussian, categorical, action)
    with pytest.raises(TypeError, match="Gaussian and Categorical"):
        kl(gaussian, categorical)
    with pytest.raises(InputError, match="linear"):
        policy_objectives(
            bent, InnerLoop(0.1), inner_surrogate="linear", sampling_correction="emaml"
        )

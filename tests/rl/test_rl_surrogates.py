from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from metarl.rl import surrogates

S, A = 3, 2


class Enumeration(NamedTuple):
    """All trajectories of a tabular MDP; the probability is without the policy's factors."""

    states: Tensor  # (trajectory, time)
    actions: Tensor  # (trajectory, time)
    rewards: Tensor  # (trajectory, time)
    dynamics: Tensor  # (trajectory,)
    theta: Tensor  # (state, action), the softmax policy's parameters


def _enumerate(horizon: int, seed: int) -> Enumeration:
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(S, generator=g, dtype=torch.float64)
    transition = torch.rand(S, A, S, generator=g, dtype=torch.float64)
    reward = torch.randn(S, A, generator=g, dtype=torch.float64)
    theta = torch.randn(S, A, generator=g, dtype=torch.float64)
    start, transition = start / start.sum(), transition / transition.sum(-1, keepdim=True)
    paths = torch.tensor(list(product(range(S), range(A), repeat=horizon)))
    states, actions = paths[:, ::2], paths[:, 1::2]
    dynamics = start[states[:, 0]]
    for t in range(horizon - 1):
        dynamics = dynamics * transition[states[:, t], actions[:, t], states[:, t + 1]]
    return Enumeration(states, actions, reward[states, actions], dynamics, theta)


def _log_probs(mdp: Enumeration, theta: Tensor) -> Tensor:
    return torch.log_softmax(theta, -1)[mdp.states, mdp.actions]


def _value(mdp: Enumeration, theta: Tensor) -> Tensor:
    probability = mdp.dynamics * _log_probs(mdp, theta).sum(-1).exp()
    return (probability * mdp.rewards.sum(-1)).sum()


def _to_go(rewards: Tensor) -> Tensor:
    return rewards.flip(-1).cumsum(-1).flip(-1)


def _errors(mdp: Enumeration, expected: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Relative errors of a surrogate's expected gradient and Hessian against those of J."""

    def derivatives(fn: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        theta = mdp.theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(fn(theta), theta, create_graph=True)
        rows = [torch.autograd.grad(x, theta, retain_graph=True)[0] for x in gradient.flatten()]
        return gradient.detach(), torch.stack(rows)

    found, true = derivatives(expected), derivatives(lambda theta: _value(mdp, theta))
    gradient, hessian = (float((a - b).norm() / b.norm()) for a, b in zip(found, true, strict=True))
    return gradient, hessian


def _expectation(mdp: Enumeration, kind: str, weights: Tensor) -> Callable[[Tensor], Tensor]:
    probability = mdp.dynamics * _log_probs(mdp, mdp.theta).sum(-1).exp()
    mask = torch.ones_like(weights)

    def expected(theta: Tensor) -> Tensor:
        log_probs, weighted = _log_probs(mdp, theta), probability[:, None] * weights
        mean = surrogates.inner_surrogate(kind, log_probs, weighted, mask)  # type: ignore[arg-type]
        return mean * mask.sum()

    return expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_expected_derivatives_on_an_enumerated_mdp(horizon: int, seed: int) -> None:
    """Each label stays true: what is exact is exact, what is not is visibly not."""
    mdp = _enumerate(horizon, seed)
    weights = _to_go(mdp.rewards)
    errors = {
        kind: _errors(mdp, _expectation(mdp, kind, weights)) for kind in ("loglik", "lvc", "dice")
    }
    assert all(gradient < 1e-12 for gradient, _ in errors.values())
    assert errors["dice"][1] < 1e-12
    assert errors["loglik"][1] > 0.3
    if horizon == 1:
        assert errors["lvc"][1] < 1e-12
    else:
        assert errors["lvc"][1] > 0.02


@pytest.mark.parametrize("seed", range(5))
def test_dice_stays_exact_with_a_value_function(seed: int) -> None:
    mdp = _enumerate(3, seed)
    value = torch.randn(S, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = _to_go(mdp.rewards) - value[mdp.states]
    assert max(_errors(mdp, _expectation(mdp, "dice", weights))) < 1e-12


def test_increments_of_returns_are_the_rewards() -> None:
    rewards = torch.randn(4, 6, dtype=torch.float64)
    mask = (torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]).double()
    weights = _to_go(rewards * mask)
    assert torch.allclose(surrogates.increments(weights, mask), rewards * mask, atol=1e-12)


@pytest.mark.parametrize("kind", ["loglik", "lvc", "dice"])
def test_masked_steps_count_for_nothing(kind: surrogates.InnerSurrogate) -> None:
    g = torch.Generator().manual_seed(0)
    log_probs, weights = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    log_probs.requires_grad_()
    mask = (torch.arange(5) < torch.tensor([5, 2, 0])[:, None]).double()

    def gradient(weights: Tensor) -> Tensor:
        value = surrogates.inner_surrogate(kind, log_probs, weights, mask)
        return torch.autograd.grad(value, log_probs)[0]

    mean = gradient(weights)
    # At the sampling policy all three have the gradient of the log-likelihood.
    assert torch.allclose(mean, weights * mask / 7, atol=1e-12)
    assert torch.equal(gradient(weights + 100 * (1 - mask)), mean)


def test_no_valid_step_gives_zero() -> None:
    zeros = torch.zeros(2, 3)
    for kind in ("loglik", "lvc", "dice"):
        value = surrogates.inner_surrogate(
            kind,  # type: ignore[arg-type]
            zeros - 1,
            zeros + 2,
            zeros,
        )
        assert value == 0


def test_ratio_surrogates() -> None:
    g = torch.Generator().manual_seed(0)
    old, change, weights = torch.randn(3, 4, 5, generator=g, dtype=torch.float64)
    mask = (torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]).double()
    r = change.exp()
    plain = (r * weights * mask).sum() / 13
    assert torch.allclose(surrogates.ratio(old + change, old, weights, mask), plain)
    bounded = surrogates.clipped_ratio(old + change, old, weights, mask, clip=0.2)
    by_hand = 0.0
    for i, t in product(range(4), range(5)):
        clipped = min(max(r[i, t], torch.tensor(0.8)), torch.tensor(1.2))
        by_hand += mask[i, t] * min(r[i, t] * weights[i, t], clipped * weights[i, t]) / 13
    assert torch.allclose(bounded, by_hand)
    assert bounded <= plain
    at_old = surrogates.clipped_ratio(old, old, weights, mask, clip=0.2)
    assert torch.equal(at_old, surrogates.ratio(old, old, weights, mask))


def test_score_and_leave_one_out() -> None:
    log_probs, mask = torch.arange(6.0).reshape(2, 3), torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    assert surrogates.score(log_probs, log_probs - 2, mask) == 2 + 2 + 2
    returns = torch.tensor([1.0, 2.0, 6.0])
    assert torch.allclose(surrogates.leave_one_out(returns), torch.tensor([-3.0, -1.5, 4.5]))
    assert torch.equal(surrogates.leave_one_out(torch.tensor([5.0])), torch.tensor([5.0]))


def test_steps_that_were_never_drawn_have_no_infinite_ratio() -> None:
    mask, weights = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 3.0]])
    old = torch.tensor([[0.0, -1000.0]])
    for surrogate in (surrogates.ratio, partial(surrogates.clipped_ratio, clip=0.3)):
        new = torch.zeros(1, 2, requires_grad=True)
        value = surrogate(new, old, weights, mask)
        assert value == 2
        (gradient,) = torch.autograd.grad(value, new)
        assert gradient.tolist() == [[2.0, 0.0]]

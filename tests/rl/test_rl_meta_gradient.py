"""Meta-gradients of policies on an enumerated decision process: what is exact, and what is not."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from oracles import rel
from tabular import (
    F64,
    Paths,
    SoftmaxPolicy,
    Tabular,
    enumerate_paths,
    one_hot,
    random_mdp,
    softmax_policy,
)
from torch import Tensor
from torch.utils._pytree import tree_map

from metarl import InnerLoop, mean_over_tasks
from metarl.errors import InputError
from metarl.params import Params
from metarl.rl.batches import Batch, MetaBatch
from metarl.rl.clock import Clock
from metarl.rl.collect import collect_meta_batch
from metarl.rl.distributions import Categorical
from metarl.rl.objectives import PolicyObjectives, policy_objectives
from metarl.rl.old_policy import own_policy
from metarl.rl.sampler import Sampler
from metarl.rl.weighting import Weighting

S = A = H = 2
ALPHA = 0.3
SEEDS = range(1, 5)


def problem(seed: int) -> tuple[Paths, Tensor]:
    logits = torch.randn(S, A, generator=torch.Generator().manual_seed(seed + 100), dtype=F64)
    return enumerate_paths(random_mdp(S, A, seed), H), logits


def gradient_of(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.func.grad(fn)(x)


def stacked(paths: Paths, weights: Tensor) -> Batch:
    """Every path an episode, for as many tasks as the weights (task, path, time) have."""
    tasks = len(weights)

    def each(x: Tensor) -> Tensor:
        return x.expand(tasks, *x.shape)

    states = one_hot(paths.states, S)
    return Batch(
        each(states),
        each(paths.actions),
        weights,
        torch.ones_like(weights),
        Categorical(torch.zeros(*weights.shape, A, dtype=F64)),
    )


def surrogate_gradient(objectives: PolicyObjectives, x: Tensor, data: MetaBatch) -> Tensor:
    """Of the sum over all steps; the objective is their mean."""
    theta = {"logits": x}
    data = own_policy(objectives, theta, data)
    steps = data.query.mask[0].numel()
    return -steps * mean_over_tasks(objectives.surrogate, data).gradient(theta)[2]["logits"]


def build(kind: str = "loglik", *, lr: float, **options: Any) -> PolicyObjectives:
    return policy_objectives(
        softmax_policy,
        InnerLoop(lr),
        inner_surrogate=kind,  # type: ignore[arg-type]
        **options,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_infinite_inner_batch(seed: int) -> None:
    """F(x) = J(x + alpha grad J(x)): DiCE is exact, the others carry their labelled error."""
    paths, x = problem(seed)

    def adapted(x: Tensor) -> Tensor:
        return x + ALPHA * gradient_of(paths.value, x)

    truth = gradient_of(lambda x: paths.value(adapted(x)), x)
    weights = paths.to_go()
    support = stacked(paths, (paths.probabilities(x)[:, None] * weights)[None])
    query = stacked(paths, (paths.probabilities(adapted(x))[:, None] * weights)[None])
    data = MetaBatch((support,), query)
    lr = ALPHA * weights.numel()  # of a mean over the support's steps, for their sum
    errors = {
        kind: rel(surrogate_gradient(build(kind, lr=lr), x, data), truth)
        for kind in ("loglik", "lvc", "dice")
    }
    assert errors["dice"] < 1e-12
    assert errors["loglik"] > 0.02
    assert errors["lvc"] > 0.001


def inner_gradient(paths: Paths, x: Tensor, batch: list[int]) -> Tensor:
    """g(D): mean over the batch's episodes of sum_t grad log pi_t times the return to go."""
    return gradient_of(
        lambda x: (paths.log_probs(x)[batch] * paths.to_go()[batch]).sum() / len(batch), x
    )


def batch_probability(paths: Paths, x: Tensor, batch: list[int]) -> Tensor:
    return paths.probabilities(x)[batch].prod()


def finite_batch_gradient(paths: Paths, x: Tensor, episodes: int) -> Tensor:
    """Of F(x) = E_{D ~ p_x^N} J(x + alpha g(D)), by enumeration of all D."""

    def f(x: Tensor) -> Tensor:
        return sum(  # type: ignore[return-value]
            batch_probability(paths, x, batch)
            * paths.value(x + ALPHA * inner_gradient(paths, x, batch))
            for batch in map(list, product(range(len(paths.dynamics)), repeat=episodes))
        )

    return gradient_of(f, x)


def finite_batches(paths: Paths, x: Tensor, episodes: int) -> MetaBatch:
    """Every batch D a task, with all weights times its probability and the number of batches."""
    batches = [list(b) for b in product(range(len(paths.dynamics)), repeat=episodes)]
    share = torch.stack([batch_probability(paths, x, b) for b in batches]) * len(batches)
    ends = [x + ALPHA * inner_gradient(paths, x, b) for b in batches]
    index = torch.tensor(batches)
    support = stacked(paths, paths.to_go().expand(len(batches), -1, -1))
    rows = torch.arange(len(batches))[:, None]
    support = Batch(
        support.observations[rows, index],
        support.actions[rows, index],
        support.weights[rows, index],
        support.mask[rows, index],
        Categorical(support.old[0][rows, index]),
    )
    query_weights = torch.stack([paths.probabilities(end) for end in ends])[..., None]
    query = stacked(paths, query_weights * paths.to_go() * share[:, None, None])
    # The query's weights hold the paths' probabilities, yet each path counts as an episode; the
    # constant taken off the returns is a baseline, which changes nothing.
    returns = torch.stack([paths.value(end) for end in ends]) - 0.7
    return MetaBatch((support,), query, returns * share / len(paths.dynamics))


@pytest.mark.parametrize(("episodes", "seed"), [*((1, seed) for seed in SEEDS), (2, 1), (2, 2)])
def test_finite_inner_batch(episodes: int, seed: int) -> None:
    """The log-likelihood with the sampling term is exact; each other combination is not."""
    paths, x = problem(seed)
    truth = finite_batch_gradient(paths, x, episodes)
    data = finite_batches(paths, x, episodes)
    lr = ALPHA * H  # of a mean over all steps, for the episodes' mean of sums
    found = {
        kind: surrogate_gradient(build(kind, lr=lr), x, data) for kind in ("loglik", "lvc", "dice")
    }
    corrected = surrogate_gradient(build(lr=lr, sampling_correction="emaml"), x, data)
    assert rel(corrected, truth) < 1e-12
    assert rel(found["loglik"], truth) > 0.02  # plain MAML, the reproduction default
    term = corrected - found["loglik"]
    for kind in ("lvc", "dice"):
        alone, both = rel(found[kind], truth), rel(found[kind] + term, truth)
        assert 0.001 < alone < 0.03
        assert both > max(alone, 0.02)  # mutant: the dependence counted twice


def bandit_batch(actions: Tensor, weights: Tensor) -> Batch:
    """One-step episodes ``(data set, episode)`` of a policy of logits without observations."""
    shape = (*actions.shape, 1)
    old = Categorical(torch.zeros(*shape, len(REWARDS), dtype=F64))
    ones = torch.ones(shape, dtype=F64)
    return Batch(ones[..., None], actions[..., None], weights[..., None], ones, old)


REWARDS = torch.tensor([1.0, -0.5, 0.3], dtype=F64)


def test_finite_inner_batches_of_two_steps() -> None:
    """A bandit of three arms, one pull a step: all nine data sets, each support under its own."""
    start, lr = torch.tensor([[0.2, -0.4, 0.1]], dtype=F64), 0.7
    count = len(REWARDS)

    def log_probs(x: Tensor) -> Tensor:
        return torch.log_softmax(x[0], -1)

    def value(x: Tensor) -> Tensor:
        return (log_probs(x).exp() * REWARDS).sum()

    def step(x: Tensor, arm: int) -> Tensor:
        return x + lr * torch.func.grad(lambda x: log_probs(x)[arm] * REWARDS[arm])(x)

    def expected(x: Tensor) -> Tensor:
        total = torch.zeros((), dtype=F64)
        for one, two in product(range(count), repeat=2):
            middle = step(x, one)
            chance = log_probs(x)[one].exp() * log_probs(middle)[two].exp()
            total = total + chance * value(step(middle, two))
        return total

    arms = torch.tensor(list(product(range(count), repeat=2)))  # (data set, step)
    shares, ends = [], []
    for one, two in arms.tolist():
        middle = step(start, one)
        chance = log_probs(start)[one].exp() * log_probs(middle)[two].exp()
        shares.append(chance * len(arms))
        ends.append(step(middle, two))
    share = torch.stack(shares)
    supports = tuple(bandit_batch(arms[:, k : k + 1], REWARDS[arms[:, k : k + 1]]) for k in (0, 1))
    query = bandit_batch(
        torch.arange(count).expand(len(arms), -1),
        torch.stack([log_probs(end).exp() for end in ends]) * REWARDS * share[:, None],
    )
    returns = torch.stack([value(end) for end in ends])
    data = MetaBatch(supports, query, returns * share / count)

    def found(correction: Any) -> Tensor:
        def apply(params: Params, observations: Tensor) -> Categorical:
            return Categorical(observations @ params["logits"])

        objectives = policy_objectives(apply, InnerLoop(lr), sampling_correction=correction)
        own = own_policy(objectives, {"logits": start}, data)
        gradient = mean_over_tasks(objectives.surrogate, own).gradient({"logits": start})[2]
        return -count * gradient["logits"]

    truth = torch.func.grad(expected)(start)
    assert rel(found("emaml"), truth) < 1e-12
    assert rel(found("off"), truth) > 0.1


@pytest.mark.parametrize("kind", ["lvc", "dice"])
def test_the_sampling_term_goes_with_loglik_only(kind: str) -> None:
    with pytest.raises(InputError, match="counts that twice"):
        build(kind, lr=ALPHA, sampling_correction="emaml")


def sampled_gradients(correction: str, samples: int, episodes: int) -> tuple[Tensor, Tensor]:
    """Per-sample meta-gradients by the real sampler and losses, and the exact one."""
    paths, x = problem(2)
    policy = SoftmaxPolicy(x)
    env = Tabular(random_mdp(S, A, 2), num_envs=samples * episodes, horizon=H)
    theta = {"logits": x}
    objectives = build(lr=ALPHA * H, sampling_correction=correction)
    collected = collect_meta_batch(
        theta,
        policy=policy,
        objectives=objectives,
        sampler=Sampler(env, episodes=episodes, horizon=H),
        tasks=[{}] * samples,
        inner_steps=1,
        weighting=Weighting(discount=1.0, baseline="zero", standardized=False),
        seed=3,
        clock=Clock(),
    )
    data = own_policy(objectives, theta, collected.data)
    slope = torch.func.grad(lambda theta, one: -objectives.surrogate(theta, one)[0])
    dims = tree_map(lambda x: None if x is None else 0, data)
    gradients = torch.func.vmap(slope, in_dims=(None, dims))(theta, data)["logits"] * H
    return gradients, finite_batch_gradient(paths, x, episodes)


def z_scores(gradients: Tensor, truth: Tensor) -> Tensor:
    return (gradients.mean(0) - truth) / (gradients.std(0) / len(gradients) ** 0.5)


def test_the_real_sampler_and_loss_are_unbiased() -> None:
    gradients, truth = sampled_gradients("emaml", 20_000, 2)
    assert z_scores(gradients, truth).abs().max() < 4.5
    mutant, _ = sampled_gradients("off", 20_000, 2)
    assert z_scores(mutant, truth).abs().max() > 6

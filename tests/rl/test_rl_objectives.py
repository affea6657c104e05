"""Objectives of adapting policies at the old policy, and their Fisher products."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from adapting import ACT, EPISODES, HORIZON, TASKS, Problem, problem
from meta_steps import Setting, trpo, walk
from oracles import F64, draw, flat, rel
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

import metarl
from metarl import InnerLoop, adapt, conjugate_gradient, mean_over_tasks
from metarl.inner import adapt_path_one
from metarl.params import Params
from metarl.rl.batches import Batch, MetaBatch, kept_steps, score_weights, subsample
from metarl.rl.distributions import Gaussian, entropy, log_prob
from metarl.rl.objectives import policy_objectives
from metarl.rl.old_policy import old_policy
from metarl_experiments.configs.rl import Config, EnvConfig
from metarl_experiments.machine import Machine
from metarl_experiments.rl.learner import PolicyLearner

MAPPINGS = ("vmap", "chunk:1", "chunk:2")


def one(data: MetaBatch, i: int) -> MetaBatch:
    taken: MetaBatch = torch.utils._pytree.tree_map(lambda x: x[i], data)
    return taken


def recorded(data: MetaBatch) -> MetaBatch:
    """With old policies that differ in the last bits, as the sampler's records do."""

    def near(batch: Batch) -> Batch:
        fields = {name: x * (1 + 1e-6) for name, x in batch.old._asdict().items()}
        return batch._replace(old=batch.old._replace(**fields))

    return data._replace(supports=tuple(map(near, data.supports)), query=near(data.query))


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", ["loglik", "linear"])
def test_ratio_is_one_and_kl_zero_at_the_old_policy(
    mapping: str, steps: int, discrete: bool, dtype: torch.dtype, kind: Any
) -> None:
    p = problem(discrete=discrete, steps=steps, dtype=dtype, inner_surrogate=kind)
    data = old_policy(p.objectives, p.theta, recorded(p.data), mapping=mapping)
    objective = mean_over_tasks(p.objectives.surrogate, data, mapping=mapping)
    loss, kl, _ = objective.gradient(p.theta)
    weights, mask = data.query.weights, data.query.mask
    means = [(w * m).sum() / m.sum() for w, m in zip(weights, mask, strict=True)]
    assert torch.allclose(loss, -torch.stack(means).mean(), rtol=1e-6)
    assert torch.equal(objective.value(p.theta)[0], loss)
    assert kl == 0
    divergence = mean_over_tasks(
        lambda theta, d: p.objectives.surrogate(theta, d)[::-1], data, mapping=mapping
    )
    assert not flat(divergence.gradient(p.theta)[2]).any()
    ones = data.query._replace(weights=torch.ones_like(weights))
    ratio = mean_over_tasks(p.objectives.surrogate, data._replace(query=ones), mapping=mapping)
    assert ratio.value(p.theta)[0] == -1
    mutant = mean_over_tasks(
        lambda theta, d: p.objectives.surrogate(theta, d)[::-1], recorded(data), mapping=mapping
    )
    assert flat(mutant.gradient(p.theta)[2]).any()


def clipped_by_hand(p: Problem, theta: Params, penalty: float, **mutant: bool) -> Tensor:
    """ProMP's loss of task 0, written out with torch's own distributions."""
    data = one(p.data, 0)
    path = adapt_path_one(p.objectives.inner_loss, theta, data.supports, p.inner)

    def dist(fields: Any) -> Independent:
        return Independent(Normal(fields.mean, fields.log_std.exp()), 1)

    query = data.query
    new, old = dist(p.apply(path[-1], query.observations)), dist(query.old)
    ratio = (new.log_prob(query.actions) - old.log_prob(query.actions)).exp()
    bounded = ratio if mutant.get("unclipped") else ratio.clamp(0.7, 1.3)
    gain = torch.minimum(ratio * query.weights, bounded * query.weights)
    drift = []
    for params, support in zip(path, data.supports, strict=False):
        pair = dist(support.old), dist(p.apply(params, support.observations))
        kl = kl_divergence(*(pair[::-1] if mutant.get("swapped") else pair))
        drift.append((kl * support.mask).sum() / support.mask.sum())
    inner_kl = drift[0] if mutant.get("first") else torch.stack(drift).mean()
    return penalty * inner_kl - (gain * query.mask).sum() / query.mask.sum()


@pytest.mark.parametrize("steps", [1, 2])
def test_clipped_objective_by_hand(steps: int) -> None:
    """Away from the old policy, where ratios are clipped and the inner KL is not 0."""
    p = problem(steps=steps, clip=0.3)
    here = {name: x + 0.5 * draw(*x.shape, seed=9) for name, x in p.theta.items()}
    penalty = torch.tensor(2.0, dtype=F64)

    def found(theta: Params) -> Tensor:
        loss: Tensor = p.objectives.clipped(theta, (one(p.data, 0), penalty))[0]
        return loss

    def slope(**mutant: bool) -> Tensor:
        return flat(torch.func.grad(lambda x: clipped_by_hand(p, x, 2.0, **mutant))(here))

    gradient = flat(torch.func.grad(found)(here))
    assert torch.allclose(found(here), clipped_by_hand(p, here, 2.0), rtol=1e-12)
    assert rel(gradient, slope()) < 1e-12
    assert rel(gradient, slope(unclipped=True)) > 1e-2
    assert rel(gradient, slope(swapped=True)) > 1e-2
    assert steps == 1 or rel(gradient, slope(first=True)) > 1e-2
    assert rel(gradient, flat(torch.func.grad(lambda x: clipped_by_hand(p, x, 0.0))(here))) > 1e-2


def test_an_inner_loss_of_ones_own() -> None:
    p = problem(steps=2)
    theta = {name: x.clone().requires_grad_() for name, x in p.theta.items()}

    def mine(params: Params, batch: Batch) -> Tensor:
        policy = p.apply(params, batch.observations)
        ratio = (log_prob(policy, batch.actions) - log_prob(batch.old, batch.actions)).exp()
        terms = ratio.clamp(0.8, 1.2) * batch.weights + 0.5 * entropy(policy)
        return -(terms * batch.mask).sum() / batch.mask.sum()

    objectives = policy_objectives(p.apply, p.inner, inner_surrogate=mine)
    data = old_policy(objectives, p.theta, _sampled(p, mine))
    objective = mean_over_tasks(objectives.surrogate, data)
    found = flat(objective.gradient(p.theta)[2])

    def by_hand(loss: Any) -> Tensor:
        total = torch.zeros((), dtype=F64)
        for i in range(TASKS):
            task = one(data, i)
            new = p.apply(adapt(loss, theta, task.supports, p.inner), task.query.observations)
            ratio = (
                log_prob(new, task.query.actions) - log_prob(task.query.old, task.query.actions)
            ).exp()
            gain = (ratio * task.query.weights * task.query.mask).sum() / task.query.mask.sum()
            total = total - gain / TASKS
        slopes = torch.autograd.grad(total, list(theta.values()))
        return torch.cat([slope.flatten() for slope in slopes])

    assert rel(found, by_hand(mine)) < 1e-10
    assert rel(found, by_hand(p.objectives.inner_loss)) > 1e-2


def _sampled(p: Problem, loss: Any) -> MetaBatch:
    """The data as policies would have recorded it that adapted by this loss."""
    taken = []
    for i in range(TASKS):
        task = one(p.data, i)
        path = [p.theta]
        for support in task.supports:
            here = p.apply(path[-1], support.observations)
            taken_from = support._replace(old=type(here)(*(x.detach() for x in here)))
            path.append(adapt(loss, path[-1], [taken_from], p.inner))
        batches = (*task.supports, task.query)
        taken.append([p.apply(q, b.observations) for q, b in zip(path, batches, strict=True)])
    old = [
        type(each[0])(*(torch.stack(x).detach() for x in zip(*each, strict=True)))
        for each in zip(*taken, strict=True)
    ]
    supports = tuple(s._replace(old=o) for s, o in zip(p.data.supports, old[:-1], strict=True))
    return p.data._replace(supports=supports, query=p.data.query._replace(old=old[-1]))


def test_policies_recorded_by_another_inner_loop_are_told() -> None:
    p = problem(steps=1)
    other = policy_objectives(p.apply, InnerLoop(1.0))
    with pytest.warns(UserWarning, match="nats apart: give both the same theta, objectives"):
        old_policy(other, p.theta, p.data)
    old_policy(p.objectives, p.theta, recorded(p.data))


def test_one_deviation_for_all_states() -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(2, 2, dtype=F64)
            torch.nn.init.constant_(self.net.weight, 0.1)
            torch.nn.init.zeros_(self.net.bias)
            self.log_std = torch.nn.Parameter(torch.zeros(2, dtype=F64))

        def forward(self, observations: Tensor) -> Gaussian:
            return Gaussian(self.net(observations), self.log_std)

    setting, policy = walk(horizon=20), Shared()
    theta, apply = metarl.from_module(policy)
    own = policy_objectives(apply, setting.options["objectives"].inner, inner_surrogate="linear")
    setting = Setting(policy, theta, {**setting.options, "policy": policy, "objectives": own})
    # Half of the time steps: fewer than are kept in any case would leave the fields as they are.
    _, metrics = setting.step(trpo(setting, fisher_fraction=0.5))
    assert metrics["step_accepted"] == 1


def test_steps_behind_the_mask_count_for_nothing() -> None:
    p = problem(steps=2, sampling_correction="emaml")
    gradient = mean_over_tasks(p.objectives.surrogate, p.data).gradient(p.theta)

    def spoilt(batch: Any) -> Any:
        behind = 1 - batch.mask
        return batch._replace(
            weights=batch.weights + 9 * behind,
            actions=batch.actions + 9 * behind[..., None],
            observations=batch.observations + 9 * behind[..., None],
        )

    data = p.data._replace(supports=tuple(map(spoilt, p.data.supports)), query=spoilt(p.data.query))
    data = old_policy(p.objectives, p.theta, data)
    found = mean_over_tasks(p.objectives.surrogate, data).gradient(p.theta)
    assert rel(flat(found[2]), flat(gradient[2])) < 1e-12


@pytest.mark.parametrize("invalid", [0, 1])
def test_sampling_term_is_in_the_units_of_the_surrogate(invalid: int) -> None:
    """Of unequal episodes: their returns' sum, and their number times the term, over all steps."""
    p = problem(sampling_correction="emaml", lr=0.0)
    data = one(p.data, 0)
    data.query.mask[:invalid] = 0
    query, support = data.query, data.supports[0]
    episodes = EPISODES - invalid

    def summed(theta: Params) -> Tensor:
        new, at_support = (p.apply(theta, b.observations) for b in (query, support))
        ratio = (log_prob(new, query.actions) - log_prob(query.old, query.actions)).exp()
        score = (log_prob(at_support, support.actions) * support.mask).sum()
        return (ratio * query.weights * query.mask).sum() + episodes * data.score_weights * score

    truth = flat(torch.func.grad(summed)(p.theta)) / query.mask.sum()
    found = flat(torch.func.grad(lambda theta: -p.objectives.surrogate(theta, data)[0])(p.theta))
    assert rel(found, truth) < 1e-12


def unflat(x: Tensor, like: Params) -> Params:
    parts = torch.split(x, [p.numel() for p in like.values()])
    return {n: part.view_as(p) for (n, p), part in zip(like.items(), parts, strict=True)}


def dense(fn: Any, theta: Params) -> Tensor:
    def g(x: Tensor) -> Tensor:
        out = fn(unflat(x, theta))
        return torch.cat([y.reshape(-1) for y in (out.values() if isinstance(out, dict) else out)])

    jacobian: Tensor = torch.func.jacrev(g)(flat(theta))
    return jacobian


def policy_fisher(p: Problem, adapted: Params, data: MetaBatch) -> Tensor:
    """Mean over valid steps of J' M J, M the Fisher matrix of the distribution's own fields."""
    observations, mask = data.query.observations, data.query.mask.reshape(-1)
    distribution = p.apply(adapted, observations)
    J = dense(lambda params: p.apply(params, observations), adapted)
    if hasattr(distribution, "logits"):
        q = torch.softmax(distribution.logits, -1).reshape(-1, ACT)
        metric = torch.block_diag(
            *(m * (torch.diag(x) - torch.outer(x, x)) for m, x in zip(mask, q, strict=True))
        )
    else:
        steps = mask.repeat_interleave(ACT)
        precision = (-2 * distribution.log_std).exp().reshape(-1)
        metric = torch.diag(torch.cat([steps * precision, 2 * steps]))
    return J.T @ metric @ J / mask.sum()


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("discrete", [False, True])
def test_fisher_through_adaptation(discrete: bool, steps: int) -> None:
    p = problem(discrete=discrete, steps=steps)
    truth, alone = [], []
    for i in range(TASKS):
        data = one(p.data, i)

        def moved(theta: Params, data: MetaBatch = data) -> Params:
            return adapt(p.objectives.inner_loss, theta, data.supports, p.inner)

        F, J = policy_fisher(p, moved(p.theta), data), dense(moved, p.theta)
        truth.append(J.T @ F @ J)
        alone.append(F)
    whole = torch.stack(truth).mean(0)
    assert rel(torch.stack(alone).mean(0), whole) > 0.05  # mutant: F alone
    directions = torch.eye(len(whole), dtype=F64)
    for mapping, own, some in (
        ("vmap", p.objectives.fisher, directions),
        ("chunk:1", p.objectives.fisher, draw(3, len(whole))),
        ("chunk:2", p.objectives.fisher, draw(3, len(whole))),
        ("vmap", None, draw(3, len(whole))),  # the Hessian of the KL
    ):
        objective = mean_over_tasks(p.objectives.surrogate, p.data, fisher=own, mapping=mapping)
        products = [flat(objective.fisher(p.theta, unflat(v, p.theta))) for v in some]
        assert rel(torch.stack(products), some @ whole) < 1e-10


def test_fisher_product_with_learned_step_sizes() -> None:
    """Against the Hessian of the KL, whose derivative of J is multiplied by exactly 0."""
    p = problem(steps=2)
    theta = p.theta | metarl.learned_rates(p.theta, 0.3, per="element", steps=2)
    v = {name: draw(*x.shape, seed=9) for name, x in theta.items()}
    for first_order in (False, True):
        objectives = policy_objectives(p.apply, InnerLoop(0.1, first_order))
        data = old_policy(objectives, theta, p.data)
        products = [
            flat(mean_over_tasks(objectives.surrogate, data, fisher=f).fisher(theta, v))
            for f in (objectives.fisher, None)
        ]
        assert rel(products[0], products[1]) < 1e-10


def test_subsample_prefers_steps_that_run() -> None:
    p = problem(steps=2)
    early = torch.zeros_like(p.data.query.mask)
    early[:, :, :2] = 1  # of six
    data = p.data._replace(
        query=p.data.query._replace(mask=early),
        supports=tuple(s._replace(mask=early) for s in p.data.supports),
    )
    for seed in range(20):
        few = subsample(data, 1 / 3, metarl.torch_stream(seed, "fisher"), least=1)
        for batch in (*few.supports, few.query):
            assert batch.mask.shape == (TASKS, EPISODES, 2)
            assert batch.mask.all()
            assert batch.old[0].shape[2] == 2
    assert subsample(data, 1.0, metarl.torch_stream(0, "fisher")) is data
    assert subsample(data, 0.1, metarl.torch_stream(0, "fisher")) is data  # fewer than ten steps
    for fraction in (0.1, 0.5, 1.0):
        few = subsample(data, fraction, metarl.torch_stream(0, "fisher"), least=2)
        assert few.query.mask.shape[2] == kept_steps(6, fraction, least=2)
    assert [kept_steps(100, f) for f in (0.01, 0.101, 1.0)] == [10, 11, 100]
    one_step = subsample(data, 1e-9, metarl.torch_stream(0, "fisher"), least=1)
    assert one_step.query.mask.shape[2] == 1


def test_subsample_keeps_what_runs_anywhere_in_the_order_of_time() -> None:
    p = problem()
    times = torch.arange(HORIZON)

    def until(batch: Batch, end: int) -> Batch:
        mask = (times < end).to(F64).expand_as(batch.mask)
        return batch._replace(mask=mask, weights=times.expand_as(mask))

    data = p.data._replace(supports=(until(p.data.supports[0], 3),), query=until(p.data.query, 1))
    elsewhere = (times == 5).to(F64)
    for seed in range(10):
        for reduce, kept in ((None, [0, 1, 2]), (lambda x: x + elsewhere, [0, 1, 2, 5])):
            generator = metarl.torch_stream(seed, "fisher")
            few = subsample(data, len(kept) / HORIZON, generator, least=1, reduce=reduce)
            for batch in (*few.supports, few.query):
                assert batch.weights[1, 2].tolist() == kept


def test_score_weights_are_in_the_units_of_the_query() -> None:
    """Equal rewards leave a unit of rounding, which is none."""
    returns, unit = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2.0, 1e-7, 0.5])
    assert score_weights(returns, unit).tolist() == [-1.25, 0.0, 7.0]
    # What the ridge of the linear baseline leaves of equal rewards, in proportion to them.
    assert not score_weights(returns * 1000, torch.tensor([1e-6, 2e-6, 5e-6]) * 1000).any()


def test_score_weights_do_not_depend_on_the_size_of_rewards() -> None:
    returns = torch.tensor([1.0, 2.0, 4.0])
    for size in (1.0, 1e-6):
        found = score_weights(returns * size, torch.full((3,), size))
        assert found.tolist() == pytest.approx([-2.0, -0.5, 2.5])
    assert not score_weights(torch.zeros(3), torch.zeros(3)).any()


# Cosine of the full trust-region direction with that of a tenth of the time steps, five draws.
RECORDED = [0.726, 0.723, 0.773, 0.637, 0.656]
GRADIENT = 0.305  # of the plain gradient with the full step


def test_step_on_a_tenth_of_the_time_steps() -> None:
    """Navigation, before training: near the full step, and far from the plain gradient."""
    config = Config(EnvConfig("metarl/Navigation2D-v0", horizon=100), 1, 10, 10, inner_lr=0.5)
    learner = PolicyLearner(config, Machine("cpu", "float32", 1, "auto", "off"))
    theta = {name: p.detach() for name, p in learner.init(0).params.items()}
    sampler = learner.sampler(*learner.sizes)
    tasks = sampler.sample_tasks(10, metarl.stream(0, "tasks"))
    data = learner.adapt(theta, sampler, tasks, 1, 0).data
    data = old_policy(learner.objectives, theta, data)
    gradient = flat(mean_over_tasks(learner.objectives.surrogate, data).gradient(theta)[2])

    def direction(fraction: float, seed: int = 0) -> Tensor:
        few = subsample(data, fraction, metarl.torch_stream(seed, "fisher"))
        objective = mean_over_tasks(
            learner.objectives.surrogate, few, fisher=learner.objectives.fisher
        )

        def product(v: Tensor) -> Tensor:
            return flat(objective.fisher(theta, unflat(v, theta))) + 1e-5 * v

        return conjugate_gradient(product, -gradient, steps=10)[0]

    full = direction(1.0)
    cosines = [float(torch.cosine_similarity(full, direction(0.1, s), 0)) for s in range(5)]
    assert cosines == pytest.approx(RECORDED, abs=0.05)
    assert float(torch.cosine_similarity(full, -gradient, 0)) == pytest.approx(GRADIENT, abs=0.05)
    assert min(cosines) > 0.55


@pytest.mark.parametrize("clip", [0.05, 0.6])
def test_the_ratio_bound_is_the_one_asked_for(clip: float) -> None:
    p = problem(clip=clip)
    here = {name: x + 0.5 * draw(*x.shape, seed=9) for name, x in p.theta.items()}
    data = one(p.data, 0)
    query = data.query
    found = p.objectives.clipped(here, (data, torch.tensor(0.0, dtype=F64)))[0]
    adapted = adapt(p.objectives.inner_loss, here, data.supports, p.inner)
    new = log_prob(p.apply(adapted, query.observations), query.actions)
    ratio = (new - log_prob(query.old, query.actions)).exp()

    def by_hand(bound: float) -> torch.Tensor:
        bounded = ratio.clamp(1 - bound, 1 + bound) * query.weights
        gain: torch.Tensor = torch.minimum(ratio * query.weights, bounded) * query.mask
        return -gain.sum() / query.mask.sum()

    assert torch.allclose(found, by_hand(clip), rtol=1e-12)
    assert not torch.allclose(found, by_hand(0.3), rtol=1e-3)


def test_parameters_that_moved_since_sampling_are_told() -> None:
    p = problem(steps=1)
    data = recorded(p.data)
    for size, told in ((0.0, False), (0.05, True)):
        moved = {name: x + size * draw(*x.shape, seed=4) for name, x in p.theta.items()}
        with pytest.warns(UserWarning, match="nats apart") if told else nullcontext():
            old_policy(p.objectives, moved, data)

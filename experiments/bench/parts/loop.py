"""A meta-update task by task through ``torch.autograd``: what other libraries are."""

import operator

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import metarl
from metarl.objective import Objective
from metarl.params import Params
from metarl.rl.batches import MetaBatch
from metarl.rl.distributions import Distribution, kl, log_prob

from ...rl.learner import PolicyLearner


def loop_objective(learner: PolicyLearner, data: MetaBatch, few: MetaBatch) -> Objective:
    """`trpo_update`'s objective: Fisher products by differentiating the KL's slope again.

    Args:
        learner: for its policy and inner step size; one inner step.
        data: of all tasks.
        few: time steps of the Fisher products; the graphs of all tasks are kept between them.
    """
    tasks, sampled = _split(data), _split(few)
    slopes: list[list[Tensor]] = []

    def value(theta: Params) -> tuple[Tensor, Tensor]:
        theta = {name: p.detach().requires_grad_() for name, p in theta.items()}
        results = [_after(learner, theta, task) for task in tasks]
        loss, divergence = (torch.stack(x).mean().detach() for x in zip(*results, strict=True))
        return loss, divergence

    def gradient(theta: Params) -> tuple[Tensor, Tensor, Params]:
        total = [torch.zeros_like(p) for p in theta.values()]
        losses, divergences = [], []
        for task in tasks:
            loss, divergence = _after(learner, theta, task)
            own = torch.autograd.grad(loss, list(theta.values()))
            total = [a + b for a, b in zip(total, own, strict=True)]
            losses.append(loss.detach())
            divergences.append(divergence.detach())
        mean = {name: g / len(tasks) for name, g in zip(theta, total, strict=True)}
        return torch.stack(losses).mean(), torch.stack(divergences).mean(), mean

    def fisher(theta: Params, v: Params) -> Params:
        values = list(theta.values())
        if not slopes:
            for task in sampled:
                here = _after(learner, theta, task, own=True)[1]
                slopes.append(list(torch.autograd.grad(here, values, create_graph=True)))
        total = [torch.zeros_like(p) for p in values]
        for slope in slopes:
            along = sum((g * x).sum() for g, x in zip(slope, v.values(), strict=True))
            assert isinstance(along, Tensor)
            own = torch.autograd.grad(along, values, retain_graph=True)
            total = [a + b for a, b in zip(total, own, strict=True)]
        return {name: x / len(sampled) for name, x in zip(theta, total, strict=True)}

    return Objective(value, gradient, fisher)


def _split(data: MetaBatch) -> list[MetaBatch]:
    tasks = range(len(data.query.mask))
    return [tree_map_only(Tensor, operator.itemgetter(i), data) for i in tasks]


def _after(
    learner: PolicyLearner, theta: metarl.Params, task: MetaBatch, *, own: bool = False
) -> tuple[Tensor, Tensor]:
    """Surrogate loss and KL of one task after one inner step; ``own``: to the policy itself."""
    (support,), query = task.supports, task.query
    log_probs = log_prob(learner.apply(theta, support.observations), support.actions)
    inner = -(log_probs * support.weights * support.mask).sum() / support.mask.sum()
    slopes = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
    adapted = {
        name: p - learner.config.inner_lr * g
        for (name, p), g in zip(theta.items(), slopes, strict=True)
    }
    new = learner.apply(adapted, query.observations)
    old: Distribution = type(new)(*(x.detach() for x in new)) if own else query.old
    ratio = torch.exp(log_prob(new, query.actions) - log_prob(old, query.actions))
    steps = query.mask.sum()
    loss = -(ratio * query.weights * query.mask).sum() / steps
    return loss, (kl(old, new) * query.mask).sum() / steps

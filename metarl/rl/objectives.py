"""Losses of ONE task for the inner loop and the meta-updates of policies."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl.checks import check_choice, check_positive
from metarl.errors import InputError
from metarl.gauss_newton import GaussNewton
from metarl.inner import InnerLoop, adapt, adapt_path_one
from metarl.loss import Loss
from metarl.params import Params
from metarl.rates import check_fixed

from . import surrogates
from .batches import Batch, MetaBatch
from .distributions import Distribution, broadcast, kl, linear_log_prob, log_prob

Apply = Callable[[Params, Tensor], Distribution]
SamplingCorrection = Literal["off", "emaml"]


class PolicyObjectives(NamedTuple):
    """Functions of one task, built once a run so that each is compiled once.

    Attributes:
        inner: how the task adapts.
        sampling_correction: what ``surrogate`` holds.
        inner_loss: ``(theta_k, support k) -> loss``, what the inner loop descends.
        policies: ``(theta, data) -> distributions`` at every support's and the query's steps. Each
            step is taken around the policy that it starts from, not around the recorded one.
        surrogate: ``(theta, data) -> (loss, kl)`` after adaptation, for TRPO and Adam.
        clipped: ``(theta, (data, penalty)) -> (loss, inner kl)`` of ProMP.
        fisher: of the KL after adaptation.
    """

    inner: InnerLoop
    sampling_correction: SamplingCorrection
    inner_loss: Loss
    policies: Callable[[Params, MetaBatch], tuple[Distribution, ...]]
    surrogate: Callable[[Params, MetaBatch], tuple[Tensor, Tensor]]
    clipped: Callable[[Params, tuple[MetaBatch, Tensor]], tuple[Tensor, Tensor]]
    fisher: GaussNewton


def policy_gradient_loss(apply: Apply, *, kind: surrogates.InnerSurrogate = "loglik") -> Loss:
    """``-surrogate(log pi(a | s), weights)`` of one task's `Batch`; see `surrogates`.

    ``linear`` takes log pi to first order in what the policy puts out, around the policy that
    acted. Its curvature is how the outputs bend with the parameters, weighted by how much each
    output should move. Left out is how the weights' slope changes with the outputs; gone is the
    term of ``loglik`` that grows with the weights' mean at a state, which is no derivative of the
    expected return and which a meta-policy can exploit without earning more.

    Raises:
        InputError: no surrogate of that kind.
    """
    check_choice("kind", kind, get_args(surrogates.InnerSurrogate))

    def loss(params: Params, batch: Batch) -> Tensor:
        policy = apply(params, batch.observations)
        if kind == "linear":
            log_probs = linear_log_prob(batch.old, policy, batch.actions)
        else:
            log_probs = log_prob(policy, batch.actions)
        return -surrogates.inner_surrogate(kind, log_probs, batch.weights, batch.mask)

    return loss


def policy_objectives(
    apply: Apply,
    inner: InnerLoop,
    *,
    inner_surrogate: surrogates.InnerSurrogate | Loss = "loglik",
    sampling_correction: SamplingCorrection = "off",
    clip: float = 0.3,
) -> PolicyObjectives:
    """Build the losses of one task.

    Args:
        apply: pure policy ``(params, observations) -> distribution``.
        inner: how the task adapts.
        inner_surrogate: ``loglik`` (the paper's code; its curvature is biased), ``lvc`` (curvature
            exact at horizon 1), ``dice`` (exact) or ``linear`` (see `policy_gradient_loss`); or a
            loss of one's own, ``(params, batch) -> scalar`` of one task's `Batch`.
        sampling_correction: ``emaml`` adds ``score weight * sum log pi(support)`` under the
            parameters that sampled it: together with ``loglik`` the exact meta-gradient of a finite
            inner batch (Stadie et al. 2018; Al-Shedivat et al. 2018). Part of ``surrogate`` only;
            ``clipped`` then raises `InputError`.
        clip: ratio bound of ``clipped``.

    Raises:
        InputError: no such surrogate or correction, ``emaml`` with another surrogate than
            ``loglik``, a bound that is not above 0, or step sizes in ``inner`` that require
            gradients.
    """
    if not callable(inner_surrogate):
        check_choice("inner_surrogate", inner_surrogate, get_args(surrogates.InnerSurrogate))
    check_positive("clip", clip)
    check_fixed(inner.lr)
    check_choice("sampling_correction", sampling_correction, get_args(SamplingCorrection))
    if sampling_correction == "emaml" and inner_surrogate != "loglik":
        raise InputError(
            "sampling_correction=emaml goes with inner_surrogate=loglik only: lvc, dice and linear "
            "hold how the samples depend on the parameters in their own curvature, and adding the "
            "term counts that twice"
        )
    if callable(inner_surrogate):
        inner_loss, sees_old = inner_surrogate, True
    else:
        inner_loss = policy_gradient_loss(apply, kind=inner_surrogate)
        sees_old = inner_surrogate == "linear"

    def around_itself(params: Params, batch: Batch) -> Tensor:
        here = apply(params, batch.observations)
        old = type(here)(*(x.detach() for x in broadcast(here)))
        loss: Tensor = inner_loss(params, batch._replace(old=old))
        return loss

    def along(path: Sequence[Params], data: MetaBatch) -> tuple[Distribution, ...]:
        batches = (*data.supports, data.query)
        return tuple(
            broadcast(apply(p, b.observations)) for p, b in zip(path, batches, strict=True)
        )

    def policies(theta: Params, data: MetaBatch) -> tuple[Distribution, ...]:
        loss = around_itself if sees_old else inner_loss
        return along(adapt_path_one(loss, theta, data.supports, inner), data)

    def surrogate(theta: Params, data: MetaBatch) -> tuple[Tensor, Tensor]:
        path = adapt_path_one(inner_loss, theta, data.supports, inner)
        query = data.query
        new = apply(path[-1], query.observations)
        gain = surrogates.ratio(
            log_prob(new, query.actions),
            log_prob(query.old, query.actions),
            query.weights,
            query.mask,
        )
        if sampling_correction == "emaml":
            if data.score_weights is None:
                raise InputError(
                    "sampling_correction='emaml' needs MetaBatch.score_weights, see score_weights"
                )
            # The surrogate holds the returns of all episodes, divided by their number of steps.
            unit = query.mask[:, 0].sum() / query.mask.sum().clamp(min=1)
            for params, support in zip(path, data.supports, strict=False):
                score = surrogates.score(
                    log_prob(apply(params, support.observations), support.actions),
                    log_prob(support.old, support.actions),
                    support.mask,
                )
                gain = gain + unit * data.score_weights * score
        return -gain, surrogates.masked_mean(kl(query.old, new), query.mask)

    def clipped(theta: Params, data: tuple[MetaBatch, Tensor]) -> tuple[Tensor, Tensor]:
        if sampling_correction == "emaml":
            raise InputError(
                "sampling_correction='emaml' is not in ProMP's clipped surrogate: use trpo_update "
                "or adam_update, or sampling_correction='off'"
            )
        batch, penalty = data
        path = adapt_path_one(inner_loss, theta, batch.supports, inner)
        *before, new = along(path, batch)
        query = batch.query
        gain = surrogates.clipped_ratio(
            log_prob(new, query.actions),
            log_prob(query.old, query.actions),
            query.weights,
            query.mask,
            clip=clip,
        )
        drift = [
            surrogates.masked_mean(kl(s.old, now), s.mask)
            for s, now in zip(batch.supports, before, strict=True)
        ]
        inner_kl = torch.stack(drift).mean() if drift else gain.new_zeros(())
        return penalty * inner_kl - gain, inner_kl

    def after(theta: Params, data: MetaBatch) -> Distribution:
        adapted = adapt(inner_loss, theta, data.supports, inner)
        return apply(adapted, data.query.observations)

    def divergence(here: Distribution, there: Distribution, data: MetaBatch) -> Tensor:
        return surrogates.masked_mean(kl(here, there), data.query.mask)

    fisher = GaussNewton(after, divergence)
    return PolicyObjectives(
        inner, sampling_correction, inner_loss, policies, surrogate, clipped, fisher
    )

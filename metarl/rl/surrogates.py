"""Policy-gradient surrogates of ONE task, to be maximised: a loss is the negative of one.

Differentiating a surrogate, times the number of its steps, at the sampling policy estimates a
derivative of the sum of expected returns J of its episodes.
All take arrays ``(episode, time)`` and a mask, 1 at valid steps; ``log_probs`` carry the gradient,
weights do not.
"""

from typing import Literal

import torch
from torch import Tensor

InnerSurrogate = Literal["loglik", "linear", "lvc", "dice"]


def masked_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid steps; 0 where there is none."""
    return (terms * mask).sum() / mask.sum().clamp(min=1)


def loglik(log_probs: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """``mean_t log pi(a_t | s_t) w_t``: the plain log-likelihood of the MAML paper's code.

    With ``w_t`` the return to go its expected gradient is that of J, exactly. Its expected Hessian
    is *not* that of J, not even at horizon 1: the terms that hold how the samples depend on the
    parameters are missing.
    """
    return masked_mean(log_probs * weights, mask)


def lvc(log_probs: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """``mean_t exp(l_t - stop(l_t)) w_t``: low-variance curvature (Rothfuss et al. 2019).

    Expected gradient that of J, exactly. Expected Hessian exact at horizon 1; beyond it the
    products of different steps' score functions are left out, a bias bought for less variance.
    """
    return masked_mean(torch.exp(log_probs - log_probs.detach()) * weights, mask)


def dice(log_probs: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """``mean_t exp(c_t - stop(c_t)) r_t``, ``c_t = sum_{s <= t} l_s`` (Foerster et al. 2018).

    Expected derivatives of every order are those of J, the undiscounted return, exactly. Takes
    rewards, or what `increments` makes of advantages.
    """
    c = torch.cumsum(log_probs * mask, -1)
    return masked_mean(torch.exp(c - c.detach()) * rewards, mask)


def increments(weights: Tensor, mask: Tensor) -> Tensor:
    """The ``x`` whose undiscounted sum to go is ``weights``: ``x_t = w_t - w_{t+1}``.

    Of undiscounted returns to go, the rewards. Of ``return - V(s)`` (no discount, lambda 1), the
    rewards shaped by the potential V, under which `dice` stays exact. With a discount below 1,
    where w is no sum to go of an undiscounted return, the gradient of ``dice(log_probs,
    increments(w))`` is still that of ``loglik(log_probs, w)``, but higher orders are approximate.
    """
    w = weights * mask
    return w - torch.cat((w[..., 1:], torch.zeros_like(w[..., :1])), -1)


def inner_surrogate(
    kind: InnerSurrogate, log_probs: Tensor, weights: Tensor, mask: Tensor
) -> Tensor:
    """The inner loop's surrogate by name, all from the same weights (advantages).

    All have the same gradient at the sampling policy and differ in their curvature, that is
    in the meta-gradient.

    Args:
        kind: ``"loglik"``, ``"linear"`` (the same, of `linear_log_prob`), ``"lvc"`` or ``"dice"``
            (of the weights' `increments`).
        log_probs: of the recorded actions under the parameters, ``(episode, time)``.
        weights: advantages ``(episode, time)``.
        mask: 1 at valid steps.
    """
    if kind in ("loglik", "linear"):
        return loglik(log_probs, weights, mask)
    if kind == "lvc":
        return lvc(log_probs, weights, mask)
    return dice(log_probs, increments(weights, mask), mask)


def score(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> Tensor:
    """``log p(D) - log p_old(D)``, a sum over *all* valid steps: the E-MAML term's score function.

    Times `leave_one_out` of the post-update returns, it adds to the meta-gradient how the support
    set itself depends on the parameters (Stadie et al. 2018). Exact together with `loglik` only:
    `lvc` and `dice` hold that dependence in their curvature already. The constant makes it 0 at the
    sampling policy, where the large ``log p(D)`` would drown the improvements of a line search.
    """
    return ((log_probs - old_log_probs) * mask).sum()


def leave_one_out(returns: Tensor) -> Tensor:
    """Each task's return minus the mean of the *other* tasks': ``(task,) -> (task,)``.

    The baseline of the E-MAML term; independent of the task's own samples, so without bias. A
    single task's return stays as it is.
    """
    others = max(len(returns) - 1, 1)
    return returns - (returns.sum() - returns) / others


def _ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> Tensor:
    # Masked before it can overflow: an infinite ratio times 0 is none. What stands behind an
    # episode's end was never drawn, and may be as unlikely as can be.
    return torch.exp(torch.where(mask > 0, log_probs - old_log_probs, 0.0))


def ratio(log_probs: Tensor, old_log_probs: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """``mean_t ratio_t w_t`` with ``ratio = exp(l - l_old)``: TRPO's surrogate advantage.

    Its gradient at the old policy is the policy gradient (Schulman et al. 2015, equation 14).
    """
    return masked_mean(_ratio(log_probs, old_log_probs, mask) * weights, mask)


def clipped_ratio(
    log_probs: Tensor, old_log_probs: Tensor, weights: Tensor, mask: Tensor, *, clip: float
) -> Tensor:
    """``mean_t min(ratio_t w_t, clamp(ratio_t, 1 - clip, 1 + clip) w_t)``: PPO's surrogate.

    A pessimistic bound without incentive to move a ratio out of the interval (Schulman et al. 2017,
    equation 7; ProMP's outer objective).
    """
    r = _ratio(log_probs, old_log_probs, mask)
    bounded = torch.minimum(r * weights, r.clamp(1 - clip, 1 + clip) * weights)
    return masked_mean(bounded, mask)

"""Action distributions as values: small NamedTuples and pure functions of them.

A ``torch.distributions`` object cannot cross ``torch.func.vmap``; a NamedTuple of tensors can. All
functions work on any leading dimensions, usually ``(task, episode, time)``. Randomness is passed
in as noise: standard normal for `Gaussian`, uniform on [0, 1) for `Categorical`.
"""

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_EXPONENT = 60.0


class Gaussian(NamedTuple):
    """Diagonal normal distribution over action vectors."""

    mean: Tensor  # (..., action)
    log_std: Tensor  # (..., action), natural logarithm


class Categorical(NamedTuple):
    """Distribution over ``0 .. actions - 1``; the logits need not be normalised."""

    logits: Tensor  # (..., actions)


Distribution = Gaussian | Categorical
D = TypeVar("D", bound=Distribution)


def broadcast(distribution: D) -> D:
    """The distribution with fields of one shape: a deviation of all states comes as one."""
    return type(distribution)(*torch.broadcast_tensors(*distribution))  # type: ignore[no-untyped-call]


def log_prob(distribution: Distribution, action: Tensor) -> Tensor:
    """Log-density (or log-probability) of an action, *summed* over action dimensions.

    Args:
        distribution: fields ``(..., action)``.
        action: ``(..., action)`` for `Gaussian`, before any clipping; integers ``(...)`` for
            `Categorical`.

    Returns:
        ``(...)``.
    """
    if isinstance(distribution, Gaussian):
        mean, log_std = distribution
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z * z + log_std + _LOG_SQRT_2PI).sum(-1)
    log_p = torch.log_softmax(distribution.logits, -1)
    return torch.gather(log_p, -1, action.unsqueeze(-1)).squeeze(-1)


def linear_log_prob(old: Distribution, new: Distribution, action: Tensor) -> Tensor:
    """`log_prob` to first order in the distribution's fields around ``old``, less its value there.

    ``<d log p(a; old) / d old, new - old>``. Gaussian: ``sum_i z_i (mean - mean_old)_i / std_old_i
    + (z_i^2 - 1) (log_std - log_std_old)_i`` with ``z = (a - mean_old) / std_old``. Categorical:
    ``x_a - sum_i p_old_i x_i`` with ``x = logits - logits_old``.

    Args:
        old: that drew the action; fields ``(..., action)``.
        new: likewise.
        action: as of `log_prob`.

    Returns:
        ``(...)``, exactly 0 where ``new`` equals ``old``.

    Raises:
        TypeError: the distributions are of two kinds.
    """
    if isinstance(old, Gaussian) and isinstance(new, Gaussian):
        inverse = torch.exp(-old.log_std)
        z = (action - old.mean) * inverse
        moved = z * inverse * (new.mean - old.mean)
        return (moved + (z * z - 1) * (new.log_std - old.log_std)).sum(-1)
    if isinstance(old, Categorical) and isinstance(new, Categorical):
        x = new.logits - old.logits
        expected = (torch.softmax(old.logits, -1) * x).sum(-1)
        return torch.gather(x, -1, action.unsqueeze(-1)).squeeze(-1) - expected
    raise TypeError(f"{type(old).__name__} and {type(new).__name__} have no fields in common")


def kl(p: Distribution, q: Distribution) -> Tensor:
    """Kullback-Leibler divergence KL(p || q), summed over action dimensions: ``(...)``.

    Gaussian: ``sum_i 1/2 (exp(2 d_i) - 1 + ((mean_p - mean_q) / std_q)^2) - d_i`` with
    ``d = log_std_p - log_std_q``. Categorical: ``sum_i p_i (exp(d_i) - 1 - d_i)`` with ``d = log q
    - log p``, whose terms are all positive. Exactly 0, with gradient exactly 0, where p equals q.

    Raises:
        TypeError: the distributions are of two kinds.
    """
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        d = p.log_std - q.log_std
        z = (p.mean - q.mean) * torch.exp(-q.log_std)
        return (0.5 * (torch.expm1(2 * d) + z * z) - d).sum(-1)
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        log_p = torch.log_softmax(p.logits, -1)
        d = torch.log_softmax(q.logits, -1) - log_p
        # The bound is for actions of next to no probability, where 0 times infinity is NaN.
        return (log_p.exp() * (torch.expm1(d.clamp(max=_EXPONENT)) - d)).sum(-1)
    raise TypeError(f"KL between {type(p).__name__} and {type(q).__name__} is not defined")


def entropy(distribution: Distribution) -> Tensor:
    """Differential (Gaussian) or discrete entropy in nats: ``(...)``."""
    if isinstance(distribution, Gaussian):
        return (broadcast(distribution).log_std + (0.5 + _LOG_SQRT_2PI)).sum(-1)
    log_p = torch.log_softmax(distribution.logits, -1)
    return -(log_p.exp() * log_p).sum(-1)


def sample(distribution: Distribution, noise: Tensor) -> Tensor:
    """Action drawn by a deterministic map of noise.

    Args:
        distribution: fields ``(..., action)``.
        noise: for `Gaussian` standard normal ``(..., action)``: the action is ``mean + std *
            noise``. For `Categorical` uniform on [0, 1) ``(...)``: the inverse of the cumulative
            distribution.

    Returns:
        ``(..., action)`` or integers ``(...)``.
    """
    if isinstance(distribution, Gaussian):
        return torch.addcmul(distribution.mean, distribution.log_std.exp(), noise)
    cumulative = torch.softmax(distribution.logits, -1).cumsum(-1)
    # The last entry may round to other than 1: it is what the noise goes up to, so that none is
    # drawn of probability 0, and decides nothing itself.
    threshold = noise.unsqueeze(-1) * cumulative[..., -1:]
    return (threshold >= cumulative[..., :-1]).sum(-1)

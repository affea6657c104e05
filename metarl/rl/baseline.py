"""Linear feature baseline (Duan et al. 2016, "Benchmarking deep reinforcement learning").

Fitted to one task's own returns by ridge regression. The normal equations are float64: in float32
their condition number (the features reach t^3 and o^2) eats every digit. The functions are for ONE
task; a loop over tasks keeps the features in the cache and beats one batched call five times.
"""

import torch
from torch import Tensor

from metarl.errors import NonFiniteError

_CLIP = 10.0
_TIME_UNIT = 100.0
_TRIES = 5


def features(observations: Tensor, steps: Tensor) -> Tensor:
    """Baseline features, float64: ``(..., feature) -> (..., 2 * feature + 4)``.

    ``clip(o, -10, 10)``, its square, ``u, u^2, u^3`` with ``u = t / 100``, and 1.

    Args:
        observations: states ``(..., feature)``.
        steps: their time step t since the episode's reset, broadcast against ``(...)``.
    """
    dim = observations.shape[-1]
    x = observations.new_empty((*observations.shape[:-1], 2 * dim + 4), dtype=torch.float64)
    x[..., :dim] = observations.clamp(-_CLIP, _CLIP)
    torch.mul(x[..., :dim], x[..., :dim], out=x[..., dim : 2 * dim])
    u = steps.double() / _TIME_UNIT
    x[..., 2 * dim :] = torch.stack((u, u**2, u**3, torch.ones_like(u)), -1)
    return x


def fit(x: Tensor, targets: Tensor, mask: Tensor, *, ridge: float = 1e-5) -> Tensor:
    """Ridge regression: the minimiser of ``sum mask (x w - target)^2 + ridge |w|^2``.

    Solves ``(X'X + ridge I) w = X'y`` by Cholesky. Where that fails or is not finite, the ridge is
    multiplied by 10, up to 5 tries in all.

    Args:
        x: float64 features ``(..., feature)``.
        targets: discounted returns ``(...)``.
        mask: 1 at valid steps ``(...)``; without any the weights are 0.
        ridge: weight of the penalty.

    Returns:
        Weights ``(feature,)``, float64.

    Raises:
        NonFiniteError: no try gave finite weights, as for non-finite targets.
    """
    valid = mask.reshape(-1, 1).to(x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    weighted = rows * valid
    gram, moment = weighted.mT @ rows, weighted.mT @ targets.reshape(-1, 1).to(x.dtype)
    for attempt in range(_TRIES):
        ridged = gram.clone()
        ridged.diagonal().add_(ridge * 10.0**attempt)
        factor, info = torch.linalg.cholesky_ex(ridged)
        weights = torch.cholesky_solve(moment, factor).squeeze(-1)
        if info == 0 and weights.isfinite().all():
            return weights
    raise NonFiniteError(
        "the linear baseline has no finite solution: look at the returns and observations",
        place="baseline",
    )


def predict(weights: Tensor, x: Tensor) -> Tensor:
    """Values ``x w``: weights ``(feature,)``, x ``(..., feature) -> (...)``."""
    return x @ weights

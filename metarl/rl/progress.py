"""What a meta-iteration reports of returns and step lengths."""

import math

import torch

from metarl.inner import InnerLoop
from metarl.params import Params, split_rates
from metarl.rates import rate_at, resolve_rates
from metarl.rl.collect import Collected
from metarl.rl.distributions import Gaussian
from metarl.rl.rollout import mean_return


def progress(collected: Collected) -> dict[str, float]:
    """What adaptation gained: means over tasks of returns before and after it.

    Without inner steps there is no gain to report, and with one task no confidence interval.
    """
    before = mean_return(collected.rollouts[0]).double()
    after = mean_return(collected.rollouts[-1]).double()
    metrics = {"return_after": float(after.mean())}
    if len(collected.rollouts) > 1:
        gain = after - before
        metrics = {"return_before": float(before.mean()), **metrics, "gain": float(gain.mean())}
        if len(gain) > 1:
            metrics["gain_ci95"] = 1.96 * float(gain.std(correction=1)) / math.sqrt(len(gain))
        metrics["worse_fraction"] = float((gain < 0).double().mean())
    metrics["env_steps"] = float(collected.env_steps)
    metrics["invalid_episodes"] = float(collected.invalid_episodes)
    distribution = collected.rollouts[0].distribution
    if isinstance(distribution, Gaussian):
        metrics["sigma"] = float(distribution.log_std[:, 0, 0].exp().mean())
    return metrics


@torch.no_grad()
def inner_gradient_norm(theta: Params, path: list[Params], inner: InnerLoop) -> float:
    """Mean over tasks of the norm of the first inner step divided by its step sizes."""
    if len(path) < 2:
        return 0.0
    params, learned = split_rates(theta)
    names = [name for name in params if inner.adapted is None or inner.adapted(name)]
    rates = resolve_rates(inner.lr, learned, params, names)
    total = torch.zeros(len(next(iter(path[0].values()))), dtype=torch.float64)
    for name in names:
        rate = rate_at(rates[name], params[name], 0)
        step = ((path[0][name] - path[1][name]) / rate).double()
        total += step.nan_to_num(0.0, 0.0, 0.0).flatten(1).square().sum(1).cpu()
    return float(total.sqrt().mean())

"""What a meta-iteration reports of returns and step lengths."""

import math

import torch

from metarl.distributed import ALONE, Ranks
from metarl.inner import InnerLoop, adapting
from metarl.params import Params, split_rates
from metarl.rates import rate_at, resolve_rates

from .collect import Collected
from .distributions import Gaussian
from .rollout import mean_return


def progress(collected: Collected, ranks: Ranks = ALONE) -> dict[str, float]:
    """What adaptation gained: means over the tasks of all ranks of returns before and after it.

    Without inner steps there is no gain to report, and with one task no confidence interval.
    """
    ends = torch.stack([mean_return(collected.rollouts[k]).cpu().double() for k in (0, -1)], 1)
    before, after = ranks.gather(ends).unbind(1)
    metrics = {"return_after": float(after.mean())}
    if len(collected.rollouts) > 1:
        gain = after - before
        metrics = {"return_before": float(before.mean()), **metrics, "gain": float(gain.mean())}
        if len(gain) > 1:
            metrics["gain_ci95"] = 1.96 * float(gain.std(correction=1)) / math.sqrt(len(gain))
        metrics["worse_fraction"] = float((gain < 0).double().mean())
    counts = torch.tensor([collected.env_steps, collected.invalid_episodes], device="cpu")
    metrics["env_steps"], metrics["invalid_episodes"] = map(float, ranks.reduce(counts))
    distribution = collected.rollouts[0].distribution
    if isinstance(distribution, Gaussian):  # the same for all tasks before adaptation
        metrics["sigma"] = float(distribution.log_std[0, 0, 0].exp().mean())
    return metrics


@torch.no_grad()
def inner_gradient_norm(
    theta: Params, path: list[Params], inner: InnerLoop, ranks: Ranks = ALONE
) -> float:
    """Mean over all tasks of the norm of the first inner step divided by its step sizes.

    Elements that do not move are left out: their step size is 0, or their step is lost in the
    parameter's rounding. To see these too would take every task's gradient once more.
    """
    if len(path) < 2:
        return 0.0
    params, learned = split_rates(theta)
    names = adapting(params, inner)
    rates = resolve_rates(inner.lr, learned, params, names)
    tasks = len(next(iter(path[0].values())))
    total = torch.zeros(tasks, dtype=torch.float64, device="cpu")
    for name in names:
        rate = rate_at(rates[name], params[name], 0)
        step = ((path[0][name] - path[1][name]) / rate).cpu().double()
        step = step.nan_to_num(0.0, 0.0, 0.0).reshape(len(step), -1)
        total += step.square().sum(1)
    return float(ranks.gather(total.sqrt()).mean())

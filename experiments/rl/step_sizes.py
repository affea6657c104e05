"""Step sizes of a policy's inner loop, measured on training tasks."""

import warnings
from typing import Any

import torch

import metarl
from metarl.distributed import Ranks
from metarl.errors import InputError, RunWarning
from metarl.rl.collect import adapt_by_acting
from metarl.rl.sampler import Sampler

# Meta-batches that the step sizes are measured on: with 20 tasks each, an element that is all
# noise keeps three hundredths of its step.
BATCHES = 8


@torch.no_grad()
def unmeasured(theta: metarl.Params, lr: float) -> metarl.Params:
    """Theta without its step sizes, which become ``lr``: nothing learns them before the measuring.

    Validation sees those in theta, whatever they were, as in a checkpoint that training began with.
    """
    model, rates = metarl.split_rates(theta)
    for rate in rates.values():
        rate.fill_(lr)
    return model


def measure_rates(
    theta: metarl.Params,
    lr: float,
    sampler: Sampler,
    *,
    meta_batch: int,
    seed: int,
    ranks: Ranks,
    **adapting: Any,
) -> int:
    """Set the step sizes in theta, in place, to `metarl.signal_rates` of the first inner step.

    Every task takes its step twice, on episodes of its own each time. Where the two have nothing in
    common, all step sizes are ``lr``, with a warning.

    Args:
        theta: initial parameters and one step size an element, whose values are not used.
        lr: step size without a filter.
        sampler: has room for this rank's tasks.
        meta_batch: tasks of all ranks.
        seed: keys tasks and episodes.
        ranks: share the tasks; all get the same step sizes.
        adapting: policy, objectives, weighting and mapping of `adapt_by_acting`.

    Returns:
        Environment steps of all ranks.

    Raises:
        NonFiniteError: see `adapt_by_acting`; theta is as it was.
    """
    rows = ranks.rows(meta_batch)
    model, _ = metarl.split_rates(theta)
    moments: list[tuple[metarl.Params, metarl.Params]] = []
    env_steps = 0
    for batch in range(BATCHES):
        rng = metarl.stream(seed, "step-size-tasks", batch)
        tasks = sampler.sample_tasks(meta_batch, rng)[rows]
        steps: list[metarl.Params] = []
        for half in range(2):
            adapted = adapt_by_acting(
                model,
                sampler=sampler,
                tasks=tasks,
                inner_steps=1,
                seed=metarl.seed_of(seed, "step-size-rollouts", batch, half),
                block=(rows.start, meta_batch),
                **adapting,
            )
            before, after = adapted.path
            steps.append({name: ranks.gather(after[name] - before[name]) for name in before})
            env_steps += adapted.env_steps
        moments.append(metarl.step_moments(*steps))
    signal, power = (
        {name: torch.stack([m[name] for m in kind]).mean(0) for name in kind[0]}
        for kind in zip(*moments, strict=True)
    )
    try:
        found = metarl.signal_rates(signal, power, lr)
    except InputError as error:
        if ranks.rank == 0:
            warnings.warn(f"step sizes stay at {lr:g}: {error}", RunWarning, stacklevel=2)
        unmeasured(theta, lr)
        found = {}
    with torch.no_grad():
        for name, rate in found.items():
            if name in theta:  # what does not adapt has none
                theta[name].copy_(rate)
    return int(ranks.reduce(torch.tensor([env_steps]))[0])

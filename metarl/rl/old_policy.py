"""The policies that ratios and divergences are taken against."""

import warnings

import torch

from metarl.chunks import each, run_chunks
from metarl.kept import kept_if
from metarl.mapping import resolve_mapping
from metarl.params import Params

from .batches import MetaBatch
from .distributions import kl
from .objectives import PolicyObjectives
from .surrogates import masked_mean

# Nats, mean over steps. A meta-step goes about 0.01 far; sums in another order, below 1e-6.
_ROUNDING = 1e-4


def old_policy(
    objectives: PolicyObjectives, theta: Params, data: MetaBatch, *, mapping: str = "auto"
) -> MetaBatch:
    """``data`` whose old policies are the objective's own at ``theta``.

    Then every ratio is exactly 1 there, and the KL and its gradient exactly 0. The ones recorded by
    the sampler differ in the last bits, and so do the policies that ``linear`` steps reach around
    them. More than rounding between those after adaptation warns: the tasks were then sampled with
    another theta, inner loss or module, or step sizes of their own.
    """
    own = own_policy(objectives, theta, data, mapping=mapping)
    apart = float(masked_mean(kl(data.query.old, own.query.old), data.query.mask))
    if apart > _ROUNDING:
        warnings.warn(
            f"the policies that sampled and those that the objectives adapt to are {apart:.2g} "
            "nats apart: give both the same theta, objectives and module, one that acts alike at "
            "every call (no dropout, no statistics of a batch, no memory over time), and no inner "
            "loop to the sampling",
            stacklevel=2,
        )
    return own


def own_policy(
    objectives: PolicyObjectives, theta: Params, data: MetaBatch, *, mapping: str = "auto"
) -> MetaBatch:
    """`old_policy` of any data, whoever acted in it."""
    with torch.no_grad():
        resolved = resolve_mapping(mapping, data)
        run = kept_if(resolved.compile, each, objectives.policies)
        chunks = run_chunks(run, theta, data, resolved)
    old = [
        type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))
        for parts in zip(*chunks, strict=True)
    ]
    supports = tuple(s._replace(old=o) for s, o in zip(data.supports, old[:-1], strict=True))
    return data._replace(supports=supports, query=data.query._replace(old=old[-1]))

"""The policies that ratios and divergences are taken against."""

import functools

import torch

from metarl.mapping import ChunkFunction, each, resolve_mapping, run_chunks
from metarl.params import Params
from metarl.rl.batches import MetaBatch
from metarl.rl.distributions import Distribution
from metarl.rl.objectives import PolicyObjectives


def old_policy(
    objectives: PolicyObjectives, theta: Params, data: MetaBatch, *, mapping: str = "auto"
) -> MetaBatch:
    """``data`` whose old policies are the objective's own at ``theta``.

    Then every ratio is exactly 1 there, and the KL and its gradient exactly 0. The ones recorded by
    the sampler differ in the last bits, and so do the policies that ``linear`` steps reach around
    them.
    """
    with torch.no_grad():
        chunks = run_chunks(_policies(objectives), (theta,), data, resolve_mapping(mapping, data))
    old = [
        type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))
        for parts in zip(*chunks, strict=True)
    ]
    supports = tuple(s._replace(old=o) for s, o in zip(data.supports, old[:-1], strict=True))
    return data._replace(supports=supports, query=data.query._replace(old=old[-1]))


@functools.lru_cache(maxsize=8)
def _policies(objectives: PolicyObjectives) -> ChunkFunction:
    def policies(shared: tuple[Params], data: MetaBatch) -> tuple[Distribution, ...]:
        return objectives.policies(*shared, data)

    return each(policies)

"""A policy mapped over tasks: its parameters looked at, and called task by task if wanted."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metarl.errors import InputError, NonFiniteError
from metarl.finite import first_not_finite
from metarl.params import Params, from_module

from .actions import check_kind
from .distributions import Distribution, broadcast

Mapped = Callable[[Params, Tensor], Distribution]
"""``(parameters (task, ...), (task, row, observation)) -> distribution (task, row, action)``."""


def map_policy(policy: nn.Module, params: Params) -> Mapped:
    """The policy under every task's parameters, by its own ``map_tasks`` or by vmap.

    Its own where that computes the same: no subclass overrides ``forward`` alone, nothing is
    hooked, the policy's ``as_built`` is true (its parts are those that ``map_tasks`` knows), and
    ``params`` hold every parameter, none of them frozen.
    """
    fits = _defines(policy, "map_tasks", rather_than="forward") and not _hooked(policy)
    fits = fits and getattr(policy, "as_built", True)
    named = policy.named_parameters(remove_duplicate=False)  # it reads tied ones by each name
    if fits and params.keys() == {name for name, _ in named}:
        mapped: Mapped = policy.map_tasks  # type: ignore[assignment]
        return mapped
    like = next(iter(params.values()))
    apply = from_module(policy, device=like.device, dtype=like.dtype)[1]

    def act(own: Params, observations: Tensor) -> Distribution:
        distribution: Distribution = apply(own, observations)
        check_kind(distribution)  # which vmap would not say
        return broadcast(distribution)  # rollouts hold each step's own

    return torch.func.vmap(act, randomness="different")


def _defines(policy: nn.Module, name: str, *, rather_than: str) -> bool:
    """Whether a method is defined by the same class as another, or by one that inherits from it."""
    for kind in type(policy).__mro__:
        if name in vars(kind):
            return True
        if rather_than in vars(kind):
            return False
    return False


def _hooked(policy: nn.Module) -> bool:
    """Whether a call of the policy, or of a part, is more than its class's ``forward``."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in policy.modules()
    )


def one_by_one(apply: Mapped) -> Mapped:
    """The mapped policy, called once for each task: outputs do not depend on how many there are."""

    def run(params: Params, x: Tensor) -> Distribution:
        parts = [
            apply({name: p[i : i + 1] for name, p in params.items()}, x[i : i + 1])
            for i in range(len(x))
        ]
        return type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))

    return run


def check_params(params: Params, tasks: int) -> None:
    """Refuse parameters that are not finite, or not of so many tasks."""
    for name, p in params.items():
        if p.ndim == 0 or len(p) != tasks:
            raise InputError(
                f"parameter {name} has the shape {tuple(p.shape)}, but set_tasks was given "
                f"{tasks} tasks: collect takes parameters with a leading task dimension, as "
                "expand_params gives them"
            )
        if not torch.isfinite(p.sum()):
            task = first_not_finite(p)
            if task is not None:
                raise NonFiniteError(
                    f"parameter {name} of task {task} is not finite before sampling",
                    place=f"parameter {name}",
                    task=task,
                )

"""One meta-iteration of a policy, in one direction: sample, adapt, sample, update."""

from collections.abc import Callable

from metarl.distributed import ALONE, Ranks
from metarl.errors import NonFiniteError
from metarl.params import Params

from .batches import MetaBatch
from .blame import blame
from .clock import Clock
from .collect import Collected
from .objectives import PolicyObjectives
from .old_policy import old_policy
from .progress import inner_gradient_norm, progress

Collect = Callable[[Params, Clock], Collected]
"""``(theta, clock) -> collected``: `collect_meta_batch` with tasks and settings filled in."""

Update = Callable[[Params, MetaBatch, Clock], tuple[Params, dict[str, float]]]
"""``(theta, data, clock) -> (theta, metrics)``: a meta-update with its settings filled in."""


def meta_step(
    theta: Params,
    collect: Collect,
    update: Update,
    *,
    objectives: PolicyObjectives,
    mapping: str = "auto",
    ranks: Ranks = ALONE,
) -> tuple[Params, dict[str, float]]:
    """One meta-iteration: the whole flow of MAML for policies (Finn et al. 2017, algorithm 3).

    Tasks are sampled under theta, adapted, sampled again after each inner step, and theta moves so
    that the policies *after* adaptation improve.

    Args:
        theta: initial parameters, learned step sizes among them.
        collect: samples and adapts, see `collect_meta_batch`.
        update: TRPO, ProMP or Adam, see `updates`.
        objectives: the task functions that ``collect`` adapts by.
        mapping: of the policies before the update.
        ranks: share the tasks, as in ``collect``.

    Returns:
        The new theta and the iteration's metrics.

    Raises:
        NonFiniteError: anything sampled or computed is not finite; theta is unchanged.
    """
    clock = Clock()
    collected = collect(theta, clock)
    with clock("adapt"):
        data = old_policy(objectives, theta, collected.data, mapping=mapping)
    # Before the update, which may move theta in place.
    sampled = progress(collected, ranks)
    sampled["inner_grad_norm"] = inner_gradient_norm(theta, collected.path, objectives.inner, ranks)
    try:
        new_theta, metrics = update(theta, data, clock)
    except NonFiniteError as error:
        raise blame(error, objectives, theta, data) from None
    return new_theta, {**sampled, **metrics, **clock.metrics()}

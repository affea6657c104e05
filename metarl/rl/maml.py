"""One meta-iteration of a policy, in one direction: sample, adapt, sample, update."""

from typing import Protocol

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


class Collect(Protocol):
    """`collect_meta_batch` with tasks and settings filled in."""

    def __call__(self, theta: Params, /, *, clock: Clock) -> Collected:
        """Sample and adapt under theta."""


class Update(Protocol):
    """A meta-update, such as `trpo_update`, with its settings filled in."""

    def __call__(
        self, theta: Params, data: MetaBatch, /, *, clock: Clock
    ) -> tuple[Params, dict[str, float]]:
        """The new theta, and metrics."""


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
        collect: samples and adapts: ``functools.partial`` of `collect_meta_batch`.
        update: likewise of `trpo_update`, `promp_update` or `adam_update`.
        objectives: the task functions that ``collect`` adapts by.
        mapping: of the policies before the update.
        ranks: share the tasks, as in ``collect``.

    Returns:
        The new theta and the iteration's metrics.

    Raises:
        NonFiniteError: anything sampled or computed is not finite; theta is unchanged.
    """
    clock = Clock()
    collected = collect(theta, clock=clock)
    with clock("adapt"):
        data = old_policy(objectives, theta, collected.data, mapping=mapping)
    # Before the update, which may move theta in place.
    sampled = progress(collected, ranks)
    sampled["inner_grad_norm"] = inner_gradient_norm(theta, collected.path, objectives.inner, ranks)
    try:
        new_theta, metrics = update(theta, data, clock=clock)
    except NonFiniteError as error:
        raise blame(error, objectives, theta, data) from None
    return new_theta, {**sampled, **metrics, **clock.metrics()}

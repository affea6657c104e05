"""Which task is behind a failed meta-update."""

import operator

from torch import Tensor
from torch.utils._pytree import tree_map_only

from metarl.errors import NonFiniteError
from metarl.objective import mean_over_tasks
from metarl.params import Params

from .batches import MetaBatch, task_arrays
from .objectives import PolicyObjectives
from .updates import require_usable


def blame(
    error: NonFiniteError, objectives: PolicyObjectives, theta: Params, data: MetaBatch
) -> NonFiniteError:
    """Name the task behind an error of a mean over tasks, with its data, where one can be found.

    Args:
        error: raised by an update, before ``theta`` moved.
        objectives: the task functions.
        theta: initial parameters.
        data: of all tasks.
    """
    for task in range(len(data.query.mask)):
        own = tree_map_only(Tensor, operator.itemgetter(slice(task, task + 1)), data)
        objective = mean_over_tasks(objectives.surrogate, own, mapping="vmap")
        try:
            require_usable(*objective.gradient(theta))
        except NonFiniteError as found:
            return NonFiniteError(
                f"{found} (task {task})",
                place=found.place,
                task=task,
                batch=task_arrays((*data.supports, data.query), task),
            )
    return error

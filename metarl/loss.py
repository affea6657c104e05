"""The loss of one task, and what it may return."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .errors import InputError
from .params import Params

Loss = Callable[[Params, Any], Any]
"""``loss(params, batch)`` of ONE task: a scalar, or a NamedTuple of scalars, the loss first.

A pure function of its two arguments. Mapped by vmap, its Python code runs once for all tasks;
compiled, once for each set of shapes: Python numbers and branches, and which tensors it closes
over, stay as they were then. What changes from call to call belongs in ``params`` or ``batch``, as
tensors; the programs of the last 64 losses are kept, and what these close over with them.
Random numbers, such as dropout's, follow torch's generator unless the loss is compiled, and are
the same each time unless it is mapped on threads, which race for it.
Meta-gradients go to ``params`` alone, not to what a loss closes over.
"""


def first(output: Any) -> Tensor:
    """The loss itself: the output, or its first field."""
    loss: Tensor = output if isinstance(output, Tensor) else output[0]
    return loss


def checked(output: Any) -> Any:
    """What a loss returned.

    Raises:
        InputError: it is no scalar tensor and no NamedTuple of tensors that begins with one.
    """
    loss = output[0] if hasattr(output, "_fields") else output
    if not isinstance(loss, Tensor) or loss.ndim:
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
        raise InputError(
            f"the loss returned a value of type {type(output).__name__}{shape}: it must return a "
            "scalar, or a NamedTuple of scalars with the loss first"
        )
    for name in getattr(output, "_fields", ()):
        field = getattr(output, name)
        if not isinstance(field, Tensor):
            raise InputError(
                f"field {name} of what the loss returned is of type {type(field).__name__}: return "
                "tensors, such as torch.tensor(1.0)"
            )
    return output


def depending(loss: Tensor) -> Tensor:
    """A loss that is to be differentiated by its parameters.

    Raises:
        InputError: it does not depend on them.
    """
    if not loss.requires_grad:
        raise InputError(
            "a loss does not depend on the params it was given: it has to call apply(params, ...), "
            "not a module, whose parameters are its own"
        )
    return loss

"""Forgetting what a function computed on its way, to compute it again for its derivative.

`torch.utils.checkpoint` does the same outside of ``torch.func``, whose transforms it cannot cross.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

_TENSOR = object()


def recomputed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps its arguments for its derivative and nothing else.

    Args:
        fn: pure; all the tensors it depends on are among its arguments, in any nesting of tuples
            and dicts, and what it returns is nested likewise.
    """

    def run(*arguments: Any) -> Any:
        leaves, spec = tree_flatten(arguments)
        positions = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        returned: list[Any] = []

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            filled = list(leaves)
            for i, x in zip(positions, tensors, strict=True):
                filled[i] = x
            out, out_spec = tree_flatten(fn(*tree_unflatten(filled, spec)))
            # What is no tensor, such as a count of steps, is the same in every call.
            returned[:] = [_TENSOR if isinstance(x, Tensor) else x for x in out], out_spec
            return tuple(x for x in out if isinstance(x, Tensor))

        tensors = iter(_Recomputed.apply(flat, *(leaves[i] for i in positions)))  # type: ignore[no-untyped-call]
        rest: list[Any] = returned[0]
        out_spec = returned[1]
        return tree_unflatten([next(tensors) if x is _TENSOR else x for x in rest], out_spec)

    return run


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(fn: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        # An input handed back as it is may not be saved too.
        return tuple(y.view_as(y) if any(y is x for x in tensors) else y for y in fn(*tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.fn = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [i for i, x in enumerate(ctx.needs_input_grad[1:]) if x]
        count = len(ctx.saved_tensors)

        def pull_back(*both: Tensor) -> tuple[Tensor, ...]:
            tensors = list(both[:count])

            def of_wanted(*some: Tensor) -> tuple[Tensor, ...]:
                for i, x in zip(wanted, some, strict=True):
                    tensors[i] = x
                out: tuple[Tensor, ...] = ctx.fn(*tensors)
                return out

            pull = torch.func.vjp(of_wanted, *(tensors[i] for i in wanted))[1]
            pulled: tuple[Tensor, ...] = pull(both[count:])
            return pulled

        # Itself recomputed: torch.func records every derivative, lest another is taken of it.
        found = _Recomputed.apply(pull_back, *ctx.saved_tensors, *slopes)  # type: ignore[no-untyped-call]
        gradients: list[Tensor | None] = [None] * (count + 1)
        for i, gradient in zip(wanted, found, strict=True):
            gradients[i + 1] = gradient
        return tuple(gradients)

"""Forgetting what a function computed on its way, to compute it again for its derivative.

`torch.utils.checkpoint` does the same outside of ``torch.func``, whose transforms it cannot cross.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._pytree import tree_flatten, tree_unflatten

from .errors import InputError
from .threads import on_worker

_TENSOR = object()
_repeating = threading.RLock()


def recomputed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps its arguments for its derivative and nothing else.

    Random numbers, such as dropout's, are drawn again as they were: torch's generators, those of
    the CPU and of CUDA, start each later call where they started the first, and are left where they
    stood.

    Args:
        fn: pure but for torch's random numbers; all the tensors it depends on are among its
            arguments, in any nesting of tuples and dicts, and what it returns is nested likewise.

    Raises:
        InputError: of the function returned: ``fn``, or another worker beside it, draws random
            numbers. They cannot be drawn again, since worker threads share the generator or a
            compiled program has its own.
    """

    def run(*arguments: Any) -> Any:
        leaves, spec = tree_flatten(arguments)
        positions = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        returned: list[Any] = []
        draws = _Draws(leaves[i].device for i in positions)

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            filled = list(leaves)
            for i, x in zip(positions, tensors, strict=True):
                filled[i] = x
            with draws.the_same():
                out, out_spec = tree_flatten(fn(*tree_unflatten(filled, spec)))
            # What is no tensor, such as a count of steps, is the same in every call.
            returned[:] = [_TENSOR if isinstance(x, Tensor) else x for x in out], out_spec
            return tuple(x for x in out if isinstance(x, Tensor))

        tensors = iter(_Recomputed.apply(flat, *(leaves[i] for i in positions)))  # type: ignore[no-untyped-call]
        rest: list[Any] = returned[0]
        out_spec = returned[1]
        return tree_unflatten([next(tensors) if x is _TENSOR else x for x in rest], out_spec)

    return run


class _Draws:
    """torch's random numbers of one call and of its repetitions."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._gpus = sorted({d.index for d in devices if d.type == "cuda"})
        self._start: list[Tensor] | None = None
        self._any = False

    @contextlib.contextmanager
    def the_same(self) -> Iterator[None]:
        """What is drawn within is what was drawn within the first time."""
        if self._start is None:
            self._start = self._states()
            yield
            both = zip(self._start, self._states(), strict=True)
            self._any = not all(np.array_equal(a.numpy(), b.numpy()) for a, b in both)
            if self._any and (on_worker() or get_proxy_mode() is not None):
                raise InputError(
                    "a loss draws random numbers, as dropout does, which recompute=True repeats "
                    "only with mapping 'vmap' or 'chunk:N', not compiled"
                )
        elif self._any:
            # Workers that replay products of several tasks share the generator.
            with _repeating, torch.random.fork_rng(self._gpus):
                torch.set_rng_state(self._start[0])
                for gpu, state in zip(self._gpus, self._start[1:], strict=True):
                    torch.cuda.set_rng_state(state, gpu)
                yield
        else:
            yield

    def _states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in self._gpus)]


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

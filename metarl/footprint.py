"""How much memory a function's tensors take, found from their shapes: nothing is computed."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class Footprint(NamedTuple):
    """Bytes of the tensors that a call makes, what it is given not counted.

    Attributes:
        peak: most at a time.
        kept: of what the call returned, and of all that this holds.
    """

    peak: int
    kept: int


def shapes(tree: Any) -> Any:
    """The same tensors without numbers."""
    return tree_map(lambda x: x.detach().to("meta") if isinstance(x, Tensor) else x, tree)


def footprint(fn: Callable[[], Any]) -> Footprint:
    """Call ``fn``, whose tensors are `shapes`, and count.

    Args:
        fn: runs on this thread alone, and no branch of it depends on a number.
    """
    with _Counting() as counting:
        result = fn()
    found = Footprint(counting.most, counting.now)
    del result
    return found


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Before, lest what is given be taken for made.
        given = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = op(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := _key(x)) not in self.known | given:
                storage = x.untyped_storage()
                self.known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _key(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)

"""Leaves of nested containers."""

from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_leaves

from metarl.trees import leaves


class Pair(NamedTuple):
    x: Any
    y: Any


class Row(tuple[Any, ...]):
    """A tuple that torch takes for a leaf."""


class Rows(list[Any]):
    """A list likewise."""


class Table(dict[str, Any]):
    """A dict likewise."""


X, Y = torch.zeros(2), torch.ones(3)


@pytest.mark.parametrize(
    "tree",
    [
        X,
        None,
        3.0,
        (),
        [X, (Y, None)],
        {"b": X, "a": [Y]},
        Pair(X, Pair(1, {"y": Y})),
        OrderedDict(b=X, a=Y),
        defaultdict(list, b=[X], a=(Y, X)),
        deque([X, Pair(Y, X)]),
        Row((X, Y)),
        Rows([X, Y]),
        Table(x=X),
        [Row((X,)), Rows([Y]), Table(x=X), Pair(Y, OrderedDict(x=deque([X])))],
        torch.Size((2, 3)),
        torch.zeros(3, 2).max(0),
    ],
)
def test_they_are_torchs_in_its_order(tree: Any) -> None:
    found, expected = leaves(tree), tree_leaves(tree)
    assert [id(x) for x in found] == [id(x) for x in expected]

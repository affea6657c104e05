"""The task dimension that all tensors of a batch have in common."""

import enum
import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .trees import leaves

# What a batch may hold; anything else might have numbers of single tasks inside.
_WORDS = (str, bytes, type(None), enum.Enum, torch.dtype, torch.device)
_PLAIN = (Tensor, numbers.Number, np.generic, *_WORDS)


def count_tasks(data: Any) -> int:
    """The common leading dimension of all tensors in ``data``.

    Raises:
        InputError: there is none, it differs between tensors, or a leaf may hide numbers, as an
            array or any other object does.
    """
    given = leaves(data)
    for x in given:
        if not isinstance(x, _PLAIN):
            raise InputError(
                f"a batch holds an object of type {type(x).__name__}, which every task would get "
                "whole: use tensors, and plain numbers and words that all share, in tuples, lists, "
                "dicts or NamedTuples"
            )
    sizes = {x.shape[0] if x.ndim else None for x in given if isinstance(x, Tensor)}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise InputError(
            "the batches of a meta-batch need one common leading task dimension, got "
            f"{sorted(str(s) for s in sizes) or 'no tensors'} (a number that all tasks share goes "
            "as a Python number, or, if compiled and changing, as a tensor with one entry a task)"
        )
    (size,) = sizes
    assert size is not None
    return size

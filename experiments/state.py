"""Between the state that training changes and the arrays that a checkpoint holds."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import InputError
from metarl.runs import Snapshot

from .family import State


def snapshot(state: State, iteration: int, loop: dict[str, Any]) -> Snapshot:
    """Copies of everything; optimiser arrays are named ``<parameter>/<moment>``.

    Args:
        state: after ``iteration`` iterations.
        iteration: how many are done.
        loop: what the training loop itself carries, as JSON.
    """
    optimizer = {
        f"{name}/{key}": _array(value)
        for name, moments in _moments(state).items()
        for key, value in moments.items()
    }
    params = {name: _array(value) for name, value in state.params.items()}
    return Snapshot(iteration, params, optimizer, {"learner": dict(state.extra), "loop": loop})


def restore(state: State, saved: Snapshot) -> dict[str, Any]:
    """Put a snapshot's values into a fresh state, in place, and return the loop's part.

    Raises:
        InputError: the snapshot is of another model or optimiser.
    """
    put_params(state.params, saved.params)
    if state.optimizer is not None:
        moments: dict[str, dict[str, Tensor]] = {}
        for name, value in saved.optimizer.items():
            parameter, _, key = name.rpartition("/")
            moments.setdefault(parameter, {})[key] = torch.from_numpy(value.copy())
        unknown = set(moments) - set(state.params)
        if unknown:
            raise InputError(f"the optimizer's state is of unknown parameters {sorted(unknown)}")
        packed = state.optimizer.state_dict()
        order = _order(state)
        packed["state"] = {order.index(name): value for name, value in moments.items()}
        state.optimizer.load_state_dict(packed)
    state.extra.clear()
    state.extra.update(saved.state["learner"])
    loop: dict[str, Any] = saved.state["loop"]
    return loop


def put_params(params: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> None:
    """Copy arrays into tensors of the same names and shapes.

    Raises:
        InputError: names or shapes differ.
    """
    ours = {name: tuple(value.shape) for name, value in params.items()}
    theirs = {name: array.shape for name, array in arrays.items()}
    if ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()))
        raise InputError(f"its parameters differ in name or shape: {differing}")
    with torch.no_grad():
        for name, value in params.items():
            value.copy_(torch.from_numpy(arrays[name].copy()))


def _order(state: State) -> list[str]:
    """Parameter names in the optimiser's own order."""
    assert state.optimizer is not None
    names = {id(value): name for name, value in state.params.items()}
    return [names[id(p)] for group in state.optimizer.param_groups for p in group["params"]]


def _moments(state: State) -> dict[str, dict[str, Any]]:
    if state.optimizer is None:
        return {}
    packed = state.optimizer.state_dict()["state"]
    return {name: packed[i] for i, name in enumerate(_order(state)) if i in packed}


def _array(value: Tensor | float) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy().copy()
    return np.asarray(value)

"""Between the state that training changes and the arrays that a checkpoint holds."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.distributed import Ranks
from metarl.errors import InputError
from metarl.params import RATE_PREFIX
from metarl.runs import Snapshot, arrays

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


def restore(state: State, saved: Snapshot) -> tuple[list[dict[str, float]], int]:
    """Put a snapshot's values into a fresh state, in place, and return the loop's part.

    Raises:
        InputError: the snapshot is of another model or optimiser, or of another program; nothing
            has changed.
    """
    learner, loop = (saved.state.get(name) for name in ("learner", "loop"))
    if not isinstance(learner, dict) or learner.keys() != state.extra.keys():
        raise InputError("the checkpoint's state is none of this experiment")
    if not isinstance(loop, dict) or loop.keys() != {"window", "stalled"}:
        raise InputError("the checkpoint's state is none of `metarl train`")
    _check_moments(state, saved.optimizer)
    put_params(state.params, saved.params)
    if state.optimizer is not None:
        moments: dict[str, dict[str, Tensor]] = {}
        for name, value in saved.optimizer.items():
            parameter, _, key = name.rpartition("/")
            moments.setdefault(parameter, {})[key] = torch.from_numpy(value.copy())
        packed = state.optimizer.state_dict()
        order = _order(state)
        packed["state"] = {order.index(name): value for name, value in moments.items()}
        state.optimizer.load_state_dict(packed)
    state.extra.clear()
    state.extra.update(learner)
    return loop["window"], loop["stalled"]


def _check_moments(state: State, arrays: dict[str, np.ndarray]) -> None:
    """Refuse moments of another optimiser: a fused one would read beyond their ends."""
    if state.optimizer is None or not arrays:  # before the first step there are none
        return
    shapes = {name: tuple(p.shape) for name, p in state.params.items()}
    wanted = {f"{name}/{key}": s for name, s in shapes.items() for key in ("exp_avg", "exp_avg_sq")}
    wanted |= {f"{name}/step": () for name in shapes}
    found = {name: array.shape for name, array in arrays.items()}
    if found != wanted:
        name = min(name for name, _ in found.items() ^ wanted.items())
        raise InputError(
            f"the optimizer's state is of another model: {name} is {found.get(name, 'none')} there "
            f"and {wanted.get(name, 'none')} here"
        )


def put_params(params: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> None:
    """Copy arrays into tensors of the same names and shapes.

    Raises:
        InputError: names or shapes differ.
    """
    ours = {name: tuple(value.shape) for name, value in params.items()}
    theirs = {name: array.shape for name, array in arrays.items()}
    if ours != theirs:
        name = min(name for name, _ in ours.items() ^ theirs.items())
        there, here = (shapes.get(name, "none") for shapes in (theirs, ours))
        is_rate = name.startswith(RATE_PREFIX)
        hint = "; give --learned-lr and --lr-per-step as there" if is_rate else ""
        raise InputError(
            f"its parameters are of another model: {name} is {there} there and {here} here{hint}"
        )
    with torch.no_grad():
        for name, value in params.items():
            value.copy_(torch.from_numpy(arrays[name].copy()))


def share(saved: Snapshot | None, ranks: Ranks) -> Snapshot | None:
    """The first rank's snapshot, on all ranks."""
    if ranks.size == 1:
        return saved
    head = None if saved is None else {"iteration": saved.iteration, "state": saved.state}
    found = json.loads(ranks.share(json.dumps(head).encode()))
    if found is None:
        return None
    params = ranks.share(b"" if saved is None else arrays.encode(saved.params))
    optimizer = ranks.share(b"" if saved is None else arrays.encode(saved.optimizer))
    return Snapshot(
        found["iteration"], arrays.decode(params), arrays.decode(optimizer), found["state"]
    )


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

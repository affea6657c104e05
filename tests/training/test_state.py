"""What a checkpoint must hold to go on from: sealed, it may still be another program's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from metarl.errors import InputError
from metarl.runs import Snapshot
from metarl_experiments.family import State
from metarl_experiments.state import restore, snapshot

LOOP = {"window": [], "stalled": 0}


def stepped() -> State:
    """A fused Adam after a step, which checks no shapes itself."""
    params = {"w": torch.zeros(4, 4, requires_grad=True), "b": torch.zeros(4, requires_grad=True)}
    optimizer = torch.optim.Adam(params.values(), fused=True)
    for p in params.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return State(params, optimizer, {"seed": 0})


def test_a_snapshot_comes_back() -> None:
    saved = snapshot(stepped(), 1, LOOP)
    fresh = stepped()
    with torch.no_grad():
        fresh.params["w"].zero_()
    assert restore(fresh, saved) == ([], 0)
    assert np.array_equal(fresh.params["w"].detach().numpy(), saved.params["w"])
    unstepped = saved._replace(optimizer={})  # before the first iteration
    restore(fresh, unstepped)


def test_a_snapshot_stays_as_it_was() -> None:
    """What could not be saved is kept for the next time, while training goes on."""
    state = stepped()
    saved = snapshot(state, 1, LOOP)
    assert state.optimizer is not None
    before = {name: array.copy() for name, array in (saved.params | saved.optimizer).items()}
    state.optimizer.step()
    assert np.array_equal((saved.params | saved.optimizer)["w"], before["w"])
    for name, array in (saved.params | saved.optimizer).items():
        assert np.array_equal(array, before[name]), name


WRONG: dict[str, Callable[[Snapshot], Snapshot]] = {
    r"w/exp_avg is \(3,\) there and \(4, 4\) here": lambda s: s._replace(
        optimizer={**s.optimizer, "w/exp_avg": np.zeros(3, np.float32)}
    ),
    "b/exp_avg_sq is none there": lambda s: s._replace(
        optimizer={n: x for n, x in s.optimizer.items() if n != "b/exp_avg_sq"}
    ),
    "c/step is .* there and none here": lambda s: s._replace(
        optimizer={**s.optimizer, "c/step": np.zeros((), np.float32)}
    ),
    "of this experiment": lambda s: s._replace(state={"learner": {}, "loop": LOOP}),
    "none of this": lambda s: s._replace(state={"loop": LOOP}),
    "none of `metarl train`": lambda s: s._replace(state={"learner": {"seed": 0}}),
    "state is none of `metarl": lambda s: s._replace(
        state={"learner": {"seed": 0}, "loop": {**LOOP, "more": 1}}
    ),
    "w is .* there": lambda s: s._replace(params={**s.params, "w": np.zeros(3, np.float32)}),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_of_another_program_is_refused(said: str) -> None:
    state = stepped()
    before: dict[str, Any] = {n: p.detach().clone() for n, p in state.params.items()}
    with pytest.raises(InputError, match=said):
        restore(state, WRONG[said](snapshot(stepped(), 1, LOOP)))
    assert all(torch.equal(p, before[n]) for n, p in state.params.items())

"""What is kept of a user's losses: programs, as long as they are compiled, and no more."""

import gc
import warnings
import weakref
from typing import Any

import pytest
import torch
from oracles import sinusoids
from torch import Tensor

from metarl import InnerLoop, adapt_tasks, adaptation_curve, mean_over_tasks, meta_loss
from metarl.compiling import chunks
from metarl.gauss_newton import GaussNewton
from metarl.kept import kept_if
from metarl.params import Params

S = sinusoids(tasks=2, width=4)


def used_once() -> Any:
    """Every function of the core, with a loss over data of its own."""
    data = torch.ones(3)

    def loss(params: Params, batch: Any) -> Tensor:
        return S.loss(params, batch) + 0.0 * data.sum()

    def pair(params: Params, batch: Any) -> tuple[Tensor, Tensor]:
        return loss(params, batch), loss(params, batch)

    fisher = GaussNewton(lambda p, b: loss(p, b)[None], lambda a, b, _: (a - b + data).sum())
    meta_loss(loss, loss, S.params, S.supports, S.query, InnerLoop()).backward()
    with torch.no_grad():
        meta_loss(loss, loss, S.params, S.supports, S.query, InnerLoop())
    adapt_tasks(loss, S.params, S.supports, InnerLoop())
    adaptation_curve(loss, loss, S.params, S.supports, S.query, InnerLoop())
    for product in (None, fisher):
        objective = mean_over_tasks(pair, S.query, fisher=product)
        objective.value(S.params)
        objective.fisher(S.params, objective.gradient(S.params)[2])
    return weakref.ref(data)


def test_a_loss_that_is_not_compiled_may_go() -> None:
    alive = used_once()
    gc.collect()
    assert alive() is None


def test_a_compiled_one_gives_the_same_object() -> None:
    def make(loss: Any) -> list[Any]:
        return [loss]

    assert kept_if(True, make, used_once) is kept_if(True, make, used_once)
    assert kept_if(False, make, used_once) is not kept_if(False, make, used_once)
    assert kept_if(True, make, used_once) is not kept_if(True, make, make)


def test_a_number_that_changes_is_told_and_programs_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "_MANY", 3)
    monkeypatch.setattr(chunks, "_FORMS", 5)
    built = []

    def build(read: Any, tensors: list[Tensor]) -> Any:
        number = read(tensors)[1][1]
        built.append(number)
        return lambda *given: number * given[0]

    run, ready = chunks._per_form(build)
    x = torch.ones(())
    for number in range(3):
        assert float(run(x, (x, number))) == number
    with pytest.warns(UserWarning, match="4th time.*changes as a tensor"):
        run(x, (x, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(x, (x, 4))
        run(x, (x, 5))
    assert built == [0, 1, 2, 3, 4, 5]
    assert [ready(x, (x, number)) for number in range(6)] == [False, True, True, True, True, True]

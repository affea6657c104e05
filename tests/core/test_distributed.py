"""What crosses between ranks, and meta-gradients of tasks that ranks share."""

import functools
import json
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from children import Tell
from oracles import F64, Sinusoids, flat, rel, rows, sinusoids, slope
from ranks import on_ranks, start
from torch import Tensor

from metarl import InnerLoop, adapt, conjugate_gradient, mean_over_tasks, meta_loss
from metarl.distributed import ALONE, Ranks, joined
from metarl.errors import InputError
from metarl.params import Params
from metarl.reduction import mean_of_chunks
from metarl.waiting import wait

INNER = InnerLoop(0.05)
TASKS = 5
SIZES = (1, 2, 4)


@pytest.mark.parametrize(("tasks", "size"), [(5, 1), (5, 2), (5, 4), (8, 4), (7, 7), (100, 3)])
def test_rows_share_all_tasks_in_order(tasks: int, size: int) -> None:
    parts = [Ranks(rank, size).rows(tasks) for rank in range(size)]
    assert [i for part in parts for i in range(tasks)[part]] == list(range(tasks))
    counts = [part.stop - part.start for part in parts]
    assert max(counts) - min(counts) <= 1


def test_more_ranks_than_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="4 ranks cannot share 3 tasks"):
        Ranks(0, 4).rows(3)


def held(ranks: Ranks) -> str:
    """Whether the tensor of an exchange outlives it."""
    tensor = torch.ones(3)
    known = weakref.ref(tensor)
    wait(
        lambda dist, own=tensor: dist.all_reduce(own, async_op=True),
        ranks.rank,
        ranks.size,
        ranks.timeout,
        ranks.store,
    )
    del tensor
    time.sleep(0.2)  # gloo's thread has let go of it
    return json.dumps(known() is not None)


def test_the_last_exchange_is_held() -> None:
    """Else gloo's thread may be the last to hold its tensors, in a process that is ending."""
    assert list(map(json.loads, on_ranks(2, held))) == [True, True]


def exchanged(ranks: Ranks) -> str:
    """Everything that `Ranks` can do, on some numbers."""
    x = torch.arange(3.0, dtype=F64) + ranks.rank

    def fail() -> None:
        if ranks.rank == 1:
            raise InputError("only here")

    try:
        ranks.together(fail)
        left = "nothing"
    except (InputError, SystemExit) as error:
        left = f"{type(error).__name__}: {error}"
    try:
        ranks.require_same("text", f"a\nb{min(ranks.rank, 1)}")
        same = "nothing"
    except (InputError, SystemExit) as error:
        same = f"{type(error).__name__}: {error}"
    return json.dumps(
        {
            "reduce": ranks.reduce(x).tolist(),
            "each": ranks.all_gather(torch.tensor(ranks.rank)).tolist(),
            "gather": ranks.gather(torch.full((ranks.rank + 1, 2), ranks.rank)).tolist(),
            "share": [ranks.share(b"\x00%d" % ranks.rank)[1:].decode(), len(ranks.share(b""))],
            "first": [ranks.first(ranks.rank == 0), ranks.first(ranks.rank > 0)],
            "together": ranks.together(lambda: ranks.rank),
            "left": left,
            "same": same,
            "kept": x.tolist(),
        }
    )


def test_exchange() -> None:
    for rank, line in enumerate(on_ranks(3, exchanged)):
        assert json.loads(line) == {
            "reduce": [3, 6, 9],
            "each": [0, 1, 2],
            "gather": [[0, 0], [1, 1], [1, 1], [2, 2], [2, 2], [2, 2]],
            "share": ["0", 0],
            "first": [True, False],
            "together": rank,
            "left": "InputError: only here" if rank == 1 else "SystemExit: 2",
            "same": "InputError: rank 1 has another text than rank 0: b1 instead of b0; all ranks "
            "need the same"
            if rank == 1
            else "SystemExit: 2",
            "kept": [rank, rank + 1, rank + 2],
        }


def test_a_restart_sees_nothing_of_the_attempt_before() -> None:
    """The launcher's store outlives ranks, and with it their addresses and notes."""

    def work(_: int, tell: Tell) -> None:
        for attempt in ("0", "1"):
            os.environ["TORCHELASTIC_RESTART_COUNT"] = attempt
            with joined(timeout=30) as ranks:
                assert ranks.store is not None
                tell(str(ranks.store.check(["failed/0"])))
                ranks.together(lambda: None)
                ranks.store.set("failed/0", "of this attempt")

    for child in start(2, work):
        assert child.rest() == ["False", "False"]
        assert child.wait() == 0


def part(s: Sinusoids, own: slice) -> Sinusoids:
    return s._replace(supports=tuple(rows(b, own) for b in s.supports), query=rows(s.query, own))


def surrogate(s: Sinusoids) -> Callable[[Params, Any], tuple[Tensor, Tensor]]:
    """Loss after adaptation, and something with a curvature."""

    def fn(theta: Params, data: Any) -> tuple[Tensor, Tensor]:
        loss = s.loss(adapt(s.loss, theta, data[:1], INNER), data[1])
        return loss, loss.square()

    return fn


def gradients(ranks: Ranks, *, exact: bool = False) -> str:
    """Meta-gradients, Fisher products and values of this rank's tasks, reduced."""
    s = sinusoids(tasks=TASKS, width=10)
    own = part(s, ranks.rows(TASKS))
    options: Any = {
        "reduce": ranks.reducer(exact),
        "mapping": "chunk:1" if exact else "auto",
    }
    whole = functools.partial(meta_loss, s.loss, s.loss, s.params)
    loss = whole(own.supports, own.query, INNER, **options)
    objective = mean_over_tasks(surrogate(s), (own.supports[0], own.query), **options)
    value, kl, gradient = objective.gradient(s.params)
    v = dict(zip(s.params, torch.autograd.grad(loss, list(s.params.values())), strict=True))
    sizes = [p.numel() for p in v.values()]

    def product(x: Tensor) -> Tensor:
        parts = torch.split(x, sizes)
        like = {n: y.view_as(p) for (n, p), y in zip(v.items(), parts, strict=True)}
        return flat(objective.fisher(s.params, like)) + x

    direction, _ = conjugate_gradient(product, flat(gradient), steps=10)
    alone = whole(own.supports, own.query, INNER)
    found = {
        "meta-gradient": flat(v),
        "gradient": flat(gradient),
        "values": torch.stack([loss.detach(), value, kl, *objective.value(s.params)]),
        "direction": direction,
        # Mutant: the loss alone is all-reduced; its derivative is that of the rank's own tasks.
        "mutant": slope(alone, s.params),
    }
    return json.dumps({name: x.tolist() for name, x in found.items()})


def test_ranks_share_a_meta_gradient() -> None:
    truth = json.loads(gradients(ALONE))
    for size in SIZES[1:]:
        for line in on_ranks(size, gradients):
            found = {name: torch.tensor(x, dtype=F64) for name, x in json.loads(line).items()}
            for name in ("meta-gradient", "gradient", "values", "direction"):
                assert rel(found[name], torch.tensor(truth[name], dtype=F64)) < 1e-12, name
            wrong = rel(found["mutant"], torch.tensor(truth["meta-gradient"], dtype=F64))
            assert wrong > 0.05


def test_exact_sums_do_not_depend_on_the_ranks() -> None:
    truth = json.loads(gradients(ALONE, exact=True))
    plain = json.loads(gradients(ALONE))
    del truth["mutant"]
    for size in SIZES[1:]:
        for line in on_ranks(size, functools.partial(gradients, exact=True)):
            found = json.loads(line)
            assert {name: found[name] for name in truth} == truth
    # Mutant: sums that are not in task order; they differ, if in the last bits only.
    line = on_ranks(4, gradients)[0]
    assert any(json.loads(line)[name] != plain[name] for name in truth)


@pytest.mark.parametrize("tasks", [3, 301])
def test_tasks_are_counted_exactly_whatever_the_first_sum_is_of(tasks: int) -> None:
    """bfloat16 holds whole numbers to 256."""
    whole = torch.tensor(float(tasks))
    sums = [{"a": torch.zeros(2, dtype=torch.bfloat16), "loss": whole}]
    data = torch.zeros(tasks, 1)
    for reduce in (None, lambda x: x):
        mean = mean_of_chunks(sums, data, reduce)
        assert float(mean["loss"]) == 1
        assert mean["a"].dtype == torch.bfloat16

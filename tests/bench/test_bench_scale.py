"""The bench of ranks on sizes that take no time, and what it says of ranks of known haste."""

import json
import math
import time

import numpy as np
import pytest
import torch
from ranks import on_ranks

from metarl.distributed import Ranks
from metarl_experiments.bench.parts.ranks import iterations
from metarl_experiments.bench.parts.scaling import Costs, costs, largest_of, seconds
from metarl_experiments.bench.scale import scale_bench
from metarl_experiments.tables import benches

# Twice as long is longer than ranks wait before they ask after each other.
PAUSE = 0.35


def test_the_bench() -> None:
    found = scale_bench(1, {"sinusoid": 2}, {"meta_batch": 4})
    assert all(math.isfinite(x) and x > 0 for x in found.values())
    assert found["sinusoid-calls"] == 1
    # The loss and theta of 1-40-40-1, and the number of tasks beside them.
    assert found["sinusoid-bytes"] == 4 * (1 + 1 + (40 + 40) + (1600 + 40) + (40 + 1))


def test_work_and_waiting_are_told_apart() -> None:
    def step(watched: Ranks, number: int) -> None:
        time.sleep(PAUSE * (1 + 2 * watched.rank))
        watched.reduce(torch.ones(10))
        time.sleep(PAUSE * (3 - 2 * watched.rank))
        watched.all_gather(torch.ones(5))

    for line in on_ranks(2, lambda ranks: json.dumps(iterations(ranks, step, 1)[0])):
        seconds, computed, skew, calls, sent = json.loads(line)
        assert (calls, sent) == (2, 60)
        # Each waits for the other once, so that what either computes is not all.
        assert 4 * PAUSE <= computed < 5.5 * PAUSE
        assert 1.5 * PAUSE < skew < 3 * PAUSE
        assert seconds > 5.5 * PAUSE


def test_the_model() -> None:
    free = Costs(1.0, 0.5, 0.0, 0, 0.0, 0.1, 1.0)
    assert seconds(free, 12, 1) == (7.0, 0.0, 0.0)
    assert seconds(free, 12, 4) == (2.5, 0.0, 0.0)
    # Between two ranks it is what was measured between two; a ring's steps grow with the ranks.
    calls, sent = free._replace(calls=3), free._replace(megabytes=2.0)
    assert [seconds(calls, 12, r).exchange for r in (1, 2, 8)] == pytest.approx([0, 0.3, 2.1])
    assert [seconds(sent, 12, r).exchange for r in (1, 2, 8)] == pytest.approx([0, 2, 3.5])
    late = free._replace(skew=0.2)
    assert [seconds(late, 12, r).skew for r in (1, 2)] == pytest.approx([0, 0.8])
    assert seconds(late, 12, 2).total == pytest.approx(4.8)
    assert seconds(late, 60, 10).skew == pytest.approx(0.8 * largest_of(10) / largest_of(2))


def test_the_largest_of_normal_numbers() -> None:
    draws = np.random.default_rng(0).standard_normal((20_000, 100))
    for count in (1, 2, 10, 100):
        largest = draws[:, :count].max(1)
        error = largest.std() / math.sqrt(len(largest))
        assert abs(largest_of(count) - largest.mean()) < 4 * error
    assert largest_of(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-4)


def test_costs_come_from_whole_and_half() -> None:
    measured = {"a-skew": 0.6, "a-calls": 4, "a-bytes": 3e6, "latency": 0.1, "megabyte": 1.0}
    found = costs(measured | {"a-1x1": 7.0, "a-half": 4.0}, "a", 12)
    assert found == pytest.approx((1.0, 0.5, 0.15, 4, 3.0, 0.1, 1.0))
    # All of it fixed, and none, as noise would have it.
    assert costs(measured | {"a-1x1": 7.0, "a-half": 7.5}, "a", 12)[:2] == (7.0, 0.0)
    assert costs(measured | {"a-1x1": 6.0, "a-half": 2.0}, "a", 12)[:2] == (0.0, 0.5)


def test_tables_of_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"1x1": 6.0, "1x2": 4.0, "2x1": 3.5, "half": 3.0, "skew": 0.006}
    measured |= {"calls": 10, "bytes": 1e6, "model/2x1": 0.9}
    found = {f"a-{what}": value for what, value in measured.items()}
    monkeypatch.setattr(
        benches, "benches", lambda name: found | {"latency": 0.001, "megabyte": 0.01}
    )
    (line,) = benches.ranks({}, "a").splitlines()[3:]
    assert line == "| a | 6.0 s | 4.0 s | 3.5 s | 6.0 ms | 10 | 1,000,000 | 0.90 |"
    one, two = benches.carried({}, "a", "12", "24", "1", "2").splitlines()[3:]
    assert one == "| 1 | 12 s | 0.0 ms | 0.0 ms | 12 s | 1.00 |"
    # Half of the work, twice the wait of half the tasks, ten calls, and the bytes once.
    assert two == "| 2 | 6.0 s | 12 ms | 20 ms | 6.0 s | 0.99 |"

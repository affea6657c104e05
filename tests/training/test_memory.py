"""Memory that an iteration is expected to take, against what tensors and processes take."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import sinusoids
from test_train import go
from toy import Toy
from workloads import glyphs_for_images

from metarl import InnerLoop, adapt_path, adapt_tasks
from metarl.footprint import Footprint, footprint
from metarl.mapping import parse_mapping
from metarl_experiments.catalog import EXPERIMENTS
from metarl_experiments.machine import Machine, resolve
from metarl_experiments.memory import (
    FACTOR,
    HELD,
    Needs,
    expected,
    mapped,
    peak_bytes,
    tasks_at_once,
)
from metarl_experiments.options import overlay, preset_config

BYTES = 4_000


def made() -> torch.Tensor:
    return torch.zeros(1_000, device="meta")


def test_adapted_parameters_do_not_keep_those_on_the_way() -> None:
    s = sinusoids(tasks=64, width=8)

    def peak(adapting: Any, steps: int) -> int:
        supports = s.supports[:1] * steps
        with torch.no_grad():
            return footprint(
                lambda: adapting(s.loss, s.params, supports, InnerLoop(), mapping="chunk:1")
            ).peak

    assert peak(adapt_tasks, 20) < 1.5 * peak(adapt_tasks, 2)
    assert peak(adapt_path, 20) > 4 * peak(adapt_path, 2)  # the mutant


def test_a_footprint_is_counted() -> None:
    x = made()
    assert footprint(lambda: x + 1) == Footprint(BYTES, BYTES)
    assert footprint(lambda: ((x + 1) * 2).exp().sum()) == Footprint(2 * BYTES, 4)
    assert footprint(lambda: (x[5:], x.add_(1), x.view(10, 100))) == Footprint(0, 0)
    assert footprint(lambda: [x + 1 for _ in range(5)][:2]) == Footprint(5 * BYTES, 2 * BYTES)


def test_tasks_that_are_held_together() -> None:
    theta, task = {"w": made(), "b": made()}, (made(),)
    assert tasks_at_once(theta, task, 3) == HELD // (4 * 2 * BYTES + BYTES)
    assert tasks_at_once(theta, task, 10**9) == 1


def test_what_a_derivative_keeps_is_counted() -> None:
    x = made().requires_grad_()
    graph = footprint(lambda: x.exp().exp().sum())
    assert graph == Footprint(2 * BYTES + 4, 2 * BYTES + 4)
    slope = footprint(lambda: torch.func.grad(lambda y: y.exp().exp().sum())(x.detach()))
    assert 3 * BYTES <= slope.peak < 5 * BYTES
    assert slope.kept == BYTES


def test_chunks_at_a_time() -> None:
    data = made()[:40]

    def call(part: torch.Tensor) -> torch.Tensor:
        return part[0].new_zeros(1_000) + 1 + part.sum()

    def bytes_of(mapping: str, **options: Any) -> int:
        return mapped(call, data, parse_mapping(mapping), **options)

    one = bytes_of("vmap", threads=2)
    assert 2 * BYTES <= one < 3 * BYTES
    assert bytes_of("chunk:1", threads=2) == one
    assert bytes_of("threads", threads=2) == 2 * one
    assert bytes_of("threads", threads=99) == 40 * one
    assert bytes_of("chunk:4", threads=1, holds=True) == one + 9 * BYTES


def learner_of(name: str, *, machine: Machine, **changes: Any) -> Any:
    experiment = EXPERIMENTS[name]
    config = overlay(preset_config(experiment, "default"), changes)
    return experiment.learner().build(config, resolve(machine, threads=1))


EAGER = Machine("cpu", compile="off", threads=1)
SMALL: dict[str, dict[str, Any]] = {
    "sinusoid": {"meta_batch": 200},
    "omniglot": {"meta_batch": 8},
    "navigation": {"meta_batch": 4},
    "cheetah-velocity": {"meta_batch": 3, "env": {"horizon": 100}},
}


@pytest.mark.parametrize("name", SMALL)
def test_tensors_take_what_is_expected(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    glyphs_for_images(monkeypatch)

    def built(steps: int) -> Any:
        return learner_of(name, machine=EAGER, **SMALL[name], inner_steps=steps)

    learner = built(3)
    state = learner.init(0)
    took = footprint(lambda: learner.step(state, 0)).peak
    assert took / 1.2 < sum(learner.needs(state)) < took * 1.2
    # Mutant: a graph without the further inner steps.
    assert sum(built(1).needs(state)) < took / 1.2


def test_what_decides_how_much() -> None:
    def working(machine: Machine = EAGER, **changes: Any) -> int:
        learner = learner_of("navigation", machine=machine, env={"horizon": 100}, **changes)
        needs: Needs = learner.needs(learner.init(0))
        return needs.working

    few = working()
    assert working(replace(EAGER, dtype="float64")) > 1.9 * few
    assert working(replace(EAGER, mapping="vmap")) > 3 * few
    assert working(replace(EAGER, mapping="threads", threads=2)) > 1.2 * few
    many = working(inner_steps=6, update="adam")
    assert working(replace(EAGER, recompute=True), inner_steps=6, update="adam") < 0.5 * many


def test_fisher_products_see_the_steps_that_the_update_keeps() -> None:
    def working(horizon: int, fraction: float) -> int:
        changes = {"env": {"horizon": horizon}, "fisher_fraction": fraction}
        learner = learner_of("navigation", machine=EAGER, hidden=[4], **changes)
        return int(learner.needs(learner.init(0)).working)

    assert working(8, 0.1) == working(8, 1.0)  # ten steps at least
    assert working(40, 0.1) == working(40, 0.25) < working(40, 1.0)


LARGE: dict[str, dict[str, Any]] = {
    "sinusoid": {"meta_batch": 500, "inner_steps": 20},
    "omniglot": {"meta_batch": 200},
    "navigation": {"meta_batch": 20, "update": "adam"},
}


def told(name: str) -> str:
    """Bytes of this process before an iteration, expected at its peak, and taken."""
    glyphs_for_images(pytest.MonkeyPatch())
    learner = learner_of(name, machine=replace(EAGER, mapping="vmap"), **LARGE[name])
    state = learner.init(0)
    needs, before = learner.needs(state), peak_bytes()
    learner.step(state, 0)
    return f"{before} {expected(needs, learner.machine, before)[0]} {peak_bytes()}"


@pytest.mark.parametrize("name", LARGE)
def test_a_process_takes_what_is_expected(name: str) -> None:
    # A fresh one: what a fork has from its parent hides what it takes.
    command = [sys.executable, __file__, name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, there, took = map(int, done.stdout.split())
    assert took / FACTOR < there < took * FACTOR
    # Mutant: only what is there already; the iteration's part is seen.
    assert before < took / FACTOR


def test_another_device_has_its_own() -> None:
    needs = Needs(data=100, working=1_000)
    here, there = expected(needs, EAGER, 5_000)
    assert (here, there) == (5_000 + 1_650, 0)
    here, there = expected(needs, replace(EAGER, device="cuda:1"), 5_000)
    assert (here, there) == (5_000 + 150, 1_650)


def test_training_says_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, reporter = go(tmp_path / "run", Toy())
    assert reporter.said[0].startswith("memory at its peak: about ")
    assert not any(line.startswith("warning: memory") for line in reporter.said)
    monkeypatch.setattr("metarl_experiments.training.keeping.FACTOR", 0.1)
    _, reporter = go(tmp_path / "again", Toy())
    assert sum("warning: memory at its peak was" in line for line in reporter.said) == 1


def test_a_system_that_does_not_tell_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "VmSize: 9 kB\nVmRSS: 7 kB\n")
    assert peak_bytes() > 1e7


if __name__ == "__main__":
    print(told(sys.argv[1]))

"""Commands killed at random and resumed end as if nothing had happened; a loss shows."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import fork
from commands import succeed
from workloads import WORKLOADS, argv, ending, glyphs_for_images, kill_at_random

from metarl.runs import Run, Snapshot, faults
from metarl_experiments.__main__ import main

ORDINARY = ("sinusoid", "images", "navigation")


@pytest.mark.parametrize(
    ("workload", "seed"),
    [
        pytest.param(name, seed, marks=() if name in ORDINARY and seed == 0 else pytest.mark.slow)
        for name in WORKLOADS
        for seed in (0, 1)
    ],
)
def test_killed_three_times_ends_as_uninterrupted(
    tmp_path: Path, workload: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    glyphs_for_images(monkeypatch)
    dice = random.Random(seed)
    whole, run = tmp_path / "whole", tmp_path / "run"
    more = [f"--seed={seed}"]
    succeed(*argv(workload, whole, *more))
    # The first kill only after the run has its config, or there is nothing to go on with.
    started = fork(lambda tell: _until_saved(argv(workload, run, *more)))
    assert started.wait() == -signal.SIGKILL
    kills = 0
    while kills < 3 and kill_at_random(workload, run, dice):
        kills += 1
    assert kills == 3, "it ended before it was killed three times"
    succeed(*argv(workload, run))
    assert ending(run) == ending(whole)
    logged = [line["iteration"] for line in ending(run)["metrics"]]
    assert len(logged) == len(set(logged)) > 3


def _until_saved(command: list[str]) -> int:
    with faults.injected("save:best", lambda: os.kill(os.getpid(), signal.SIGKILL)):
        return main(command)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run stopped at iteration 47, and how it would have ended."""
    folder = tmp_path_factory.mktemp("stopped")
    succeed(*argv("sinusoid", folder / "whole", "--seed=1"))

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with faults.injected("train:iteration", stop, after=45):
        assert main(argv("sinusoid", folder / "run", "--seed=1")) == 128 + signal.SIGTERM
    return folder / "run", ending(folder / "whole")


def without(array: str) -> Callable[[Run, Snapshot], Snapshot]:
    def lose(_: Run, saved: Snapshot) -> Snapshot:
        kept = {n: 0 * a if n.endswith(array) else a for n, a in saved.optimizer.items()}
        assert any(np.any(a) for n, a in saved.optimizer.items() if n.endswith(array))
        return saved._replace(optimizer=kept)

    return lose


def all_moments(_: Run, saved: Snapshot) -> Snapshot:
    return saved._replace(optimizer={})


def window(_: Run, saved: Snapshot) -> Snapshot:
    assert saved.state["loop"].pop("window")
    return saved


def stalled(_: Run, saved: Snapshot) -> Snapshot:
    assert saved.state["loop"].pop("stalled")
    return saved


def seed(_: Run, saved: Snapshot) -> Snapshot:
    saved.state["learner"]["seed"] = 0
    return saved


def iteration(_: Run, saved: Snapshot) -> Snapshot:
    return saved._replace(iteration=saved.iteration - 1)


def best(run: Run, saved: Snapshot) -> Snapshot:
    assert run.best is not None
    run.best = None
    return saved


def one_parameter(_: Run, saved: Snapshot) -> Snapshot:
    name = max(saved.params)
    return saved._replace(params={**saved.params, name: 0 * saved.params[name]})


LOSSES: dict[str, Callable[[Run, Snapshot], Snapshot]] = {
    "nothing": lambda _, saved: saved,
    "moments": all_moments,
    "first moment": without("/exp_avg"),
    "second moment": without("/exp_avg_sq"),
    "step": without("/step"),
    "window": window,
    "stalled": stalled,
    "seed": seed,
    "iteration": iteration,
    "best": best,
    "parameter": one_parameter,
}


@pytest.mark.parametrize("lost", LOSSES)
def test_a_lost_component_shows(
    tmp_path: Path,
    stopped: tuple[Path, dict[str, Any]],
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every component of the saved state is needed; with all of them the end is the same."""
    source, whole = stopped
    run = Path(shutil.copytree(source, tmp_path / "run"))
    real = Run.load

    def load(self: Run) -> Snapshot | None:
        saved = real(self)
        assert saved is not None
        return LOSSES[lost](self, saved)

    monkeypatch.setattr(Run, "load", load)
    status = main(argv("sinusoid", run))
    same = status == 0 and ending(run) == whole
    assert same == (lost == "nothing")


def test_a_lost_line_of_metrics_shows(tmp_path: Path, stopped: tuple[Path, dict[str, Any]]) -> None:
    source, whole = stopped
    run = Path(shutil.copytree(source, tmp_path / "run"))
    path = run / "metrics.jsonl"
    reached = int(max((run / "checkpoints").glob("[0-9]*")).name)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["iteration"] <= reached]
    path.write_bytes(b"".join(kept[:-1]))
    succeed(*argv("sinusoid", run))
    assert ending(run) != whole

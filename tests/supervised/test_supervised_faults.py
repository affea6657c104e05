"""N1 on regression and images: what is not finite is named in its iteration, theta is as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import SMALL
from workloads import glyphs_for_images

from metarl import InnerLoop, InputError, from_module, meta_loss
from metarl.errors import NonFiniteError
from metarl.runs import load_checkpoint
from metarl.supervised import Regression, mean_squared_error
from metarl_experiments.__main__ import main
from metarl_experiments.configs import images as images_config
from metarl_experiments.configs import sinusoid as sinusoid_config
from metarl_experiments.images.learner import ImagesLearner
from metarl_experiments.images.tasks import Tasks
from metarl_experiments.machine import Machine
from metarl_experiments.sinusoid.learner import SinusoidLearner
from metarl_experiments.sinusoid.tasks import Episodes

MACHINE = Machine("cpu", "float32", 1, "auto", "off")
NAN, INF = float("nan"), float("inf")
VALUES = (NAN, INF, -INF, 1e300)  # the last does not fit into float32
Spoil = Callable[[Any], None]


def test_points_without_a_feature_are_no_pairs() -> None:
    params, apply = from_module(torch.nn.Linear(2, 1))
    loss = mean_squared_error(apply)
    batch = Regression(torch.ones(4, 6, 2), torch.ones(4, 6))
    with pytest.raises(InputError, match=r"shape \(6, 1\) and its y has \(6,\)"):
        meta_loss(loss, loss, params, [batch], batch, InnerLoop())


def sinusoid(monkeypatch: pytest.MonkeyPatch, spoil: Spoil, **options: Any) -> SinusoidLearner:
    """A learner whose meta-batches are spoilt in place."""
    config = sinusoid_config.Config(meta_batch=4, init_std=0.3, **options)
    learner = SinusoidLearner(config, MACHINE)
    real = learner.source._block

    def block(seed: int, number: int) -> list[Episodes]:
        batches = [
            Episodes(*(type(part)(*(x.clone() for x in part)) for part in batch))
            for batch in real(seed, number)[:1]
        ]
        spoil(batches[0])
        return batches

    monkeypatch.setattr(learner.source, "block", block)
    return learner


def images(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> ImagesLearner:
    glyphs_for_images(monkeypatch)
    config = images_config.Config(net="dense", meta_batch=3)
    learner = ImagesLearner(config, MACHINE)
    real = learner.train_tasks

    def tasks(seed: int, iteration: int) -> Tasks:
        found = real(seed, iteration)
        spoil(found)
        return found

    monkeypatch.setattr(learner, "train_tasks", tasks)
    return learner


def caught(learner: Any, spoil: Spoil | None = None) -> NonFiniteError:
    """The error of one iteration, which left theta and Adam as they were."""
    state = learner.init(0)
    if spoil is not None:
        with torch.no_grad():
            spoil(state.params)
    before = {name: p.detach().clone() for name, p in state.params.items()}
    with pytest.raises(NonFiniteError) as error:
        learner.step(state, 0)
    for name, p in state.params.items():
        assert torch.equal(p.nan_to_num(), before[name].nan_to_num()), name
    assert not state.optimizer.state
    assert set(state.params) <= set(error.value.batch)
    return error.value


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("part", ["support", "query"])
@pytest.mark.parametrize("field", ["x", "y"])
@pytest.mark.parametrize("task", [0, 3])
def test_data_of_regression(
    monkeypatch: pytest.MonkeyPatch, value: float, part: str, field: str, task: int
) -> None:
    def spoil(batch: Any) -> None:
        getattr(getattr(batch, part), field)[task, 2] = torch.tensor(value, dtype=torch.float64)

    error = caught(sinusoid(monkeypatch, spoil))
    assert (error.place, error.task) == (f"{part}.{field}", task)
    assert f"task {task}" in str(error)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("part", ["support", "query"])
def test_data_of_images(monkeypatch: pytest.MonkeyPatch, value: float, part: str) -> None:
    def spoil(tasks: Any) -> None:
        getattr(tasks, part).images[2].view(-1)[7] = torch.tensor(value, dtype=torch.float64)

    error = caught(images(monkeypatch, spoil))
    assert (error.place, error.task) == (f"{part}.images", 2)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("make", [sinusoid, images])
def test_parameters(monkeypatch: pytest.MonkeyPatch, value: float, make: Any) -> None:
    names: list[str] = []

    def spoil(params: Any) -> None:
        names.append(list(params)[1])
        params[names[0]].view(-1)[0] = torch.tensor(value, dtype=torch.float64)

    error = caught(make(monkeypatch, lambda _: None), spoil)
    assert (error.place, error.task) == (f"parameter {names[0]}", None)


@pytest.mark.parametrize("task", [0, 3])
def test_inner_gradient(monkeypatch: pytest.MonkeyPatch, task: int) -> None:
    """A finite target so far away that its square is not."""

    def spoil(batch: Any) -> None:
        batch.support.y[task] = 1e38

    error = caught(sinusoid(monkeypatch, spoil, inner_lr=100.0))
    assert error.place.startswith("inner gradient of ")
    assert error.task == task


@pytest.mark.parametrize("task", [0, 3])
def test_outer_loss(monkeypatch: pytest.MonkeyPatch, task: int) -> None:
    def spoil(batch: Any) -> None:
        batch.query.y[task] = 1e25

    error = caught(sinusoid(monkeypatch, spoil))
    assert (error.place, error.task) == ("outer loss", task)


@pytest.mark.parametrize("task", [0, 3])
def test_outer_gradient(monkeypatch: pytest.MonkeyPatch, task: int) -> None:
    """The square of a residual is finite still, that of a gradient's norm is not."""

    def spoil(batch: Any) -> None:
        batch.query.x[task] = 1e4
        batch.query.y[task] = 3e18

    error = caught(sinusoid(monkeypatch, spoil, inner_lr=1e-6))
    assert (error.place, error.task) == ("outer gradient", task)


def test_nothing_non_finite_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: exit 5, the last good checkpoint, the batch that did it."""
    real = SinusoidLearner.step

    def step(self: SinusoidLearner, state: Any, iteration: int) -> Any:
        if iteration == 13:
            self.source.block(0, 0)[13].query.y[1, 0] = NAN
        return real(self, state, iteration)

    monkeypatch.setattr(SinusoidLearner, "step", step)
    run = tmp_path / "run"
    assert main(["train", "sinusoid", *SMALL, f"--out={run}", "--checkpoint-seconds=0"]) == 5
    err = capfd.readouterr().err
    assert "query.y is not finite in task 1 of the meta-batch" in err
    assert len(err.splitlines()) == 1
    saved = load_checkpoint(max((run / "checkpoints").iterdir()))
    assert saved.iteration == 13
    assert all(np.isfinite(a).all() for a in (*saved.params.values(), *saved.optimizer.values()))
    with np.load(run / "failures" / "00000013.npz", allow_pickle=False) as kept:
        assert np.isnan(kept["query.y"][1, 0])
    assert "NaN" not in (run / "metrics.jsonl").read_text()

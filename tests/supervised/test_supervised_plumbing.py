"""Regression and images: each option, seed and iteration arrives where it is used."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from images_data import glyphs
from spies import recorded
from workloads import glyphs_for_images

from metarl import InnerLoop, Params
from metarl.images import Classified, adapts
from metarl.streams import stream
from metarl.supervised import Sinusoids, sample_points, sample_tasks
from metarl_experiments.configs import images, sinusoid
from metarl_experiments.family import State
from metarl_experiments.images.curves import AdaptedNet
from metarl_experiments.images.learner import ImagesLearner
from metarl_experiments.images.tasks import Source
from metarl_experiments.machine import Machine
from metarl_experiments.sinusoid.learner import SinusoidLearner
from metarl_experiments.training.descent import descend

MACHINE = Machine("cpu", "float64", 1, "auto", "off", recompute=True)
UNLIKE: Any = {
    "meta_batch": 3,
    "inner_steps": 2,
    "inner_lr": 0.2,
    "learned_lr": "tensor",
    "lr_per_step": True,
    "first_order": True,
    "lr": 0.03,
    "validation_tasks": 4,
}
IMAGES = images.Config(net="dense", ways=3, **UNLIKE)
INNER = InnerLoop(0.2, True, recompute=True)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> ImagesLearner:
    glyphs_for_images(monkeypatch)
    return ImagesLearner(IMAGES, MACHINE)


def rates_of(params: Params) -> list[tuple[int, float]]:
    """Number of steps and value of the learned step sizes, all different ones."""
    rates = [p for name, p in params.items() if name.startswith("inner_lr.")]
    return sorted({(len(rate), x) for rate in rates for x in rate.flatten().tolist()})


def test_sinusoid_starts_and_adapts_as_configured() -> None:
    learner = SinusoidLearner(sinusoid.Config(hidden=(7,), init_std=0.5, **UNLIKE), MACHINE)
    one, other = learner.init(1), learner.init(2)
    assert one.params["layers.0.weight"].shape == (7, 1)
    assert not torch.equal(one.params["layers.0.weight"], other.params["layers.0.weight"])
    assert one.optimizer is not None
    assert one.optimizer.param_groups[0]["lr"] == 0.03
    assert learner.inner == INNER
    assert rates_of(one.params) == [(2, 0.2)]


def test_images_start_and_adapt_as_configured(learner: ImagesLearner) -> None:
    one, other = learner.init(1), learner.init(2)
    assert one.params["head.weight"].shape[0] == 3
    assert not torch.equal(one.params["head.weight"], other.params["head.weight"])
    assert one.optimizer is not None
    assert one.optimizer.param_groups[0]["lr"] == 0.03
    assert learner.inner == replace(INNER, adapted=adapts)
    assert rates_of(one.params) == [(2, 0.2)]


def test_evaluation_of_the_sinusoid_counts_who_got_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = SinusoidLearner(sinusoid.Config(), MACHINE)
    curve = np.array([[1.0, 2.0, 6.0], [1.0, 3.0, np.nan], [0.5, 2.5, 5.0]])
    monkeypatch.setattr(learner, "_test_curve", lambda *_: curve)
    variants = learner.evaluate(learner.params(0), sinusoid.EvaluateOptions()).variants
    np.testing.assert_array_equal(variants["median"], [2.0, np.nan, 2.5])
    # Mutant: a task that stays where it was has got worse.
    assert variants["worse_than_unadapted"] == [0, 2, 1]
    assert variants["non_finite"] == [0, 1, 0]


def test_sinusoids_are_those_of_the_paper() -> None:
    tasks = sample_tasks(10_000, stream(0, "tasks"))
    for drawn, low, high in ((tasks.amplitude, 0.1, 5.0), (tasks.phase, 0.0, np.pi)):
        assert low <= drawn.min() < low + 0.01
        assert high - 0.01 < drawn.max() <= high
    quarter = Sinusoids(np.array([2.0]), np.array([np.pi / 2]))
    x, y = sample_points(quarter, 50, stream(0, "points"), dtype=torch.float64)
    torch.testing.assert_close(y, -2 * torch.cos(x))
    assert -5 <= float(x.min()) < -4
    assert 4 < float(x.max()) <= 5


def test_every_iteration_has_tasks_of_its_own(learner: ImagesLearner) -> None:
    first, again, second = (learner.train_tasks(0, i).support.images for i in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_bound_of_the_meta_gradient_arrives(
    clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    glyphs_for_images(monkeypatch)
    learner = ImagesLearner(replace(IMAGES, clip=clip), MACHINE)
    calls = recorded(monkeypatch, "metarl_experiments.images.learner.descend", lambda *_, **__: {})
    learner.step(learner.init(0), 6)
    assert calls[0].options == {"clip": clip}
    assert calls[0].args[4] == 6


def test_meta_gradient_is_bounded_element_by_element() -> None:
    theta = {"a": torch.zeros(2, requires_grad=True), "b": torch.zeros(1, requires_grad=True)}
    state = State(theta, torch.optim.SGD(theta.values()))
    gradient = {"a": torch.tensor([3.0, -0.5]), "b": torch.tensor([-4.0])}
    config, non_finite = SimpleNamespace(lr=1.0, lr_decay="none"), lambda: pytest.fail("is finite")
    descend(state, torch.tensor(0.0), gradient, config, 0, non_finite, clip=1.0)
    # Mutant: the whole gradient is scaled down until its norm is 1.
    assert theta["a"].tolist() == [-1.0, 0.5]
    assert theta["b"].tolist() == [1.0]


def test_validation_of_images_tells_the_first_and_the_last(
    learner: ImagesLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = learner.init(0)
    rows = torch.tensor([[1.0, 3.0], [10.0, 30.0], [100.0, 300.0]])
    curve = Classified(rows, rows / 1000)
    monkeypatch.setattr(AdaptedNet, "curves", lambda *_: [curve])
    found = {"accuracy_before": 0.002, "accuracy_after": 0.2, "loss_after": 200.0}
    assert learner.validate(state) == pytest.approx(found)


def test_steps_beyond_the_trained_ones_have_the_later_factors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    glyphs_for_images(monkeypatch)
    learner = ImagesLearner(replace(IMAGES, later_lr_factors=(0.0,)), MACHINE)
    params, tasks = learner.params(0), learner.train_tasks(0, 0)
    heads = [path["head.weight"] for path in learner.adapted.path(params, tasks, 4)]
    (curve,) = learner.adapted.curves(params, tasks, 4, "transductive")
    for after_each_step in (heads, curve.loss):
        stays = [torch.equal(*pair) for pair in itertools.pairwise(after_each_step)]
        assert stays == [False, False, True, True]


@pytest.mark.parametrize(
    ("dataset", "rotate", "turns"),
    [
        ("omniglot", True, {0, 1, 2, 3}),
        ("omniglot", False, {0}),
        ("mini-imagenet", True, {0}),
    ],
)
def test_classes_are_turned_where_that_is_asked_for(
    dataset: Any, rotate: bool, turns: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    glyphs_for_images(monkeypatch)
    monkeypatch.setattr("metarl_experiments.images.tasks.load_mini_imagenet", lambda *_: glyphs(60))
    source = Source(replace(IMAGES, dataset=dataset, rotate=rotate, data="root"), MACHINE)
    drawn = source.tasks("train", stream(0, "tasks"), 20, 1)
    assert set(drawn.index.turns.flat) == turns

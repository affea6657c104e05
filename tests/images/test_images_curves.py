"""Accuracy curves of few-shot nets against a reference of torch's own words."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_images_family import MACHINE, SMALL, learner_of
from torch.nn import functional

from metarl import Params, split_rates, stream, torch_stream
from metarl.images import SPLITS, at_step
from metarl_experiments.configs.images import Config, EvaluateOptions
from metarl_experiments.images.curves import MODES
from metarl_experiments.images.learner import ImagesLearner
from metarl_experiments.images.tasks import Tasks

DOUBLE = replace(MACHINE, dtype="float64")
FEW = EvaluateOptions(tasks=3, steps=4)
STEPWISE = {"batch_norm": "per_step", "inner_steps": 2, "lr_per_step": True}
CURVES = {
    "plain": SMALL,
    "support": replace(SMALL, batch_norm="support", later_lr_factors=(0.5, 0.25)),
    "five images": replace(SMALL, shots=3, query=2, later_lr_factors=(0.4,)),
    "first order": replace(SMALL, first_order=True),
    "rates": replace(SMALL, learned_lr="tensor", later_lr_factors=(0.3,)),
    "rates of each step": replace(
        SMALL, learned_lr="element", later_lr_factors=(0.5, 0.2), **STEPWISE
    ),
}


def net(p: Params, x: torch.Tensor, moments: torch.Tensor, row: int) -> torch.Tensor:
    """The dense net in torch's own words, normalised by the moments of other images."""
    for i in range(4):
        x, moments = x.flatten(1) @ p[f"weights.{i}"], moments.flatten(1) @ p[f"weights.{i}"]
        mean, deviation = moments.mean(0), (moments.var(0, correction=0) + 1e-3).sqrt()
        scale, shift = p.get(f"norms.{i}.gamma", torch.ones(1)), p[f"norms.{i}.beta"]
        if shift.ndim == 2:  # one of each inner step, the last for all later ones
            scale, shift = (v[min(row, len(v) - 1)] for v in (scale, shift))
        x, moments = (((v - mean) / deviation * scale + shift).relu() for v in (x, moments))
    return x @ p["head.weight"].T + p["head.bias"]


def reference_curves(
    config: Config, params: Params, tasks: Tasks, steps: int, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and accuracies, task by task and step by step, each ``(steps + 1, task)``."""
    model, rates = split_rates(params)
    loss, accuracy = np.empty((2, steps + 1, len(tasks.query.labels)))
    for i, (x, y, xq, yq) in enumerate(zip(*tasks.support[:2], *tasks.query[:2], strict=True)):
        theta = {n: p.detach().clone().requires_grad_() for n, p in model.items()}
        for k in range(steps + 1):
            logits = net(theta, xq, x if mode == "support" else xq, max(k - 1, 0))
            loss[k, i] = float(functional.cross_entropy(logits, yq).detach())
            accuracy[k, i] = float((logits.argmax(1) == yq).double().mean())
            moving = [n for n in theta if not n.startswith("norms")]
            slopes = torch.autograd.grad(
                functional.cross_entropy(net(theta, x, x, k), y), [theta[n] for n in moving]
            )
            late = k - config.steps
            later = config.later_lr_factors
            factor = 1.0 if late < 0 else later[min(late, len(later) - 1)]
            for n, g in zip(moving, slopes, strict=True):
                rate = rates.get(n, torch.tensor(config.inner_lr, dtype=g.dtype)).detach()
                rate = rate[min(k, len(rate) - 1)] if config.lr_per_step else rate
                theta[n] = (theta[n] - factor * rate * g).detach().requires_grad_()
    return loss, accuracy


@functools.cache
def learner_and_theta(name: str) -> tuple[ImagesLearner, Params]:
    """A learner whose images are read, and weights, scales, shifts and rates that have parted."""
    with pytest.MonkeyPatch.context() as patch:
        learner_of(CURVES[name], patch)
        learner = ImagesLearner(CURVES[name], DOUBLE)
        for split in SPLITS:
            learner.source.classes(split)
    generator, theta = torch_stream(0, "parted"), learner.params(0)
    with torch.no_grad():
        for n, p in theta.items():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.add_(noise * (0.05 if "beta" in n else 0.1 * p.abs()))
    return learner, theta


def held_out(learner: ImagesLearner, queries: int) -> Tasks:
    rng = stream(FEW.task_seed, "test-tasks", queries)
    return learner.source.tasks("test", rng, FEW.tasks, queries).part()


def differ(learner: ImagesLearner, params: Params, truth: Config) -> dict[str, float]:
    """Largest differences of losses and accuracies from those of the configuration written out."""
    tasks, worst = held_out(learner, truth.shots), {}
    curves = learner.adapted.curves(params, tasks, FEW.steps, *MODES)
    for mode, curve in zip(MODES, curves, strict=True):
        exact = reference_curves(truth, params, tasks, FEW.steps, mode)
        for field, one, other in zip(curve._fields, curve, exact, strict=True):
            worst[f"{mode} {field}"] = float(np.abs(one.numpy() - other).max())
    return worst


@pytest.mark.parametrize("name", CURVES)
def test_curves_equal_an_independent_reference(name: str) -> None:
    (learner, theta), config = learner_and_theta(name), CURVES[name]
    assert max(differ(learner, theta, config).values()) < 1e-9
    found = learner.evaluate(theta, FEW)
    for queries in dict.fromkeys((config.shots, 1)):
        tasks = held_out(learner, queries)
        for mode in MODES:
            accuracy = reference_curves(config, theta, tasks, FEW.steps, mode)[1]
            told = found.variants[f"{mode}, {queries} queries"]["mean"]
            np.testing.assert_allclose(told, accuracy.mean(1), rtol=1e-12)
            if (mode, queries) == ("transductive", config.shots):
                np.testing.assert_array_equal(found.per_task, accuracy)
    # Point 0 is theta itself, seen by the net as it is.
    (curve,) = learner.adapted.curves(theta, tasks, 1, "transductive")
    model = split_rates(theta)[0]
    for i in range(FEW.tasks):
        logits = learner.apply(model, tasks.query.images[i], None, 0)
        own = functional.cross_entropy(logits, tasks.query.labels[i])
        assert float(curve.loss[0, i]) == pytest.approx(float(own.detach()), rel=1e-12)


CURVE_FAULTS = "metarl_experiments.images.curves"
FAULTS: dict[str, tuple[str, Any]] = {
    # A query is normalised as in the step that comes, not as in the last one taken.
    "row of the query": ("at_step", lambda query, k, **options: at_step(query, k + 1, **options)),
    "row of the support": (
        "repeat_support",
        lambda support, steps: [support._replace(step=max(k - 1, 0)) for k in range(steps)],
    ),
    "moments": ("at_step", lambda query, k, reference=None: at_step(query, k)),
    "loss": ("at_step", lambda query, k, **_: at_step(query, k)._replace(labels=0 * query.labels)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_reference_sees_faults_of_curves(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, theta = learner_and_theta("rates of each step")
    where, mutant = FAULTS[fault]
    monkeypatch.setattr(f"{CURVE_FAULTS}.{where}", mutant)
    assert max(differ(learner, theta, learner.config).values()) > 1e-4


@pytest.mark.parametrize("fault", ["later rates", "adapted norms", "sum for a mean"])
def test_the_reference_sees_faults_of_inner_steps(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, theta = learner_and_theta("plain")
    config, adapted = replace(learner.config, later_lr_factors=(0.5,)), learner.adapted
    adapted = replace(adapted, config=config)
    monkeypatch.setattr(learner, "adapted", adapted)
    assert max(differ(learner, theta, config).values()) < 1e-9
    changed = {
        "later rates": replace(adapted, config=learner.config),
        "adapted norms": replace(adapted, inner=replace(adapted.inner, adapted=None)),
        "sum for a mean": replace(
            adapted, inner=replace(adapted.inner, lr=config.ways * config.inner_lr)
        ),
    }
    monkeypatch.setattr(learner, "adapted", changed[fault])
    assert max(differ(learner, theta, config).values()) > 1e-3


def test_evaluation_and_validation_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, _ = learner_and_theta("rates")
    state = learner.init(0)
    learner.step(state, 0)
    before = {n: p.detach().clone() for n, p in state.params.items()}
    assert state.optimizer is not None
    moments = {k: v["exp_avg"].clone() for k, v in state.optimizer.state.items()}
    random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, validated, extra = (
        learner.evaluate(state.params, FEW),
        learner.validate(state),
        dict(state.extra),
    )
    assert learner.validate(state) == validated
    assert learner.evaluate(state.params, FEW).variants == one.variants
    assert all(torch.equal(before[n], p) for n, p in state.params.items())
    assert all(torch.equal(v["exp_avg"], moments[k]) for k, v in state.optimizer.state.items())
    assert state.extra == extra
    assert torch.equal(random[0], torch.get_rng_state())
    assert (random[1] == np.random.get_state()[1]).all()  # noqa: NPY002

"""End to end: a small net learns to tell characters apart that it has never seen."""

import os
from typing import Any

import pytest
import torch
from images_data import characters, data_root

import metarl
from metarl.images import (
    ImageClasses,
    StridedConvNet,
    adapts,
    at_step,
    cross_entropy,
    omniglot_split,
    repeat_support,
    sample_episodes,
)

ITERATIONS = 80
HAS_DATA = data_root(os.environ.get("METARL_DATA")) is not None
# Accuracies of the seeds 0..9 on 200 test tasks after one step. Real characters:
TRANSDUCTIVE = (0.606, 0.639, 0.592, 0.643, 0.641, 0.632, 0.618, 0.627, 0.655, 0.616)
SUPPORT = (0.563, 0.574, 0.536, 0.578, 0.604, 0.592, 0.579, 0.587, 0.604, 0.554)
# Drawn glyphs are easy.
GLYPHS = 0.95


def within_band(value: float, recorded: tuple[float, ...]) -> bool:
    sample = torch.tensor(recorded, dtype=torch.float64)
    return abs(value - float(sample.mean())) < 4 * float(sample.std())


def accuracies(data: ImageClasses, seed: int, step: float) -> list[float]:
    """Unadapted, after one step transductive, after one step in support mode."""
    train, test = (omniglot_split(data, split) for split in ("train", "test"))
    generator = metarl.torch_stream(seed, "w")
    params, apply = metarl.from_module(StridedConvNet(5, filters=16, generator=generator))
    loss, inner = cross_entropy(apply), metarl.InnerLoop(step, adapted=adapts)
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    one: dict[str, Any] = {"ways": 5, "shots": 1, "queries": 1, "rotate": True}
    for i in range(ITERATIONS):
        support, query = sample_episodes(train, metarl.stream(seed, "train", i), tasks=16, **one)
        out = metarl.meta_loss(loss, loss, params, [support], query, inner, mapping="vmap")
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    support, query = sample_episodes(test, metarl.stream(0, "test", 0), tasks=200, **one)
    found = []
    for reference in (None, support):
        queries = [at_step(query, k, reference=reference) for k in range(2)]
        supports = repeat_support(support, 1)
        curve = metarl.adaptation_curve(
            loss, loss, params, supports, queries, inner, mapping="chunk:50"
        )
        found += curve.accuracy.mean(1).tolist()
    return [found[0], found[1], found[3]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageClasses:
    cache = tmp_path_factory.getbasetemp() / "omniglot-cache"
    return characters(os.environ.get("METARL_DATA"), cache)


def test_learns_new_characters(data: ImageClasses) -> None:
    unadapted, transductive, support = accuracies(data, 0, 2.0)
    assert 0.1 < unadapted < 0.3
    if HAS_DATA:
        assert within_band(transductive, TRANSDUCTIVE)
        assert within_band(support, SUPPORT)
        assert not within_band(unadapted, TRANSDUCTIVE)
    else:
        assert min(transductive, support) > GLYPHS

"""Episodes: invariants over 2 000 of them, rotations, independence of the order of access (O8)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from images_data import glyphs

from metarl import stream
from metarl.errors import InputError
from metarl.images import (
    EpisodeIndex,
    ImageClasses,
    at_step,
    draw_episodes,
    gather_episodes,
    repeat_support,
    sample_episodes,
)

SHAPES = [(5, 1, 1), (5, 1, 15), (5, 5, 5), (20, 1, 1), (20, 5, 5)]


def draw(seed: int, i: int, ways: int, shots: int, queries: int, tasks: int = 8) -> EpisodeIndex:
    return draw_episodes(
        stream(seed, "episodes", i),
        classes=100,
        images=20,
        tasks=tasks,
        ways=ways,
        shots=shots,
        queries=queries,
        rotate=True,
    )


def check(index: EpisodeIndex, ways: int, shots: int, queries: int) -> None:
    assert index.classes.shape[1:] == (ways,)
    assert index.support.shape[1:] == (ways, shots)
    assert index.query.shape[1:] == (ways, queries)
    for classes, support, query, turns in zip(*index, strict=True):
        assert len(set(classes)) == ways
        assert classes.min() >= 0
        assert classes.max() < 100
        for s, q in zip(support, query, strict=True):
            assert len({*s, *q}) == shots + queries
            assert min(*s, *q) >= 0
            assert max(*s, *q) < 20
        assert set(turns) <= {0, 1, 2, 3}


@pytest.mark.parametrize(("ways", "shots", "queries"), SHAPES)
def test_invariants_over_2000_episodes(ways: int, shots: int, queries: int) -> None:
    for i in range(50):
        check(draw(3, i, ways, shots, queries), ways, shots, queries)


def test_images_of_another_type() -> None:
    shape: Any = {"tasks": 2, "ways": 3, "shots": 1, "queries": 2}
    wide, usual = (
        sample_episodes(glyphs(5), stream(0, "wide"), dtype=dtype, **shape)
        for dtype in (torch.float64, torch.float32)
    )
    for a, b in zip(wide, usual, strict=True):
        assert a.images.dtype == torch.float64
        assert torch.allclose(a.images.float(), b.images)
        assert torch.equal(a.labels, b.labels)


def test_mutants_are_seen() -> None:
    index = draw(3, 0, 5, 1, 1)
    leak = index._replace(query=index.support)
    repeated = index._replace(classes=np.zeros_like(index.classes))
    for mutant in (leak, repeated):
        with pytest.raises(AssertionError):
            check(mutant, 5, 1, 1)


def test_draws_are_uniform() -> None:
    index = draw(1, 0, 5, 1, 1, tasks=20_000)
    for values, n in (
        (index.classes[:, 0], 100),
        (index.classes[:, 4], 100),
        (index.support[:, 2, 0], 20),
        (index.query[:, 3, 0], 20),
        (index.turns[:, 1], 4),
    ):
        counts = np.bincount(values, minlength=n)
        expected = len(values) / n
        assert len(counts) == n
        assert ((counts - expected) ** 2 / expected).sum() < n + 5 * (2 * n) ** 0.5


def test_items_do_not_depend_on_the_order_of_access() -> None:
    forward = [draw(7, i, 5, 1, 1) for i in range(6)]
    backward = [draw(7, i, 5, 1, 1) for i in reversed(range(6))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(forward[0].classes, forward[1].classes)
    assert not np.array_equal(forward[0].classes, draw(8, 0, 5, 1, 1).classes)


def tagged(classes: int = 30, images: int = 20) -> ImageClasses:
    """Pixels that say whose they are: class, image, and which corner is which."""
    pixels = np.zeros((classes, images, 1, 28, 28), np.uint8)
    pixels[..., 14, 14] = pixels[..., 14, 13] = np.arange(classes)[:, None, None]
    pixels[..., 13, 14] = pixels[..., 13, 13] = np.arange(classes)[:, None, None]
    pixels[:, :, 0, 12:16, 12:16] += 100
    pixels[:, :, 0, 0, 0] = 200 + np.arange(images)
    return ImageClasses(pixels, tuple(map(str, range(classes))))


def test_images_are_the_ones_drawn_turned_by_class() -> None:
    data = tagged()
    index = draw_episodes(
        stream(0, "e", 0), classes=30, images=20, tasks=16, ways=5, shots=2, queries=3, rotate=True
    )
    for episode, chosen in zip(
        gather_episodes(data, index), (index.support, index.query), strict=True
    ):
        each = chosen.shape[2]
        assert episode.images.shape == (16, 5 * each, 1, 28, 28)
        assert episode.images.dtype == torch.float32
        assert float(episode.images.max()) <= 1
        pixels = (episode.images * 255).round().to(torch.uint8).numpy()
        for t in range(16):
            assert episode.labels[t].tolist() == [w for w in range(5) for _ in range(each)]
            for n, image in enumerate(pixels[t, :, 0]):
                w, i = divmod(n, each)
                turned = np.rot90(image, -index.turns[t, w])
                assert np.array_equal(turned, data.images[index.classes[t, w], chosen[t, w, i], 0])
    assert len(np.unique(index.turns)) == 4


def test_images_are_turned_only_if_asked_for() -> None:
    data = tagged()
    taken: Any = {"tasks": 9, "ways": 5, "shots": 1, "queries": 1}
    turned, _ = sample_episodes(data, stream(0, "e", 0), rotate=True, **taken)
    assert not bool((turned.images[:, :, 0, 0, 0] > 0.7).all())
    support, _ = sample_episodes(data, stream(0, "e", 0), **taken)
    assert bool((support.images[:, :, 0, 0, 0] > 0.7).all())


def test_oblong_images_are_not_turned() -> None:
    data = ImageClasses(tagged().images[..., 4:24], tagged().names)
    taken: Any = {"tasks": 3, "ways": 5, "shots": 1, "queries": 1}
    support, _ = sample_episodes(data, stream(0, "e", 0), **taken)
    assert support.images.shape == (3, 5, 1, 28, 20)
    with pytest.raises(InputError, match=r"28 x 20 pixels .* rotate=False"):
        sample_episodes(data, stream(0, "e", 0), rotate=True, **taken)


@pytest.mark.parametrize("change", [lambda x: x / np.float32(255), lambda x: x[:, :, 0]])
def test_images_are_bytes_with_channels(change: Callable[[Any], Any]) -> None:
    data = ImageClasses(change(tagged().images), tagged().names)
    with pytest.raises(
        InputError, match=r"must be uint8, 0 to 255, of shape .class, image, channel"
    ):
        sample_episodes(data, stream(0, "e", 0), tasks=1, ways=5, shots=1, queries=1)


def test_memory_of_the_data_is_untouched() -> None:
    data = glyphs(12)
    before = data.images.copy()
    sample_episodes(data, stream(0, "e", 0), tasks=9, ways=5, shots=1, queries=1)
    assert np.array_equal(data.images, before)


def test_steps_and_reference() -> None:
    support, query = sample_episodes(
        glyphs(12), stream(0, "e", 0), tasks=2, ways=5, shots=1, queries=1
    )
    assert [s.step for s in repeat_support(support, 3)] == [0, 1, 2]
    assert at_step(query, 3).step == 2
    assert at_step(query, 0).step == 0
    assert at_step(query, 3).reference is None
    assert at_step(query, 3, reference=support).reference is support.images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": 101}, "101 ways"),
        ({"shots": 20}, "20 [+] 1 images"),
        ({"queries": 0}, "at least 1"),
        ({"tasks": -1}, "at least 1"),
    ],
)
def test_impossible_episodes(change: dict[str, int], message: str) -> None:
    counts = {"classes": 100, "images": 20, "tasks": 1, "ways": 5, "shots": 1, "queries": 1}
    with pytest.raises(InputError, match=message):
        draw_episodes(stream(0, "e", 0), rotate=True, **{**counts, **change})


def test_a_mask_chooses_the_classes_where_it_is_true() -> None:
    data = tagged(classes=5)
    mask = np.array([False, False, False, True, True])
    assert data.subset(mask).names == data.subset([3, 4]).names == data.names[3:]

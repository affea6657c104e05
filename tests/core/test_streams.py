"""Streams are functions of their key alone: distinct, the same everywhere, forever."""

import itertools
import os
import subprocess
import sys

import torch

from metarl import seed_of, stream, torch_stream

KEYS = [
    (seed, purpose, *index)
    for seed, purpose, index in itertools.product(
        (0, 1, -1, 10, 2**40),
        ("train-tasks", "test-tasks", "noise"),
        ((), (0,), (1,), (10,), (0, 0), (0, 1), (1, 0), (11,), (1, 1)),
    )
]

SEED = 7630233856076953200
INTEGERS = [66383602480087929, 835548751356275568, 4536947867369408679]
GOLDEN = """
import metarl
print(metarl.seed_of(7, "train-tasks", 3, 1))
print(metarl.stream(7, "train-tasks", 3, 1).integers(2**62, size=3).tolist())
print(metarl.torch_stream(7, "train-tasks", 3, 1).initial_seed())
"""


def test_keys_are_distinct() -> None:
    seeds = {seed_of(*key) for key in KEYS}
    draws = {tuple(stream(*key).integers(2**62, size=2)) for key in KEYS}
    assert len(seeds) == len(draws) == len(KEYS)
    mutants = {sum(key[2:]) + key[0] for key in KEYS}  # sums of indices collide
    assert len(mutants) < len(KEYS)


def test_values_never_change() -> None:
    """Recorded values: another one here would silently change every seeded run."""
    assert seed_of(7, "train-tasks", 3, 1) == SEED
    assert stream(7, "train-tasks", 3, 1).integers(2**62, size=3).tolist() == INTEGERS
    assert torch_stream(7, "train-tasks", 3, 1).initial_seed() == SEED
    assert min(seed_of(*key) for key in KEYS) >= 0
    assert max(seed_of(*key) for key in KEYS) < 2**63


def test_another_process_draws_the_same() -> None:
    out = subprocess.run(
        [sys.executable, "-c", GOLDEN],
        env={**os.environ, "PYTHONHASHSEED": "1"},  # Python's own hash differs between processes
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    assert out[:3] == [str(SEED), str(INTEGERS), str(SEED)]


def test_streams_neither_read_nor_move_global_state() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = stream(0, "a").normal(size=4), torch.randn(4, generator=torch_stream(0, "a"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = stream(0, "a").normal(size=4), torch.randn(4, generator=torch_stream(0, "a"))
    assert (first[0] == again[0]).all()
    assert torch.equal(first[1], again[1])

"""Random streams keyed by what they are for, so that no random state has to be saved.

A stream is a pure function of ``(seed, purpose, index...)``: the same on every machine, thread
count, rank and restart. Draw the block for all tasks and episodes of one (iteration, inner step)
from one stream, in canonical order; a rank or a chunk takes its rows.
"""

import hashlib

import numpy as np
import torch


def _key(seed: int, purpose: str, index: tuple[int, ...]) -> bytes:
    text = f"{seed}/{purpose}/{'/'.join(str(i) for i in index)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def stream(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Counter-based generator (Philox) keyed by ``(seed, purpose, index...)``.

    Args:
        seed: the run's seed, any integer.
        purpose: what is drawn, such as ``"train-tasks"``. Distinct ones have distinct streams, as
            long as none holds a slash.
        index: iteration, inner step, ... as the purpose needs.
    """
    words = np.frombuffer(_key(seed, purpose, index), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words))


def seed_of(seed: int, purpose: str, *index: int) -> int:
    """63-bit integer from the same key, for interfaces that take a seed instead of a generator."""
    return int.from_bytes(_key(seed, purpose, index)[:8], "little") >> 1


def torch_stream(seed: int, purpose: str, *index: int) -> torch.Generator:
    """CPU ``torch.Generator`` from the same key, such as for initial weights.

    Torch's keeps 32 bits of a seed: of many thousands of keys, two may have the same generator.
    """
    generator = torch.Generator()
    generator.manual_seed(seed_of(seed, purpose, *index))
    return generator

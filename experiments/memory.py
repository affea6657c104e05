"""What an iteration will take of memory, from shapes, and what the process took so far."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from metarl import Params
from metarl.footprint import footprint, shapes
from metarl.mapping import Mapping, parse_mapping
from metarl.task_dimension import count_tasks

from .machine import Machine

# Of the process that compiles, whatever it compiles; measured.
COMPILER = 100_000_000
# Memory taken for each byte in use, as blocks of all sizes come and go; measured 1.2 to 2.7.
ALLOCATOR = 1.5
# How far expectations and measurements are apart at most, either way.
FACTOR = 1.5
# What the tasks that are adapted together in an evaluation may hold.
HELD = 1 << 30


class Needs(NamedTuple):
    """Bytes that an iteration takes beyond what is there before it.

    Attributes:
        data: episodes of its tasks, which come about on the CPU.
        working: on the learner's device: what derivatives keep, gradients, moments.
    """

    data: int
    working: int


def size(tree: Any) -> int:
    """Bytes of the tensors of a tree."""
    return sum(x.numel() * x.element_size() for x in tree_leaves(tree) if isinstance(x, Tensor))


def tasks_at_once(params: Params, task: Any, steps: int) -> int:
    """Tasks that may be adapted together where the parameters after every step are held.

    Args:
        params: theta.
        task: the data of one task.
        steps: that it adapts for.
    """
    return max(1, HELD // ((steps + 1) * size(params) + size(task)))


def mapped(
    call: Callable[[Any], Any], data: Any, mapping: Mapping, *, threads: int, holds: bool = False
) -> int:
    """Bytes that a function mapped over tasks takes: those of a chunk, as many as run at a time.

    Args:
        call: of one chunk's data, without numbers.
        data: of all tasks, likewise; see `shapes`.
        mapping: definite.
        threads: that chunks run on.
        holds: what is returned for each chunk is held, not added up.
    """
    tasks = count_tasks(data)
    chunk = mapping.chunk_size(tasks) or tasks
    chunks = -(-tasks // chunk)
    part = tree_map(lambda x: x[:chunk] if isinstance(x, Tensor) else x, data)
    found = footprint(lambda: call(part))
    at_a_time = min(threads, chunks) if mapping.kind == "threads" else 1
    held = found.kept if holds else 0
    return chunks * held + at_a_time * (found.peak - held)


def gradient_needs(
    gradient: Callable[[Params, Any], Any],
    params: Params,
    tasks: Any,
    machine: Machine,
    *,
    batches: int = 1,
) -> Needs:
    """Of a meta-gradient, and of the optimiser after it.

    Args:
        gradient: of theta and a chunk of tasks, in one piece.
        params: theta.
        tasks: of an iteration, on this rank.
        machine: how it is mapped.
        batches: so many iterations' tasks are drawn at a time.
    """
    theta, whole = shapes(params), shapes(tasks)
    mapping = parse_mapping(machine.mapping)
    working = mapped(lambda part: gradient(theta, part), whole, mapping, threads=machine.threads)
    return Needs(batches * size(whole), working + 3 * size(theta))


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would begin at what the parent process had. Some sandboxes do not tell.
        lines = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        line = next(lines, None)
        if line is not None:
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def expected(needs: Needs, machine: Machine, there: int) -> tuple[int, int]:
    """Bytes at the peak of an iteration: of the process, and on a device of its own (else 0).

    Args:
        needs: of an iteration.
        machine: how it computes.
        there: bytes of the process before the first.
    """
    there += COMPILER * machine.compiled
    data, working = (round(ALLOCATOR * x) for x in needs)
    if torch.device(machine.device).type == "cpu":
        return there + data + working, 0
    return there + data, data + working

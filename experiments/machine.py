"""How a run computes: device, precision, threads, mapping over tasks, compiled or not."""

import os
from dataclasses import dataclass, replace
from typing import Literal

import torch

from metarl.compiling import compiler_present
from metarl.devices import available_cores, find_device
from metarl.errors import InputError
from metarl.mapping import parse_mapping

Switch = Literal["auto", "on", "off"]
ONE_BY_ONE = "chunk:1"


@dataclass(frozen=True)
class Machine:
    """Choices that decide the bits of a run; resolved once and written to ``config.json``.

    Attributes:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``"auto"`` only before `resolve`.
        dtype: floating type of parameters and data.
        threads: intra-op threads on the CPU; 0 only before `resolve`.
        mapping: how tasks are mapped: ``"auto"``, ``"vmap"``, ``"chunk:N"``, ``"threads"``.
            Learners replace ``"auto"`` when they are built, but for those of policies, where the
            shapes of each batch decide.
        compile: whether the step is compiled; ``"auto"`` only before `resolve`.
        exact: one task at a time on one thread, so that results do not depend on the number of
            ranks to the bit.
        recompute: inner steps are computed again for the meta-gradient rather than kept.
    """

    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 0
    mapping: str = "auto"
    compile: Switch = "auto"
    exact: bool = False
    recompute: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """``torch.float32`` or ``torch.float64``."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def compiled(self) -> bool:
        """Whether the step is compiled."""
        return self.compile == "on"

    @property
    def task_mapping(self) -> str:
        """The mapping of functions of tasks, with how they are compiled."""
        return f"{self.mapping}+compile" if self.compiled else self.mapping

    def mapped(self, auto: str) -> "Machine":
        """The same with a mapping in the place of ``auto``."""
        return replace(self, mapping=auto) if self.mapping == "auto" else self


def resolve(machine: Machine, *, threads: int, long: bool = True) -> Machine:
    """Replace device, threads and compilation left open; a function of the machine, not of time.

    Args:
        machine: as asked for on the command line.
        threads: what the experiment runs best with where none was asked for, at most all cores and
            ``OMP_NUM_THREADS``.
        long: whether the run is long enough to earn back the minute that compiling takes.

    Raises:
        InputError: a device that is not there, or no such mapping.
    """
    if parse_mapping(machine.mapping).compile:
        raise InputError("--mapping: compilation is chosen by --compile")
    if machine.exact:
        if machine.mapping not in ("auto", ONE_BY_ONE) or machine.threads > 1:
            raise InputError(
                f"--exact: takes --threads 1 and --mapping {ONE_BY_ONE}, as by default"
            )
        machine = replace(machine, mapping=ONE_BY_ONE, threads=1)
    if machine.recompute and machine.compile == "on":
        raise InputError("--recompute: takes --compile off; a compiled step keeps what it needs")
    device = _device(machine.device)
    wanted = machine.compile
    if wanted == "auto":
        wanted = (
            "on"
            if long and not machine.recompute and device != "mps" and compiler_present()
            else "off"
        )
    return replace(
        machine,
        device=device,
        threads=machine.threads or min(threads, available_cores(), _asked_for()),
        compile=wanted,
    )


def _asked_for() -> int:
    """``OMP_NUM_THREADS``, by which others' limits are told; torchrun sets it by itself."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    own = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
    return int(value) if value.isdecimal() and int(value) > 0 and not own else available_cores()


def at_most_all_cores(machine: Machine) -> Machine:
    """A stored machine on no more threads than there are cores here."""
    return replace(machine, threads=min(machine.threads, available_cores()))


def on_ranks(machine: Machine) -> Machine:
    """A stored machine as it is, whose bits threads decide, or shared by several ranks here."""
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1
    return machine if alone else at_most_all_cores(machine)


def _device(name: str) -> str:
    if name in ("auto", "cuda") and torch.cuda.is_available():
        # Each rank of a machine takes the next device, so that "cuda" says the same on all.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        return find_device(name)
    except InputError as error:
        raise InputError(f"--device: {error}") from None

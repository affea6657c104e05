"""`metarl export`: a run's parameters as a file for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from metarl.errors import InputError
from metarl.runs import export_params, read_snapshot
from metarl.runs.export import check_export

from ..options import parse, positionals
from ..outputs import output


@dataclass(frozen=True)
class ExportCommand:
    """Write theta, learned step sizes inner_lr.* among it, by name.

    Attributes:
        out: file that ends in .npz or .safetensors.
        last: take the last checkpoint, not the best by validation.
    """

    out: str | None = None
    last: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def run(argv: Sequence[str]) -> int:
    """Read, write, and say where."""
    prog = "metarl export RUN"
    names, rest = ([], argv) if argv and argv[0] in ("-h", "--help") else positionals(argv, "RUN")
    command = parse(ExportCommand, rest, prog=prog, default=ExportCommand())
    if len(names) != 1:
        raise InputError(f"RUN: one is exported at a time ({' '.join(names)})")
    if command.out is None:
        raise InputError("--out: is missing; name a file that ends in .npz or .safetensors")
    out = output(command.out)
    check_export(out)
    snapshot = read_snapshot(names[0], last=command.last)
    export_params(out, snapshot.params)
    numbers = sum(array.size for array in snapshot.params.values())
    print(f"{numbers:,} numbers of iteration {snapshot.iteration}: {out}")
    return 0

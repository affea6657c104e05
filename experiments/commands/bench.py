"""`metarl bench`: ratios of speeds, each timed beside a limit or an alternative in one process."""

import importlib
import os
import pkgutil
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from metarl.errors import InputError
from metarl.runs import versions, write_json

from .. import bench
from ..configs.bounds import Range
from ..graphics import backend_refusals
from ..options import parse, positionals
from ..outputs import output


@dataclass(frozen=True)
class BenchCommand:
    """Measure one or more benches, all of them by default: `metarl bench [NAME ...]`.

    Attributes:
        repetitions: interleaved; medians are given.
        out: JSON file to write as well.
    """

    repetitions: Annotated[int, Range(1, 1000)] = 5
    out: str | None = None


def names() -> list[str]:
    """The benches: modules of the package, with hyphens."""
    modules = pkgutil.iter_modules(bench.__path__)
    return [module.name.replace("_", "-") for module in modules if not module.ispkg]


def run(argv: Sequence[str]) -> int:
    """Measure, print, perhaps write."""
    asked, rest = ([], argv) if not argv or argv[0].startswith("-") else positionals(argv, "NAME")
    command = parse(BenchCommand, rest, prog="metarl bench [NAME ...]", default=BenchCommand())
    for name in asked:
        if name not in names():
            raise InputError(f"NAME: there is no bench {name!r}, only {', '.join(names())}")
    out = None if command.out is None else output(command.out)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: needs a file name in a directory that exists")
    machine = {"cores": os.cpu_count(), "platform": platform.platform()}
    results = {}
    for name in asked or names():
        with backend_refusals():
            module = importlib.import_module(f"{bench.__name__}.{name.replace('-', '_')}")
            measure = getattr(module, f"{name.replace('-', '_')}_bench")
            results[name] = measure(command.repetitions)
        for what, ratio in results[name].items():
            print(f"{name:<20} {what:<28} {ratio:.4g}", flush=True)
        if out is not None:  # after each: all of them take a quarter of an hour
            write_json(out, {"machine": machine, "versions": versions(), "benches": results})
    if out is not None:
        print(f"wrote {out}")
    return 0

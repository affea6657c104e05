"""`metarl report`: figures and one self-contained page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from metarl.errors import InputError

from ..evaluation.evaluate import default_file, experiment_of
from ..evaluation.shipped import is_shipped
from ..options import parse_protocol, positionals
from ..outputs import output
from ..reporting.report import report

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class ReportCommand(Generic[OptionsT]):
    """Draw the figures of one or more runs of an experiment.

    Attributes:
        protocol: of the evaluations shown; not a prefix on the command line.
        alone: without shipped runs and published numbers beside these runs.
        out: directory; RUN/report for one run, report for several by default, with the protocol in
            its name where that is not the default.
        device: auto, cpu, cuda, cuda:N or mps; by default the run's own, or cpu where that is not
            there.
        data: root that holds omniglot/ or mini-imagenet/, for images; the run's own, or
            METARL_DATA, by default.
    """

    protocol: Annotated[OptionsT, tyro.conf.arg(name="")]
    alone: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    out: str | None = None
    device: str | None = None
    data: str | None = None


def run(argv: Sequence[str]) -> int:
    """Write the report and say where it is."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: metarl report RUN [RUN ...] [options]; `metarl report RUN --help` for all")
        return 0
    names, rest = positionals(argv, "RUN")
    paths = [Path(name) for name in names]
    prog = "metarl report RUN [RUN ...]"
    command = parse_protocol(ReportCommand, experiment_of(paths[0]), rest, prog=prog)
    out = output(_default(paths, command.protocol) if command.out is None else command.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose a directory")
    page = report(
        paths,
        out,
        command.protocol,
        alone=command.alone,
        device=command.device,
        data=command.data,
    )
    print(f"figures and page: {page}")
    return 0


def _default(paths: Sequence[Path], protocol: Any) -> Path:
    """``report``, in the run where it is one; named like the evaluation of another protocol."""
    folder = paths[0] if len(paths) == 1 and not is_shipped(paths[0]) else Path()
    file = default_file(folder, protocol, last=False, compare=())
    return file.with_name(file.stem.replace("evaluation", "report", 1))

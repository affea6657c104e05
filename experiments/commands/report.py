"""`metarl report`: figures and one self-contained page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metarl.errors import InputError

from ..evaluation.shipped import is_shipped
from ..options import parse, positionals
from ..outputs import output
from ..reporting.report import report


@dataclass(frozen=True)
class ReportCommand:
    """Draw the figures of one or more runs of an experiment.

    Attributes:
        out: directory; RUN/report for one run, report for several by default.
        device: auto, cpu, cuda, cuda:N or mps; by default the run's own, or cpu where that is not
            there.
        data: root that holds omniglot/ or mini-imagenet/, for images; the run's own, or
            METARL_DATA, by default.
    """

    out: str | None = None
    device: str | None = None
    data: str | None = None


def run(argv: Sequence[str]) -> int:
    """Write the report and say where it is."""
    prog = "metarl report RUN [RUN ...]"
    names, rest = ([], argv) if argv and argv[0] in ("-h", "--help") else positionals(argv, "RUN")
    command = parse(ReportCommand, rest, prog=prog, default=ReportCommand())
    paths = [Path(name) for name in names]
    out = output(_default(paths) if command.out is None else command.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose a directory")
    print(f"figures and page: {report(paths, out, device=command.device, data=command.data)}")
    return 0


def _default(paths: Sequence[Path]) -> Path:
    return paths[0] / "report" if len(paths) == 1 and not is_shipped(paths[0]) else Path("report")

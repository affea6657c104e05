"""`metarl evaluate`: adaptation curves of a run on held-out tasks, as a table and as JSON."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from metarl.errors import InputError
from metarl.runs import write_json
from metarl.runs.files import real
from metarl.runs.layout import EVALUATION

from ..evaluation.comparison import check_comparable, compare
from ..evaluation.evaluate import default_file, evaluate, experiment_of, load
from ..evaluation.evaluations import tasks_told
from ..evaluation.shipped import is_shipped
from ..options import parse_protocol, positionals
from ..outputs import check_writable, output
from ..reporting.view import write_evaluation

OptionsT = TypeVar("OptionsT")
NOTHING = 1e-12
# Of losses without a bound, whose mean a few tasks may decide: after each step, beside it.
EXTRA_COLUMNS = {"median": "median", "worse": "worse_than_unadapted"}


@dataclass(frozen=True)
class EvaluateCommand(Generic[OptionsT]):
    """Evaluate a run on held-out tasks.

    Attributes:
        protocol: the experiment's own options; not a prefix on the command line.
        last: take the last checkpoint, not the best by validation.
        compare: further runs; paired differences to them.
        out: JSON file; evaluation.json in the run by default, with the options in its name where
            they differ from the default protocol.
        device: auto, cpu, cuda, cuda:N or mps; by default the run's own, or cpu where that is not
            there.
        data: root that holds omniglot/ or mini-imagenet/, for images; the run's own, or
            METARL_DATA, by default.
    """

    protocol: Annotated[OptionsT, tyro.conf.arg(name="")]
    last: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    compare: tuple[str, ...] = ()
    out: str | None = None
    device: str | None = None
    data: str | None = None


def run(argv: Sequence[str]) -> int:
    """Evaluate, print, write."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: metarl evaluate RUN [options]; `metarl evaluate RUN --help` for all")
        return 0
    names, rest = positionals(argv, "RUN")
    if len(names) != 1:
        raise InputError(f"RUN: one is evaluated at a time ({' '.join(names)}); see --compare")
    path = Path(names[0])
    prog = f"metarl evaluate {path}"
    command = parse_protocol(EvaluateCommand, experiment_of(path), rest, prog=prog)
    if "--compare" in rest and not command.compare:
        raise InputError("--compare: is empty; name a run")
    out = _out(path, command)
    if out is not None:
        check_writable(out)
    chosen = functools.partial(load, last=command.last, device=command.device, data=command.data)
    loaded, others = chosen(path), [chosen(Path(other)) for other in command.compare]
    for other in others:
        check_comparable(loaded, other, command.protocol)
    result = evaluate(loaded, command.protocol)
    differences = [compare(result, evaluate(other, command.protocol)) for other in others]
    own = out
    if out is not None and command.out is None:  # a report looks for the run's own
        own = default_file(path, command.protocol, last=command.last, compare=())
    if own is not None:  # before anything is printed, which may find no reader
        write_evaluation(own, path, result)
    if differences:
        result["variants"]["compare"] = differences
    if out is not None and differences:
        write_json(out, result)
    print(table(result))
    for difference in differences:
        print(comparison(result, difference))
    if out is not None:
        print(f"wrote {out}")
    return 0


def _out(path: Path, command: EvaluateCommand[Any]) -> Path | None:
    """Where the JSON goes; None for a shipped run, which stays as it is."""
    if command.out is None:
        default = default_file(path, command.protocol, last=command.last, compare=command.compare)
        return None if is_shipped(path) else default
    out = output(command.out)
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {out}: needs a file name in a directory that exists")
    own = default_file(path, command.protocol, last=command.last, compare=())
    if real(out) == real(path / EVALUATION) != real(own):
        raise InputError(
            f"--out {out}: reports read the numbers of the default protocol there; name {own}"
        )
    return out


def _number(value: float | None, none: str = "not finite") -> str:
    if value is None:
        return f"{none:>10}"
    # What differences of equal numbers leave in the last bits is none.
    return f"{0.0 if abs(value) < NOTHING else value:>10.4g}"


def table(result: dict[str, Any]) -> str:
    """The evaluation as lines of text."""
    head = (
        f"{result['experiment']}  {result['run']}  iteration {result['iteration']}  "
        f"{tasks_told(result)}"
    )
    columns = {
        name: result["variants"][key]
        for name, key in EXTRA_COLUMNS.items()
        if key in result["variants"]
    }
    names = "".join(f" {name:>10}" for name in columns)
    rows = [f"{'steps':>5} {result['metric']:>10} {'+-95 %':>10}{names}"]
    for k, (mean, ci95) in enumerate(zip(result["mean"], result["ci95"], strict=True)):
        more = "".join(f" {_number(column[k])}" for column in columns.values())
        rows.append(f"{k:>5} {_number(mean)} {_number(ci95, _no_interval(result))}{more}")
    return "\n".join([head, *rows])


def comparison(result: dict[str, Any], difference: dict[str, Any]) -> str:
    """A paired difference as lines of text."""
    head = f"{result['run']} minus {difference['run']} (paired, bootstrap 95 %)"
    rows = [f"{'steps':>5} {result['metric']:>10} {'low':>10} {'high':>10}"]
    columns = (difference[name] for name in ("mean", "low", "high"))
    for k, values in enumerate(zip(*columns, strict=True)):
        mean, *interval = values
        ends = (_number(end, _no_interval(result)) for end in interval)
        rows.append(f"{k:>5} {_number(mean)} " + " ".join(ends))
    return "\n".join([head, *rows])


def _no_interval(result: dict[str, Any]) -> str:
    return "one task" if result["tasks"] == 1 else "not finite"

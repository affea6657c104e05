"""Option values from the command line by tyro; whatever is wrong becomes one `InputError` line."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypeVar

import tyro

from metarl.errors import InputError

from .catalog import EXPERIMENTS, Experiment
from .configs.bounds import check_ranges

T = TypeVar("T")
PATHS = ("--out", "--from", "--data")


def find_experiment(name: str) -> Experiment:
    """Experiment of that name.

    Raises:
        InputError: there is none; the message names the closest.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    close = get_close_matches(name, EXPERIMENTS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`metarl list` shows them"
    raise InputError(f"EXPERIMENT: there is no {name!r}; {hint}")


def preset_config(experiment: Experiment, name: str) -> Any:
    """Configuration of the preset ``name``.

    Raises:
        InputError: the experiment has no such preset.
    """
    known = experiment.presets()
    if name not in known:
        raise InputError(f"--preset: {experiment.name} has no {name!r}; it has {', '.join(known)}")
    return overlay(experiment.configs().Config(), known[name])


def overlay(config: Any, values: dict[str, Any]) -> Any:
    """Copy of a frozen dataclass with ``values`` (JSON, nested for nested dataclasses) in place.

    Raises:
        InputError: a name that the dataclass does not have.
    """
    known = vars(config)
    for name in values:
        if name not in known:
            raise InputError(f"unknown field {name!r} of {type(config).__name__}")

    def value(name: str) -> Any:
        new = values[name]
        if isinstance(new, dict) and not isinstance(known[name], dict):
            return overlay(known[name], new)
        return tuple(new) if isinstance(new, list) else new

    changed: Any = replace(config, **{name: value(name) for name in values})
    return changed


def positionals(argv: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Split leading arguments from options.

    Raises:
        InputError: the command line does not begin with at least one ``name``.
    """
    first = next((i for i, text in enumerate(argv) if text.startswith("-")), len(argv))
    if first == 0:
        raise InputError(f"{name}: is missing; it comes before the options")
    return list(argv[:first]), list(argv[first:])


def value_of(argv: Sequence[str], option: str) -> str | None:
    """Value of ``option`` in ``argv`` (``--x V`` or ``--x=V``), None where it is not given.

    Its words may be joined by underscores too.
    """
    for i, text in enumerate(argv):
        name, equals, value = text.partition("=")
        if name.replace("_", "-") == option:
            if equals:
                return value
            if i + 1 < len(argv):
                return argv[i + 1]
    return None


def parse(kind: Any, argv: Sequence[str], *, prog: str, default: T) -> T:
    """Dataclass ``default`` with the options of ``argv`` put in, checked against its ranges.

    Args:
        kind: type of the result, for tyro; a generic alias where a field's type is a parameter.
        argv: options only.
        prog: command as typed, for the help text.
        default: values of the options that are not given.

    Raises:
        InputError: unknown, duplicate, malformed or out-of-range options.
    """
    _refuse_odd(argv)
    box = io.StringIO()
    try:
        with _wide(), contextlib.redirect_stderr(box):
            options: T = tyro.cli(kind, prog=prog, args=list(argv), default=default)
        check_ranges(options)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise InputError(_one_line(box.getvalue())) from None
    except (ValueError, OverflowError) as error:
        raise InputError(str(error)) from None
    return options


def parse_protocol(command: Any, experiment: Experiment, argv: Sequence[str], *, prog: str) -> Any:
    """As `parse`, of a command whose parameter and first field are an experiment's protocol.

    Args:
        command: generic dataclass, which has the options of evaluations beside its own.
        experiment: whose ``EvaluateOptions`` these are.
        argv: options only.
        prog: command as typed.
    """
    options = experiment.configs().EvaluateOptions
    return parse(command[options], argv, prog=prog, default=command(options()))


def _refuse_odd(argv: Sequence[str]) -> None:
    for name in PATHS:
        if value_of(argv, name) == "":
            raise InputError(f"{name}: is empty, such as a variable that is not set")
    seen: set[str] = set()
    for text in argv:
        if "\0" in text:
            raise InputError(f"{text.partition(chr(0))[0]!r}: holds a NUL character")
        if re.match(r"--[A-Za-z]", text):
            name = text.partition("=")[0].replace("_", "-")
            plain = re.sub(r"^--no-", "--", name)
            if plain in seen:
                raise InputError(f"{plain}: is given twice")
            seen.add(plain)


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Have tyro wrap late, so that names stay whole."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = before or "100"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]


def _one_line(box: str) -> str:
    """Tyro's error box on one line: what is wrong, and which option is meant or what it takes."""
    says, *hints = _sections(box) or [["the options could not be read"]]
    # The types that were tried one after the other are tyro's affair.
    line = " ".join(says).partition(" Got errors:")[0].rstrip(".")
    similar: list[str] = []
    for title, *rows in hints:
        option = next((row for row in rows if row.startswith("--")), None)
        if option is None:
            continue
        if title.startswith("Argument helptext"):
            line += f"; it is {option}"
        else:
            similar.append(option.partition(" ")[0])
    return line + (f"; did you mean {', '.join(sorted(similar))}?" if similar else "")


def _sections(box: str) -> list[list[str]]:
    """Rows of the box's sections, without its title and frame."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    # Where the output's encoding has no frame, the title has a rule of its own.
    titled = "╭" not in text
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        row = line.strip("│ ")
        if not row or row[0] in "╭╰":  # the title bar, and the end
            continue
        if not set(row) <= set("─-"):
            sections[-1].append(row)
        elif titled:
            sections, titled = [[]], False
        else:
            sections.append([])
    return [rows for rows in sections if rows]

"""Options of `metarl train`: of a new run, and of one that goes on."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from metarl.distributed import ALONE
from metarl.errors import InputError

from ..catalog import Experiment
from ..configs.bounds import UNPREFIXED, Range, check_types, option_name
from ..configs.flat import flat
from ..machine import Switch, on_ranks
from ..options import parse, preset_config, value_of
from ..stored import stored

ConfigT = TypeVar("ConfigT")
# What a resumed run may change; everything else decides its bits.
FREE = (
    *("--out", "--resume", "--minutes", "--device", "--iterations", "--patience"),
    *("--rank-timeout", "--data"),
)


@dataclass(frozen=True)
class TrainOptions(Generic[ConfigT]):
    """Meta-train one experiment.

    Attributes:
        config: the experiment's own fields; not a prefix on the command line.
        preset: set of values that the fields start from.
        out: run directory; the next free runs/<experiment>/seed-<S> by default.
        seed: of initial parameters, tasks and data.
        minutes: stop after so many minutes of training; by default only after the iterations.
        resume: continue the run in --out with its own config, bit for bit.
        from_: checkpoint directory whose parameters, learned step sizes among them, a new run
            begins with.
        checkpoint_seconds: time between checkpoints.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: floating type.
        threads: intra-op threads on the CPU; 0 takes what suits the experiment.
        mapping: over tasks: auto, vmap, chunk:N or threads.
        compile: whether the step is compiled; auto does in long runs where a compiler is present.
        exact: results do not depend on the number of ranks to the bit; slower.
        recompute: compute inner steps again for the meta-gradient rather than keep them: less
            memory for many of them, more time; nothing is compiled then.
        rank_timeout: seconds that ranks wait for one another.
    """

    config: Annotated[ConfigT, tyro.conf.arg(name="")]
    preset: str = "default"
    out: str | None = None
    seed: int = 0
    minutes: Annotated[float | None, Range(0, 1e6, above=True)] = None
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    checkpoint_seconds: Annotated[float, Range(0, 1e6)] = 30.0
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    threads: Annotated[int, Range(0, 1024)] = 0
    mapping: str = "auto"
    compile: Switch = "auto"
    exact: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    recompute: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    rank_timeout: Annotated[float, Range(1, 86_400)] = ALONE.timeout


def _kind(experiment: Experiment) -> Any:
    generic: Any = TrainOptions  # its parameter is known only now
    return generic[experiment.configs().Config]


def fresh(experiment: Experiment, argv: Sequence[str]) -> TrainOptions[Any]:
    """Options of a new run: those given, on a preset."""
    start = preset_config(experiment, value_of(argv, "--preset") or "default")
    prog = f"metarl train {experiment.name}"
    return parse(_kind(experiment), argv, prog=prog, default=TrainOptions(start))


def rank_timeout(argv: Sequence[str]) -> float:
    """Value of --rank-timeout, which is needed before the other options can be read together."""
    try:
        return max(1.0, min(float(value_of(argv, "--rank-timeout") or ALONE.timeout), 86_400.0))
    except ValueError:
        return ALONE.timeout


def given_again(argv: Sequence[str], *, resumed: bool) -> str:
    """What to add to a command that goes on: options of this one that no file keeps."""
    names = [name for name in FREE if name not in ("--out", "--resume")]
    given = {name: value_of(argv, name) for name in (names if resumed else ("--rank-timeout",))}
    return "".join(f" {n} {shlex.quote(v)}" for n, v in given.items() if v is not None)


def resumed(
    experiment: Experiment, argv: Sequence[str], values: dict[str, Any]
) -> TrainOptions[Any]:
    """Options of a run that goes on: its own, but for the few that may differ."""
    out = str(value_of(argv, "--out"))
    if values.get("experiment") != experiment.name:
        raise InputError(f"EXPERIMENT: {out} holds a run of {values.get('experiment')}")
    config, machine, seed = stored(Path(out), experiment, values)
    try:
        own = TrainOptions(
            config,
            seed=seed,
            from_=values["from"],
            **{name: values[name] for name in ("preset", "minutes", "checkpoint_seconds")},
            **asdict(on_ranks(machine)),
        )
        check_types(own)
    except (KeyError, ValueError) as error:
        raise InputError(f"{out}: its config.json is not of this version: {error}") from None
    prog = f"metarl train {experiment.name}"
    options: TrainOptions[Any] = parse(_kind(experiment), argv, prog=prog, default=own)
    before, after = by_option(own), by_option(options)
    for name, value in after.items():
        if name not in FREE and value != before[name]:
            raise InputError(
                f"{name}: a resumed run keeps its own, {before[name]}, not {value}; only "
                "--iterations, --minutes, --patience, --device, --rank-timeout and --data may "
                "differ"
            )
    return options


def by_option(options: Any) -> dict[str, Any]:
    """Option name -> value."""
    return {
        option_name(*(name for name in path if name not in UNPREFIXED)): value
        for path, value in flat(asdict(options))
    }

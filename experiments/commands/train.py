"""`metarl train`: from options to a run directory, then the training loop."""

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import torch
import tyro

from metarl.distributed import ALONE, Ranks, joined
from metarl.errors import InputError
from metarl.runs import Run, Snapshot, versions

from ..catalog import Experiment
from ..configs.bounds import UNPREFIXED, Range, check_types, option_name
from ..family import Learner, State
from ..machine import Machine, Switch, on_ranks, resolve
from ..opening import free_directory, opened, start_from, stored_values
from ..options import find_experiment, parse, positionals, preset_config, value_of
from ..progress import Quiet, Reporter, announce, reporter
from ..settings import settings
from ..signals import Abandoned
from ..stored import stored
from ..train import Plan, train

ConfigT = TypeVar("ConfigT")
# What a resumed run may change; everything else decides its bits.
FREE = ("--out", "--resume", "--minutes", "--device", "--iterations", "--rank-timeout", "--data")
# Shorter runs do not earn back the minute that compiling takes.
LONG_MINUTES = 4.0


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
        from_: checkpoint directory whose parameters a new run begins with.
        checkpoint_seconds: time between checkpoints.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: floating type.
        threads: intra-op threads on the CPU; 0 takes what suits the experiment.
        mapping: over tasks: auto, vmap, chunk:N or threads.
        compile: whether the step is compiled; auto does in long runs where a compiler is present.
        exact: results do not depend on the number of ranks to the bit; slower.
        recompute: compute inner steps again for the meta-gradient rather than keep them: less
            memory for many of them, more time.
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


def run(argv: Sequence[str]) -> int:
    """Train, and say where the run is and how to go on."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: metarl train EXPERIMENT [options]; `metarl train EXPERIMENT --help` for all")
        return 0
    names, rest = positionals(argv, "EXPERIMENT")
    if len(names) != 1:
        raise InputError(f"EXPERIMENT: one is trained at a time, got {' '.join(names)}")
    status, _ = train_experiment(find_experiment(names[0]), rest)
    return status


def train_experiment(experiment: Experiment, argv: Sequence[str]) -> tuple[int, Path]:
    """Train as the options say; the exit status and the run directory."""
    with joined(_timeout(argv)) as ranks:
        values = stored_values(argv, ranks)
        options: TrainOptions[Any] = ranks.together(
            lambda: (
                _fresh(experiment, argv) if values is None else _resumed(experiment, argv, values)
            )
        )
        learner, state = ranks.together(lambda: _prepare(experiment, options, ranks))
        if options.from_ and values is None:
            start_from(options.from_, state, ranks)
        config = _config(experiment, options, learner.machine)
        ranks.require_same("configuration", json.dumps(config, indent=0, sort_keys=True))
        named = options.out or str(free_directory(experiment.name, options.seed))
        out = Path(ranks.share(named.encode()).decode())
        with opened(out, None if values else config, ranks) as (directory, start):
            if isinstance(directory, Run):
                directory.describe(settings(options.config, learner, seed=options.seed))
            return _train(experiment, options, learner, state, directory, start, ranks), out


def _prepare(
    experiment: Experiment, options: TrainOptions[Any], ranks: Ranks
) -> tuple[Learner, State]:
    asked = Machine(**{f.name: getattr(options, f.name) for f in fields(Machine)})
    configs = experiment.configs()
    long = options.config.iterations >= configs.LONG_RUN
    long = long and (options.minutes is None or options.minutes >= LONG_MINUTES)
    machine = resolve(asked, threads=configs.THREADS, long=long)
    torch.set_num_threads(machine.threads)
    ranks.rows(options.config.validation_tasks)  # too few for the ranks are refused now
    learner: Learner = experiment.learner().build(options.config, machine, ranks)
    return learner, learner.init(options.seed)


def _train(
    experiment: Experiment,
    options: TrainOptions[Any],
    learner: Learner,
    state: State,
    directory: Run | Path,
    start: Snapshot | None,
    ranks: Ranks,
) -> int:
    first = isinstance(directory, Run)
    name, config = experiment.name, options.config
    out = directory.path if isinstance(directory, Run) else directory
    done = start.iteration if start else 0
    plan = Plan(
        config.iterations,
        config.log_every,
        config.validate_every,
        options.checkpoint_seconds,
        options.minutes,
        config.patience,
    )
    progress: Reporter = Quiet()
    if first:
        announce(name, out, done=done, ranks=ranks.size, compiles=learner.machine.compiled)
        progress = reporter(
            name, learner.shown, start=done, end=plan.iterations, minutes=plan.minutes
        )
    try:
        iteration, signum = train(
            learner, directory, state, plan, progress, start=start, ranks=ranks
        )
        where = f"saved at iteration {iteration}"
    except Abandoned as abandoned:
        signum, where = abandoned.signum, "the last checkpoint stands"
    if signum is None:
        if first:
            print(f"{name}: {iteration} iterations in {out}")
        return 0
    if first:
        print(
            f"metarl train: stopped by {signal.Signals(signum).name}, {where}; "
            f"go on with: metarl train {name} --out {shlex.quote(str(out))} --resume",
            file=sys.stderr,
        )
    return 128 + signum


def _kind(experiment: Experiment) -> Any:
    generic: Any = TrainOptions  # its parameter is known only now
    return generic[experiment.configs().Config]


def _fresh(experiment: Experiment, argv: Sequence[str]) -> TrainOptions[Any]:
    start = preset_config(experiment, value_of(argv, "--preset") or "default")
    prog = f"metarl train {experiment.name}"
    return parse(_kind(experiment), argv, prog=prog, default=TrainOptions(start))


def _timeout(argv: Sequence[str]) -> float:
    """Value of --rank-timeout, which is needed before the other options can be read together."""
    try:
        return max(1.0, min(float(value_of(argv, "--rank-timeout") or ALONE.timeout), 86_400.0))
    except ValueError:
        return ALONE.timeout


def _resumed(
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
    before, after = _flat(asdict(own)), _flat(asdict(options))
    for name, value in after.items():
        if name not in FREE and value != before[name]:
            raise InputError(
                f"{name}: a resumed run keeps its own, {before[name]}, not {value}; only "
                "--iterations, --minutes, --device, --rank-timeout and --data may differ"
            )
    return options


def _flat(values: dict[str, Any], *path: str) -> dict[str, Any]:
    """Option name -> value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        here = path if name in UNPREFIXED else (*path, name)
        flat |= _flat(value, *here) if isinstance(value, dict) else {option_name(*here): value}
    return flat


def _config(experiment: Experiment, options: TrainOptions[Any], machine: Machine) -> dict[str, Any]:
    """What ``config.json`` holds."""
    return {
        "experiment": experiment.name,
        "preset": options.preset,
        "seed": options.seed,
        "from": options.from_,
        "minutes": options.minutes,
        "checkpoint_seconds": options.checkpoint_seconds,
        "machine": asdict(machine),
        "config": asdict(options.config),
        "versions": versions(),
    }

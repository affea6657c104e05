"""`metarl train`: from options to a run directory, then the training loop."""

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import torch
import tyro

from metarl.errors import InputError
from metarl.runs import Run, Snapshot, load_checkpoint, open_run, read_config, versions

from ..catalog import Experiment
from ..configs.bounds import UNPREFIXED, Range, check_types, option_name
from ..family import Learner, State
from ..machine import Machine, Switch, resolve
from ..options import find_experiment, parse, positionals, preset_config, value_of
from ..progress import reporter
from ..settings import settings
from ..signals import Abandoned
from ..state import put_params
from ..stored import stored
from ..train import Plan, train

ConfigT = TypeVar("ConfigT")
RUNS = Path("runs")
# What a resumed run may change; everything else decides its bits.
FREE = ("--out", "--resume", "--minutes", "--device", "--iterations")


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
    options = _resumed(experiment, argv) if "--resume" in argv else _fresh(experiment, argv)
    asked = Machine(
        options.device, options.dtype, options.threads, options.mapping, options.compile
    )
    configs = experiment.configs()
    long = options.config.iterations >= configs.LONG_RUN
    machine = resolve(asked, threads=configs.THREADS, long=long)
    torch.set_num_threads(machine.threads)
    learner = experiment.learner().build(options.config, machine)
    state = learner.init(options.seed)
    if options.from_:
        try:
            put_params(state.params, load_checkpoint(options.from_).params)
        except InputError as error:
            raise InputError(f"--from {options.from_}: {error}") from None
    config = None if options.resume else _config(experiment, options, learner.machine)
    out = Path(options.out or free_directory(experiment.name, options.seed))
    with open_run(out, config, resume=options.resume) as directory:
        start = directory.load() if options.resume else None
        directory.describe(settings(options.config, learner, seed=options.seed))
        return _train(experiment, options, learner, state, directory, start), out


def _train(
    experiment: Experiment,
    options: TrainOptions[Any],
    learner: Learner,
    state: State,
    directory: Run,
    start: Snapshot | None,
) -> int:
    name, out, config = experiment.name, directory.path, options.config
    done = start.iteration if start else 0
    print(f"{name}: {f'continuing at {done}' if done else 'training'} in {out}", flush=True)
    plan = Plan(
        config.iterations,
        config.log_every,
        config.validate_every,
        options.checkpoint_seconds,
        options.minutes,
        config.patience,
    )
    progress = reporter(name, learner.shown, start=done, end=plan.iterations, minutes=plan.minutes)
    try:
        iteration, signum = train(learner, directory, state, plan, progress, start=start)
        where = f"saved at iteration {iteration}"
    except Abandoned as abandoned:
        signum, where = abandoned.signum, "the last checkpoint stands"
    if signum is None:
        print(f"{name}: {iteration} iterations in {out}")
        return 0
    print(
        f"metarl train: stopped by {signal.Signals(signum).name}, {where}; "
        f"go on with: metarl train {name} --out {shlex.quote(str(out))} --resume",
        file=sys.stderr,
    )
    return 128 + signum


def free_directory(experiment: str, seed: int) -> Path:
    """``runs/<experiment>/seed-<S>``, or the first of ``seed-<S>-2``, ... that is free."""
    directory = RUNS / experiment / f"seed-{seed}"
    number = 1
    while directory.exists():
        number += 1
        directory = RUNS / experiment / f"seed-{seed}-{number}"
    return directory


def _kind(experiment: Experiment) -> Any:
    generic: Any = TrainOptions  # its parameter is known only now
    return generic[experiment.configs().Config]


def _fresh(experiment: Experiment, argv: Sequence[str]) -> TrainOptions[Any]:
    start = preset_config(experiment, value_of(argv, "--preset") or "default")
    prog = f"metarl train {experiment.name}"
    return parse(_kind(experiment), argv, prog=prog, default=TrainOptions(start))


def _resumed(experiment: Experiment, argv: Sequence[str]) -> TrainOptions[Any]:
    """Options of a run that goes on: its own, but for the few that may differ."""
    out = value_of(argv, "--out")
    if out is None:
        raise InputError("--resume: name the run with --out")
    values = read_config(out)
    if values.get("experiment") != experiment.name:
        raise InputError(f"EXPERIMENT: {out} holds a run of {values.get('experiment')}")
    config, machine, seed = stored(Path(out), experiment, values)
    try:
        own = TrainOptions(
            config,
            seed=seed,
            from_=values["from"],
            **{name: values[name] for name in ("preset", "minutes", "checkpoint_seconds")},
            **asdict(machine),
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
                "--iterations, --minutes and --device may differ"
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

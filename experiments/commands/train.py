"""`metarl train`: from options to a run directory, then the training loop."""

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from metarl.distributed import Ranks, joined
from metarl.errors import InputError, MetarlError
from metarl.runs import Run, Snapshot, versions

from ..catalog import Experiment
from ..configs.base import FamilyConfig
from ..contradictions import warn_of_initial_values, warn_of_unused
from ..family import Learner, State
from ..machine import Machine, resolve
from ..options import find_experiment, positionals
from ..progress import Quiet, Reporter, announce, reporter, tell
from ..training.loop import Plan, train
from ..training.opening import free_directory, opened, start_from, stored_values
from ..training.options import TrainOptions, fresh, given_again, rank_timeout, resumed
from ..training.settings import settings
from ..training.signals import Abandoned
from ..words import count

# Shorter runs do not earn back the minute that compiling takes.
LONG_MINUTES = 4.0


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
    with joined(rank_timeout(argv)) as ranks:
        values = stored_values(argv, ranks)
        options: TrainOptions[Any] = ranks.together(
            lambda: fresh(experiment, argv) if values is None else resumed(experiment, argv, values)
        )
        learner, state = ranks.together(lambda: _prepare(experiment, options, ranks))
        if values is None and ranks.rank == 0:
            warn_of_unused(argv, options.config)
        if options.from_ and values is None:
            step_sizes = start_from(options.from_, state, ranks)
            if ranks.rank == 0:
                warn_of_initial_values(argv, options.config, step_sizes=step_sizes)
        config = _config(experiment, options, learner.machine)
        ranks.require_same("configuration", json.dumps(config, indent=0, sort_keys=True))
        named = options.out or str(free_directory(experiment.name, options.seed))
        out = Path(os.fsdecode(ranks.share(os.fsencode(named))))
        with _suspects(options.config), opened(out, None if values else config, ranks) as run:
            directory, start = run
            if options.from_ and values is not None and start is None:
                start_from(options.from_, state, ranks)  # it ended before its first checkpoint
            if isinstance(directory, Run):
                directory.describe(settings(options.config, learner, seed=options.seed))
            go_on = f"train {experiment.name} --out {shlex.quote(str(out))} --resume"
            go_on = f"{_program(ranks)} {go_on}{given_again(argv, resumed=values is not None)}"
            return _train(experiment, options, learner, state, directory, start, ranks, go_on), out


@contextmanager
def _suspects(config: FamilyConfig) -> Iterator[None]:
    """Name a part of the user's beside an error of the program, which it may be the cause of."""
    try:
        yield
    except MetarlError:
        raise
    except Exception as error:
        suspect = config.suspect()
        if suspect is not None:
            error.add_note(suspect)
        raise


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
    go_on: str,
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
        iteration, signum, stale = train(
            learner, directory, state, plan, progress, start=start, ranks=ranks
        )
        where = f"saved at iteration {iteration}"
    except Abandoned as abandoned:
        signum, where = abandoned.signum, "the last checkpoint stands"
    if signum is None:
        if first:
            more = f"; go on with: {go_on}" if iteration < plan.iterations and not stale else ""
            tell(f"{name}: {count(iteration, 'iteration')} in {out}{more}", sys.stdout)
        return 0
    if first:
        stopped = f"stopped by {signal.Signals(signum).name}, {where}"
        tell(f"metarl train: {stopped}; go on with: {go_on}", sys.stderr)
    return 128 + signum


def _program(ranks: Ranks) -> str:
    """What to type for this command where it was typed: as many ranks, and found by the shell."""
    if ranks.size > 1:
        here = os.environ.get("LOCAL_WORLD_SIZE", "")
        options = f"--nproc-per-node {here}" if here == str(ranks.size) else "..."
        return f"torchrun {options} -m metarl_experiments"
    beside = Path(sys.executable).with_name("metarl")
    if shutil.which("metarl") or not beside.exists():
        return "metarl"
    within = beside.is_relative_to(Path.cwd())
    return shlex.quote(str(beside.relative_to(Path.cwd()) if within else beside))


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

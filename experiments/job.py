"""What `make train` runs: train an experiment, evaluate it, draw it, say where the figures are."""

import os
import sys
from collections.abc import Callable, Sequence

from metarl.errors import InputError

from .__main__ import guarded
from .options import find_experiment, positionals, value_of
from .progress import tell


def run(argv: Sequence[str]) -> int:
    """Train ``argv[0]`` with the further options, then evaluate and report.

    Raises:
        InputError: there is no such experiment, or not one is named.
    """
    from .commands import evaluate, report, train

    names, options = positionals(argv, "EXPERIMENT")
    if len(names) != 1:
        raise InputError(f"EXPERIMENT: one is trained at a time, got {' '.join(names)}")
    experiment = find_experiment(names[0])
    if experiment.job_minutes is not None and value_of(options, "--minutes") is None:
        options += ["--minutes", str(experiment.job_minutes)]
    status, out = train.train_experiment(experiment, options)
    steps: tuple[Callable[[Sequence[str]], int], ...] = (evaluate.run, report.run)
    run = os.path.join(".", out)  # which is no option, whatever it begins with
    try:
        for step in steps:
            status = status or step([run])
    except KeyboardInterrupt:
        tell(f"metarl train: the training is whole; see it with: metarl report {run}", sys.stderr)
        raise
    return status


if __name__ == "__main__":
    sys.exit(guarded("train", lambda: run(sys.argv[1:])))

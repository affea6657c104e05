"""How a run begins or goes on: the first rank opens it, and tells the others what it holds."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from metarl.distributed import Ranks
from metarl.errors import InputError
from metarl.params import split_rates
from metarl.runs import Run, Snapshot, load_checkpoint, open_run, read_config
from metarl.runs.files import real
from metarl.runs.layout import holds_run
from metarl.runs.lock import started_by_parent

from ..evaluation.shipped import is_shipped
from ..family import State
from ..options import value_of
from ..outputs import in_checkpoints
from ..state import put_params, share

RUNS = Path("runs")


def free_directory(experiment: str, seed: int) -> Path:
    """``runs/<experiment>/seed-<S>``, or the first of ``seed-<S>-2``, ... that is free."""
    directory = RUNS / experiment / f"seed-{seed}"
    number = 1
    while directory.exists():
        number += 1
        directory = RUNS / experiment / f"seed-{seed}-{number}"
    return directory


def stored_values(argv: Sequence[str], ranks: Ranks) -> dict[str, Any] | None:
    """``config.json`` of the run to go on with, None for a new one.

    A run goes on with --resume, or where torchrun starts its ranks again after a failure.

    Raises:
        InputError: it is not named.
    """
    out = value_of(argv, "--out")

    def read() -> str:
        restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if out is None:
            if "--resume" in argv:
                raise InputError("--resume: name the run with --out")
            if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
                raise InputError("--out: torchrun --max-restarts finds the run again by it")
            return "null"
        if in_checkpoints(real(Path(out))):
            raise InputError(f"--out {out}: lies in the checkpoints of a run; choose another")
        if is_shipped(Path(out)):
            raise InputError(f"--out {out}: shipped results stay as they are; choose another")
        # What was there before torchrun started is no run of its own, and was refused.
        own = restarted and holds_run(Path(out)) and started_by_parent(Path(out))
        goes_on = "--resume" in argv or own
        return json.dumps(read_config(out)) if goes_on and ranks.rank == 0 else "null"

    values: dict[str, Any] | None = json.loads(ranks.share(ranks.together(read).encode()))
    return values


def start_from(path: str, state: State, ranks: Ranks) -> bool:
    """Put a checkpoint's parameters into a fresh state; step sizes that it has not stay.

    Returns:
        Whether it has step sizes.

    Raises:
        InputError: there is no such checkpoint, or it is of another model.
    """
    model, _ = split_rates(state.params)

    def put(saved: Snapshot | None) -> bool:
        assert saved is not None
        own = {n: p.detach().cpu().numpy() for n, p in state.params.items() if n not in model}
        put_params(state.params, {**own, **saved.params})
        return not own.keys().isdisjoint(saved.params)

    try:
        first = ranks.together(lambda: load_checkpoint(path) if ranks.rank == 0 else None)
        saved = share(first, ranks)
        return ranks.together(lambda: put(saved))
    except InputError as error:
        raise InputError(f"--from {path}: {error}") from None


@contextmanager
def opened(
    out: Path, config: dict[str, Any] | None, ranks: Ranks
) -> Iterator[tuple[Run | Path, Snapshot | None]]:
    """The run directory, which the other ranks know by its path, and what it goes on from.

    Args:
        out: the directory.
        config: of a new run; None goes on with the one there.
        ranks: all of them.

    Raises:
        InputError, CheckpointError, SaveError: see `open_run` and `Run.load`.
    """

    def start() -> tuple[Run | Path, Snapshot | None]:
        if ranks.rank > 0:
            return out, None
        try:
            run = stack.enter_context(open_run(out, config, resume=config is None))
        except InputError as error:
            raise InputError(f"--out {error}") from None
        return run, run.load() if config is None else None

    with ExitStack() as stack:
        directory, saved = ranks.together(start)
        yield directory, share(saved, ranks)

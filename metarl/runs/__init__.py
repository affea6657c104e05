"""Runs on disk: durable checkpoints, the record of metrics, one owner, readers that need no lock.

    with open_run(path, config) as run:                  # a new run
    with open_run(path, resume=True) as run:             # one to continue
        start = run.load()                               # None: from iteration 0
        run.log({"iteration": n, "loss": loss})          # first the record,
        run.save(Snapshot(n, params, optimizer, state))  # then what commits it

Arrays go in and come out as numpy's. Nothing here can unpickle.
"""

from .checkpoint import Best, Snapshot
from .directory import ATTEMPTS, Run
from .documents import read_json, write_json
from .export import export_params
from .failures import keep_failure
from .metrics import read_metrics
from .opening import open_run
from .reading import (
    RunRecord,
    load_checkpoint,
    read_best,
    read_config,
    read_run,
    read_snapshot,
)
from .shipping import prune_run
from .versions import versions

__all__ = [
    "ATTEMPTS",
    "Best",
    "Run",
    "RunRecord",
    "Snapshot",
    "export_params",
    "keep_failure",
    "load_checkpoint",
    "open_run",
    "prune_run",
    "read_best",
    "read_config",
    "read_json",
    "read_metrics",
    "read_run",
    "read_snapshot",
    "versions",
    "write_json",
]

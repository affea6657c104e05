"""Runs on disk: durable checkpoints, the record of metrics, one owner, readers that need no lock.

    with open_run(path, config) as run:                  # a new run
    with open_run(path, resume=True) as run:             # one to continue
        start = run.load()                               # None: from iteration 0
        run.log({"iteration": n, "loss": loss})          # first the record,
        run.save(Snapshot(n, params, optimizer, state))  # then what commits it

Arrays go in and come out as numpy's. Nothing here can unpickle.
"""

from metarl.runs.checkpoint import Best, Snapshot
from metarl.runs.directory import ATTEMPTS, Run
from metarl.runs.documents import read_json, write_json
from metarl.runs.export import export_params
from metarl.runs.failures import keep_failure
from metarl.runs.metrics import read_metrics
from metarl.runs.opening import open_run
from metarl.runs.reading import (
    RunRecord,
    load_checkpoint,
    read_best,
    read_config,
    read_run,
    read_snapshot,
)
from metarl.runs.shipping import prune_run
from metarl.runs.versions import versions

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

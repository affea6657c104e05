"""The launcher itself: restarts after a failure, and its own death."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ranks import train_on
from test_ranks_train import NAVIGATION, SINUSOID, changed
from workloads import ending

from metarl.runs import load_checkpoint, read_metrics

pytestmark = pytest.mark.slow
LONG = changed(SINUSOID, "--iterations=30000", "--checkpoint-seconds=0.05", "--log-every=5")
SLOW = changed(NAVIGATION, "--iterations=60", "--checkpoint-seconds=0.05", "--validate-every=30")


def launch(run: Path, *options: str, argv: list[str] = LONG) -> subprocess.Popen[str]:
    """torchrun with two ranks."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *options]
    command = [*torchrun, "-m", "metarl_experiments", "train", *argv, f"--out={run}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def ranks_of(launcher: psutil.Process) -> list[psutil.Process]:
    """Its two ranks, in order."""
    found = [p for p in launcher.children() if "metarl_experiments" in p.cmdline()]
    return sorted(found, key=lambda p: int(p.environ()["RANK"]))


def wait_for_checkpoint(run: Path, after: int = 0) -> None:
    """Wait until an iteration beyond ``after`` is saved."""
    until = time.monotonic() + 120
    while not any(int(p.name) > after for p in (run / "checkpoints").glob("[0-9]*")):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_restarts_end_with_the_fault_free_hash(tmp_path: Path) -> None:
    assert train_on(2, tmp_path / "whole", SLOW) == [0, 0]
    run = tmp_path / "run"
    process = launch(run, "--max-restarts=3", argv=SLOW)
    launcher = psutil.Process(process.pid)
    after = 0
    for victim in (1, 0):
        wait_for_checkpoint(run, after)
        before = ranks_of(launcher)
        before[victim].kill()
        psutil.wait_procs(before, timeout=60)
        after = max(int(p.name) for p in (run / "checkpoints").glob("[0-9]*"))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert out.count("continuing at") == 2
    assert ending(run) == ending(tmp_path / "whole")


def test_a_launcher_that_was_told_to_stop(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch(run)
    wait_for_checkpoint(run)
    ranks = ranks_of(psutil.Process(process.pid))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "stopped by SIGTERM, saved at iteration" in err
    assert not any(rank.is_running() for rank in ranks)


def test_ranks_end_after_their_launcher(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch(run)
    wait_for_checkpoint(run)
    ranks = ranks_of(psutil.Process(process.pid))
    process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
    _, err = process.communicate(timeout=10)
    assert "stopped by SIGHUP, saved at iteration" in err
    last = max((run / "checkpoints").glob("[0-9]*"))
    assert load_checkpoint(last).iteration > 0
    assert len(read_metrics(run / "metrics.jsonl")) == int(last.name) // 5


def test_a_rank_ends_soon_after_it_gave_up_a_hung_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with launch(run, argv=[*LONG, "--rank-timeout=2"]) as process:
        wait_for_checkpoint(run)
        first, second = ranks_of(psutil.Process(process.pid))
        second.suspend()
        _, alive = psutil.wait_procs([first], timeout=8)
        second.kill()  # a stopped process does not hear the launcher
        _, err = process.communicate(timeout=80)
    assert not alive
    assert "rank 1 gave no answer for 2 s" in err


def test_restarts_need_a_directory() -> None:
    command = ["-m", "torch.distributed.run", "--max-restarts=1", "-m", "metarl_experiments"]
    done = subprocess.run(
        [sys.executable, *command, "train", *SINUSOID],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode != 0
    assert "metarl train: --out: torchrun --max-restarts finds the run again by it" in done.stderr

"""Running `metarl` inside the test's process, on budgets of a second."""

from pathlib import Path

import pytest

from metarl.runs import load_checkpoint
from metarl_experiments.__main__ import main

SMALL = [
    "--compile=off",
    "--iterations=20",
    "--meta-batch=2",
    "--log-every=5",
    "--validate-every=10",
    "--validation-tasks=4",
]


def succeed(*argv: str) -> None:
    """Run a command that must succeed."""
    assert main(list(argv)) == 0


def refuse(capfd: pytest.CaptureFixture[str], status: int, *argv: str) -> str:
    """Run a command that must fail with `status`; the one line that it says."""
    capfd.readouterr()
    assert main(list(argv)) == status
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 1, err
    return lines[0]


def train_small(out: Path, *more: str) -> Path:
    """Train the sinusoid for 20 iterations; the run directory."""
    succeed("train", "sinusoid", f"--out={out}", *SMALL, *more)
    return out


def final_bytes(run: Path) -> bytes:
    """Parameters and optimiser state of the last checkpoint."""
    last = max((run / "checkpoints").glob("[0-9]*"))
    snapshot = load_checkpoint(last)
    arrays = {**snapshot.params, **{f"o/{k}": v for k, v in snapshot.optimizer.items()}}
    return b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))

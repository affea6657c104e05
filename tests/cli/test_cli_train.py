"""`metarl train` end to end, on the sinusoid."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, final_bytes, refuse, succeed, train_small

from metarl.distributed import Ranks
from metarl.runs import load_checkpoint, read_config, read_metrics
from metarl_experiments import machine
from metarl_experiments.__main__ import main
from metarl_experiments.commands import train
from metarl_experiments.options import find_experiment, overlay, preset_config
from metarl_experiments.training.options import TrainOptions


def test_run_directory_holds_what_it_should(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_small(tmp_path / "run")
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "best.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [5, 10, 15, 20]
    assert {"loss_before", "loss_after", "gradient_norm", "seconds.iteration"} <= set(lines[0])
    assert "validation.loss_after" in lines[1]
    config = read_config(run)
    assert config["machine"] == {
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "mapping": "vmap",
        "compile": "off",
        "exact": False,
        "recompute": False,
    }
    out = capfd.readouterr().out
    assert "20/20" in out
    assert "loss" in out
    assert "it/s" in out
    assert "ETA" in out


def test_default_directories_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        succeed("train", "sinusoid", "--seed=3", *SMALL)
    assert sorted(os.listdir("runs/sinusoid")) == ["seed-3", "seed-3-2"]
    runs = [Path("runs/sinusoid", name) for name in ("seed-3", "seed-3-2")]
    assert final_bytes(runs[0]) == final_bytes(runs[1])


def test_seeds_differ(tmp_path: Path) -> None:
    runs = [train_small(tmp_path / seed, f"--seed={seed}") for seed in "01"]
    assert final_bytes(runs[0]) != final_bytes(runs[1])


@pytest.mark.parametrize("options", [[], ["--learned-lr=element"], ["--preset=pretrained"]])
def test_longer_by_resuming_is_the_same(tmp_path: Path, options: list[str]) -> None:
    # The cosine depends on where it ends.
    options = [*options, "--lr-decay=none"]
    whole = train_small(tmp_path / "whole", *options)
    parts = tmp_path / "parts"
    half = ["--iterations=10" if x.startswith("--iterations") else x for x in SMALL]
    succeed("train", "sinusoid", f"--out={parts}", *options, *half)
    succeed("train", "sinusoid", f"--out={parts}", "--resume", "--iterations", "20")
    assert final_bytes(whole) == final_bytes(parts)

    def timeless(run: Path) -> list[dict[str, object]]:
        lines = read_metrics(run / "metrics.jsonl")
        return [{k: v for k, v in x.items() if not k.startswith("seconds")} for x in lines]

    assert timeless(whole) == timeless(parts)


def test_directory_with_a_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = train_small(tmp_path / "run")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    capfd.readouterr()
    assert main(["train", "sinusoid", f"--out={run}", *SMALL]) == 2
    assert "--resume" in capfd.readouterr().err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "option", ["--inner-lr=0.5", "--seed=4", "--threads=2", "--preset=paper", "--compile=on"]
)
def test_resumed_run_keeps_its_config(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    run = train_small(tmp_path / "run")
    line = refuse(capfd, 2, "train", "sinusoid", f"--out={run}", "--resume", option)
    assert "--rank-timeout" in line
    assert option.partition("=")[0] in line


@pytest.mark.parametrize("found", [True, False])
def test_a_run_that_ended_early_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    """By what is typed in this shell: a command of a .venv that is not activated has a path."""
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "metarl").touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(bin_ / "python"))
    monkeypatch.setenv("PATH", str(bin_) if found else "/nowhere")
    out = tmp_path / "run"
    train_small(out, "--minutes=0.00001", "--rank-timeout=77")
    said = capfd.readouterr().out.splitlines()
    command = "metarl" if found else ".venv/bin/metarl"
    again = f"{command} train sinusoid --out {out} --resume --rank-timeout 77"
    assert "ended after 1e-05 minutes (--minutes)" in said
    assert said[-1] == f"sinusoid: 1 iteration in {out}; go on with: {again}"
    succeed(*shlex.split(again)[1:], "--minutes=9", "--patience=1000")
    assert capfd.readouterr().out.splitlines()[-1] == f"sinusoid: 20 iterations in {out}"


def test_a_run_without_patience_is_not_told_to_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would lose it again at once."""
    small = [option for option in SMALL if not option.startswith("--validate-every")]
    stays = ["--patience=1", "--validate-every=1", "--lr=1e-12"]
    succeed("train", "sinusoid", f"--out={tmp_path / 'run'}", *small, *stays)
    last = capfd.readouterr().out.splitlines()[-1]
    assert last.startswith("sinusoid: ")
    assert "go on" not in last


@pytest.mark.parametrize(("local", "options"), [("4", "--nproc-per-node 4"), ("2", "...")])
def test_ranks_go_on_as_ranks(local: str, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert train._program(Ranks(0, 4)) == f"torchrun {options} -m metarl_experiments"


def test_a_run_needs_what_it_began_with_only_once(tmp_path: Path) -> None:
    first = train_small(tmp_path / "first")
    start = max((first / "checkpoints").glob("[0-9]*"))
    run = train_small(tmp_path / "run", f"--from={start}")
    shutil.rmtree(first)
    succeed("train", "sinusoid", f"--out={run}", "--resume", "--iterations=30")


def test_a_run_without_a_checkpoint_begins_again_where_it_began(tmp_path: Path) -> None:
    """It died between its config and its first checkpoint."""
    first = train_small(tmp_path / "first")
    start = max((first / "checkpoints").glob("[0-9]*"))
    whole = train_small(tmp_path / "whole", f"--from={start}", "--seed=5")
    run = train_small(tmp_path / "run", f"--from={start}", "--seed=5")
    for name in ("checkpoints", "metrics.jsonl", "best.json"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    succeed("train", "sinusoid", f"--out={run}", "--resume")
    assert final_bytes(run) == final_bytes(whole)


def test_a_restart_continues_its_launchers_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """torchrun starts again what was refused, too."""
    run = train_small(tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = ("train", "sinusoid", f"--out={run}", *SMALL)
    succeed(*again)
    owner = run / "owner.json"
    told = json.loads(owner.read_text())
    owner.write_text(json.dumps(told | {"parent": told["parent"] + 1}))
    assert "holds a run: resume it (--resume)" in refuse(capfd, 2, *again)


@pytest.mark.parametrize("output", ["/dev/full", "a pipe nobody reads"])
def test_training_does_not_need_its_output(tmp_path: Path, output: str) -> None:
    if output == "/dev/full":
        descriptor = os.open(output, os.O_WRONLY)
    else:
        reading, descriptor = os.pipe()
        os.close(reading)
    command = [sys.executable, "-m", "metarl_experiments", "train", "sinusoid", *SMALL]
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'run'}"],
        stdout=descriptor,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(descriptor)
    assert (done.returncode, done.stderr) == (0, "")
    assert final_bytes(tmp_path / "run") == final_bytes(train_small(tmp_path / "whole"))


def test_same_options_again_resume(tmp_path: Path) -> None:
    run = train_small(tmp_path / "run", "--inner-lr=0.02")
    succeed("train", "sinusoid", f"--out={run}", *SMALL, "--inner-lr=0.02", "--resume")


def test_from_begins_with_the_parameters_of_a_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = train_small(tmp_path / "one")
    checkpoint = one / "checkpoints" / "00000020"
    two = tmp_path / "two"
    budget = ["--compile=off", "--iterations=1", "--seed=5"]
    succeed("train", "sinusoid", f"--out={two}", f"--from={checkpoint}", *budget)
    start = load_checkpoint(two / "checkpoints" / "00000000")
    assert start.params.keys() == load_checkpoint(checkpoint).params.keys()
    for name, value in load_checkpoint(checkpoint).params.items():
        assert (start.params[name] == value).all()
    argv = ["train", "sinusoid", f"--out={tmp_path / 'three'}", f"--from={checkpoint}"]
    assert "--from" in refuse(capfd, 2, *argv, "--hidden", "8")
    assert not (tmp_path / "three").exists()


@pytest.mark.filterwarnings("default::metarl.errors.RunWarning")
def test_step_sizes_that_a_checkpoint_has_not_begin_at_inner_lr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = train_small(tmp_path / "one", "--learned-lr=no")
    given = [f"--from={one / 'checkpoints' / '00000020'}", "--inner-lr=0.25"]
    two = tmp_path / "two"
    budget = ["--compile=off", "--iterations=1", "--learned-lr=tensor"]
    succeed("train", "sinusoid", f"--out={two}", *given, *budget)
    start = load_checkpoint(two / "checkpoints" / "00000000").params
    rates = [value for name, value in start.items() if name.startswith("inner_lr.")]
    assert rates
    assert all((rate == np.float32(0.25)).all() for rate in rates)
    learned = two / "checkpoints" / "00000001"
    argv = ["train", "sinusoid", f"--out={tmp_path / 'three'}", f"--from={learned}"]
    assert "inner_lr." in refuse(capfd, 2, *argv, "--learned-lr=no")
    given = ["--inner-lr=0.5", "--init-std=0.1", "--learned-lr=tensor", "--iterations=1"]
    capfd.readouterr()
    succeed(*argv, "--compile=off", *given)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["warning:", "--init-std"],
        ["warning:", "--inner-lr"],
    ]
    assert all("has no effect: the checkpoint of --from" in line for line in lines)


@pytest.mark.parametrize("experiment", ["sinusoid", "navigation", "omniglot"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--lr-per-step", "--learned-lr=no"], "--lr-per-step"),
        (["--later-lr-factors"], "--later-lr-factors"),
    ],
)
def test_options_of_the_inner_loop_that_exclude_each_other(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    experiment: str,
    options: list[str],
    told: str,
) -> None:
    argv = ["train", experiment, f"--out={tmp_path / 'run'}", *options]
    assert told in refuse(capfd, 2, *argv)
    assert not (tmp_path / "run").exists()


def test_damaged_from_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = train_small(tmp_path / "run")
    checkpoint = run / "checkpoints" / "00000020"
    params = checkpoint / "params.npz"
    params.write_bytes(params.read_bytes()[:-9])
    out = tmp_path / "new"
    line = refuse(capfd, 3, "train", "sinusoid", f"--out={out}", f"--from={checkpoint}")
    assert "params.npz" in line
    assert not out.exists()


def test_non_finite_training_exits_5(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    budget = ["--compile=off", "--meta-batch=2", "--iterations=300"]
    argv = ["train", "sinusoid", f"--out={run}", *budget, "--lr=100", "--inner-lr=100"]
    assert main(argv) == 5
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "not finite" in err
    assert "task" in err
    assert list((run / "failures").glob("*.npz"))


def test_interrupted_from_outside_resumes_bit_for_bit(tmp_path: Path) -> None:
    others = [option for option in SMALL if not option.startswith(("--iterations", "--validate"))]
    options = [*others, "--iterations=2000", "--validate-every=500"]
    whole = tmp_path / "whole"
    succeed("train", "sinusoid", f"--out={whole}", *options)
    run = tmp_path / "run"
    command = [sys.executable, "-m", "metarl_experiments", "train", "sinusoid", f"--out={run}"]
    child = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = run / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.stat().st_size > 0):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert "--resume" in err
    assert f"--out {run}" in err
    assert len(err.splitlines()) == 1
    succeed("train", "sinusoid", f"--out={run}", "--resume")
    assert final_bytes(run) == final_bytes(whole)


@pytest.mark.slow
def test_compiled_step_trains_like_the_eager_one(tmp_path: Path) -> None:
    eager = train_small(tmp_path / "eager")
    compiled = tmp_path / "compiled"
    succeed("train", "sinusoid", f"--out={compiled}", "--compile=on", *SMALL[1:])
    assert read_config(compiled)["machine"]["compile"] == "on"
    losses = [
        [line["loss_after"] for line in read_metrics(run / "metrics.jsonl")]
        for run in (eager, compiled)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_config_json_is_the_whole_config(tmp_path: Path) -> None:
    run = train_small(tmp_path / "run", "--preset=paper")
    config = json.loads((run / "config.json").read_text())
    assert config["experiment"] == "sinusoid"
    assert config["preset"] == "paper"
    assert config["config"]["inner_lr"] == 0.01
    assert config["config"]["meta_batch"] == 2
    assert config["versions"]["torch"]


@pytest.mark.parametrize(
    ("iterations", "minutes", "compiled"), [(500, None, True), (500, 5.0, True), (500, 1.0, False)]
)
def test_short_runs_are_not_compiled(
    iterations: int, minutes: float | None, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "compiler_present", lambda: True)
    experiment = find_experiment("navigation")
    config = overlay(preset_config(experiment, "default"), {"iterations": iterations})
    options = TrainOptions(config, minutes=minutes)
    learner, _ = train._prepare(experiment, options, Ranks())
    assert learner.machine.compiled == compiled

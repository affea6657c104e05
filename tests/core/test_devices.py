"""What a learner makes is on the learner's device, and comes to the same numbers there."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from another_device import NAME, another_device
from commands import final_bytes, refuse, succeed
from workloads import ending, glyphs_for_images

import metarl.rl
from metarl.devices import find_device
from metarl.errors import InputError
from metarl_experiments.__main__ import main
from metarl_experiments.configs.rl import Config, EnvConfig
from metarl_experiments.machine import Machine
from metarl_experiments.rl.learner import PolicyLearner

COMMON = ["--compile=off", "--threads=1", "--mapping=vmap", "--meta-batch=2", "--iterations=2"]
COMMON += ["--log-every=1", "--validate-every=2", "--validation-tasks=2"]
IMAGES = ["omniglot", *COMMON, "--ways=2"]
POLICY = [*COMMON, "--episodes=3", "--hidden=8", "--env.horizon=12"]
# Three steps with rates of each, the loss after every one of them.
PER_STEP = ["--batch-norm=per_step", "--multi-step-until=9"]
STEPS = ["--inner-steps=3", "--learned-lr=element", "--lr-per-step"]
LEARNERS = {
    "sinusoid": ["sinusoid", *COMMON],
    "sinusoid-steps": ["sinusoid", *COMMON, *STEPS, "--recompute"],
    "images": [*IMAGES, "--net=dense"],
    "images-steps": [*IMAGES, *STEPS, "--net=pooled", *PER_STEP],
    "images-support": [*IMAGES, "--batch-norm=support", "--clip=1"],
    "navigation": ["navigation", *POLICY, "--update=promp"],
    "navigation-steps": ["navigation", *POLICY, *STEPS, "--best-reward=0"],
    "cheetah": ["cheetah-velocity", *POLICY, "--update=adam", "--sampling-correction=emaml"],
}
PROTOCOL = {"omniglot": ["--tasks=3"], "sinusoid": ["--tasks=3"]}


def protocol(argv: list[str]) -> list[str]:
    return PROTOCOL.get(argv[0], ["--tasks=2", "--episodes=2", "--steps=2"])


@pytest.mark.parametrize("argv", LEARNERS.values(), ids=LEARNERS)
def test_learning_on_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    glyphs_for_images(monkeypatch)
    here, there = tmp_path / "here", tmp_path / "there"
    succeed("train", *argv, f"--out={here}")
    succeed("evaluate", str(here), *protocol(argv), f"--out={tmp_path / 'here.json'}")
    with another_device(monkeypatch) as mode:
        succeed("train", *argv, f"--out={there}", f"--device={NAME}")
        on_device = [f"--device={NAME}", f"--out={tmp_path / 'there.json'}"]
        succeed("evaluate", str(there), *protocol(argv), *on_device)
    assert mode.products_on_the_cpu == 0
    assert ending(here) == ending(there)
    texts = [(tmp_path / f"{name}.json").read_text() for name in ("here", "there")]
    assert texts[0].replace(str(here), str(there)) == texts[1]


def test_a_run_goes_on_on_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["sinusoid", *COMMON, "--lr-decay=none"]
    succeed("train", *argv[:-1], "--lr-decay=none", f"--out={tmp_path / 'whole'}")
    parts = tmp_path / "parts"
    succeed("train", *[x.replace("ions=2", "ions=1") for x in argv], f"--out={parts}")
    with another_device(monkeypatch):
        again = ["--resume", "--iterations=2", f"--device={NAME}"]
        succeed("train", "sinusoid", f"--out={parts}", *again)
    assert final_bytes(tmp_path / "whole") == final_bytes(parts)
    # Where the device is not, a run is read on the CPU.
    succeed("evaluate", str(parts), "--tasks=2")


@pytest.mark.parametrize("update", ["trpo", "adam"])
def test_a_default_device_of_the_callers_changes_nothing(update: str) -> None:
    """Tensors follow theta; the meta device, which has no numbers, shows any that do not."""
    env = EnvConfig("metarl/Navigation2D-v0", horizon=15)
    config = Config(env, meta_batch=3, episodes=4, hidden=(8,), fisher_fraction=0.5, update=update)
    records = []
    for default in ("cpu", "meta"):
        learner = PolicyLearner(config, Machine("cpu", "float64", 1, "auto", "off"))
        state = learner.init(0)
        with torch.device(default):
            metrics = learner.step(state, 0)
        records.append({k: v for k, v in metrics.items() if not k.startswith("seconds")})
    assert records[0] == records[1]


def on_the_cpu(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Mutant: forgets the device."""
    return make(*args, **{name: x for name, x in options.items() if name != "device"})


def left_on_the_cpu(make: Callable[..., Any], *args: Any) -> Any:
    """Mutant: forgets to send what it made."""
    return make(*args).cpu()


@pytest.mark.parametrize(
    ("learner", "place", "mutant"),
    [
        ("sinusoid", "metarl_experiments.sinusoid.tasks.sample_points", on_the_cpu),
        ("images", "metarl_experiments.images.tasks.gather_episodes", on_the_cpu),
        ("navigation", "metarl.rl.sampler.action_noise", left_on_the_cpu),
    ],
)
def test_a_tensor_on_the_wrong_device_is_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    learner: str,
    place: str,
    mutant: Any,
) -> None:
    glyphs_for_images(monkeypatch)
    module, _, name = place.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    monkeypatch.setattr(place, partial(mutant, original))
    with another_device(monkeypatch):
        out = f"--out={tmp_path / 'run'}"
        assert main(["train", *LEARNERS[learner], out, f"--device={NAME}"]) == 1
    assert f"takes tensors of the CPU and of {NAME}" in capfd.readouterr().err


def test_a_device_that_is_ignored_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl_experiments.machine.find_device", lambda _: "cpu")
    with another_device(monkeypatch) as mode:
        succeed("train", *LEARNERS["sinusoid"], f"--out={tmp_path}/run", f"--device={NAME}")
    assert mode.products_on_the_cpu > 0


def test_numbers_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The way to the error's batch is on the device, too."""
    glyphs_for_images(monkeypatch)
    for learner in ("sinusoid", "images-steps"):
        out = tmp_path / learner
        argv = [*LEARNERS[learner], f"--out={out}", f"--device={NAME}"]
        with another_device(monkeypatch):
            monkeypatch.setattr("metarl_experiments.training.descent._norm", lambda *_: math.nan)
            assert main(["train", *argv]) == 5, capfd.readouterr().err
        assert list((out / "failures").glob("*.npz"))


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", "hpu", "opengl", ""])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(InputError, match=f"device '{name}' cannot be used here: ."):
        find_device(name)


def test_devices_that_are() -> None:
    assert find_device("cpu") == "cpu"
    assert find_device("auto") in ("cpu", "cuda")


def test_every_command_that_computes_takes_a_device(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    succeed("train", *LEARNERS["navigation"], f"--out={run}")
    before = sorted(tmp_path.rglob("*"))
    for command in ("evaluate", "report", "render"):
        assert "--device: device 'tpu'" in refuse(capfd, 2, command, str(run), "--device=tpu")
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match="device 'tpu'"):
        metarl.rl.load(run, device="tpu")
    for command in ("evaluate", "report", "render"):
        tiny = {"evaluate": ["--tasks=2"], "render": ["--tasks=1", "--steps=0"]}.get(command, [])
        succeed(command, str(run), "--device=auto", *tiny)
    assert metarl.rl.load(run, device="auto").theta


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one")
def test_a_missing_mps_is_one_short_line() -> None:
    with pytest.raises(InputError, match=r"^device 'mps' cannot be used here: .* has no MPS$"):
        find_device("mps")

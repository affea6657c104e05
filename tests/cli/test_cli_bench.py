"""`metarl bench` on a bench that takes no time."""

import json
import types
from pathlib import Path

import pytest
from commands import refuse

import metarl_experiments.commands.bench as command
from metarl_experiments.__main__ import main


def test_every_bench_has_its_function() -> None:
    assert {"sampler", "sinusoid"} <= set(command.names())
    for name in command.names():
        module = command.importlib.import_module(
            f"metarl_experiments.bench.{name.replace('-', '_')}"
        )
        assert callable(getattr(module, f"{name.replace('-', '_')}_bench"))


def test_prints_and_writes_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = types.SimpleNamespace(sinusoid_bench=lambda repetitions: {"ratio": 2.0 * repetitions})
    monkeypatch.setattr(command.importlib, "import_module", lambda name: fake)
    out = tmp_path / "bench.json"
    assert command.run(["sinusoid", "--repetitions=3", f"--out={out}"]) == 0
    assert "6" in capsys.readouterr().out
    value = json.loads(out.read_text())
    assert value["benches"] == {"sinusoid": {"ratio": 6.0}}
    assert value["versions"]["torch"]


def test_what_was_measured_stands_when_a_later_bench_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(repetitions: int) -> dict[str, float]:
        raise KeyboardInterrupt

    fake = types.SimpleNamespace(sinusoid_bench=lambda _: {"ratio": 2.0}, fisher_bench=stopped)
    monkeypatch.setattr(command.importlib, "import_module", lambda name: fake)
    out = tmp_path / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        command.run(["sinusoid", "fisher", f"--out={out}"])
    assert json.loads(out.read_text())["benches"] == {"sinusoid": {"ratio": 2.0}}


@pytest.mark.parametrize(
    ("argv", "naming"),
    [
        (["speed"], "speed"),
        (["sinusoid", "--repetitions=0"], "--repetitions"),
        (["sinusoid", "--out=nowhere/x.json"], "--out"),
    ],
)
def test_bad_input(argv: list[str], naming: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert naming in refuse(capfd, 2, "bench", *argv)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "repetitions" in capsys.readouterr().out

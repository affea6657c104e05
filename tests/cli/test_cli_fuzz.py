"""Command lines and configs of every kind of nonsense: one line and exit 2, or valid."""

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import train_small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs_at import contents

from metarl.errors import MetarlError
from metarl_experiments.__main__ import main
from metarl_experiments.catalog import EXPERIMENTS
from metarl_experiments.training import opening, options


class ValidError(MetarlError):
    """Everything was accepted; training would begin."""

    exit_code = 99


@pytest.fixture(autouse=True)
def nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(*_: Any, **__: Any) -> Any:
        raise ValidError("valid")

    monkeypatch.setattr(opening, "open_run", accept)


NAMES = ("sinusoid", "navigation", "omniglot", "maml")
OPTIONS = sorted(
    {
        name
        for experiment in NAMES
        for name in options.by_option(
            options.TrainOptions(EXPERIMENTS[experiment].configs().Config())
        )
    }
)
VALUES = st.one_of(
    st.sampled_from(
        [
            *("nan", "inf", "-inf", "-1", "-0", "0", "1", "1e3", "1e999", "9" * 40, "0x10", "1_0"),
            *("", " ", "a\0b", "../x", "/dev/null/x", "ä", "true", "None", "[]", "{}", "--", "-"),
            *("cpu", "cuda:99", "tpu", "vmap", "chunk:0", "chunk:-1", "chunk:x", "threads+compile"),
            *("tensor", "element", "adam", "paper", "on", "off", "auto", "--seed", "-h\n"),
        ]
    ),
    st.text(max_size=8),
    st.integers(-5, 50).map(str),
)
WORDS = st.one_of(
    st.tuples(st.sampled_from(OPTIONS), VALUES).map(list),
    st.tuples(st.sampled_from(OPTIONS), VALUES).map(lambda pair: ["=".join(pair)]),
    st.sampled_from(OPTIONS).map(lambda name: [name]),
    st.sampled_from(OPTIONS).map(lambda name: ["--no-" + name[2:]]),
    VALUES.map(lambda value: [value]),
)
NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([[1]]),
    st.just({"id": 3}),
    st.lists(st.integers(-2, 3), max_size=3),
)
COUNTS = [pytest.param(1, id="ordinary"), pytest.param(10, id="full", marks=pytest.mark.slow)]


def check(status: int, err: str, allowed: tuple[int, ...], told: object) -> None:
    lines = [line for line in err.splitlines() if not line.startswith("warning")]
    assert status in allowed, (told, status, err)
    assert len(lines) == 1, (told, err)
    assert "Traceback" not in err


@pytest.mark.parametrize("times", COUNTS)
def test_command_lines(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    @settings(max_examples=140 * times, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(NAMES), st.lists(WORDS, max_size=4))
    def fuzz(name: str, words: list[list[str]]) -> None:
        argv = [name, *(word for group in words for word in group)]
        if {"-h", "--help"} & set(argv):
            return
        capfd.readouterr()
        status = main(["train", *argv])
        check(status, capfd.readouterr().err, (2, 99), argv)
        assert list(tmp_path.iterdir()) == [], argv

    fuzz()


@pytest.mark.parametrize("times", COUNTS)
def test_configs(
    times: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.undo()
        from metarl.runs import open_run

        patch.setattr(opening, "open_run", open_run)
        run = train_small(tmp_path / "run")
    whole = json.loads((run / "config.json").read_text())
    places = [(k,) for k in whole] + [(k, name) for k in ("config", "machine") for name in whole[k]]
    shutil.rmtree(run / "checkpoints")  # nothing else would tell a config of another run

    @settings(max_examples=60 * times, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(places), NONSENSE, st.booleans())
    def fuzz(place: tuple[str, ...], value: Any, removed: bool) -> None:
        config = copy.deepcopy(whole)
        inside = config
        for name in place[:-1]:
            inside = inside[name]
        if removed:
            del inside[place[-1]]
        else:
            inside[place[-1]] = value
        finite = not isinstance(value, float) or math.isfinite(value)
        text = json.dumps(config)
        (run / "config.json").write_text(text)
        before = contents(run)
        for command in (["train", "sinusoid", f"--out={run}", "--resume"], ["evaluate", str(run)]):
            capfd.readouterr()
            status = main(command)
            allowed = (2, 99) if finite or removed else (3,)
            check(status, capfd.readouterr().err, allowed, (command, place, value))
        assert contents(run) == before

    fuzz()

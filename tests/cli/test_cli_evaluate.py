"""`metarl evaluate` and `metarl report` end to end, on the sinusoid."""

import itertools
import json
import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import refuse, succeed, train_small

from metarl.errors import InputError, RunWarning, SaveError
from metarl.runs import open_run, read_config, read_json
from metarl_experiments.__main__ import main
from metarl_experiments.catalog import EXPERIMENTS
from metarl_experiments.commands.evaluate import comparison
from metarl_experiments.configs.rl import EnvConfig
from metarl_experiments.evaluation import shipped
from metarl_experiments.evaluation.comparison import check_comparable, compare
from metarl_experiments.evaluation.evaluate import default_file, load
from metarl_experiments.evaluation.evaluations import FIELDS, check_evaluation
from metarl_experiments.options import preset_config
from metarl_experiments.plots.curves import Curve, adaptation_curves
from metarl_experiments.plots.style import COLOURS, PALETTES
from metarl_experiments.reporting.report import report, rows_of
from metarl_experiments.reporting.together import seeds_together


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluated(run: Path, *options: str) -> dict[str, Any]:
    out = run.parent / "out.json"
    succeed("evaluate", str(run), f"--out={out}", *options)
    value: dict[str, Any] = json.loads(out.read_text())
    return value


def test_json_has_the_schema(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("evaluate", str(run))
    value = json.loads((run / "evaluation.json").read_text())
    assert set(value) == set(FIELDS)
    assert (value["experiment"], value["metric"]) == ("sinusoid", "loss")
    assert (value["tasks"], value["steps"], value["task_seed"]) == (600, 10, 0)
    per_task = np.array(value["per_task"])
    assert per_task.shape == (11, 600)
    assert value["mean"] == pytest.approx(per_task.mean(1).tolist(), rel=1e-5)
    half = 1.96 * per_task.std(1, ddof=1) / np.sqrt(600)
    assert value["ci95"] == pytest.approx(half.tolist(), rel=1e-4)
    assert value["variants"]["shots"] == 5
    assert {"10-shot", "20-shot", "median"} <= set(value["variants"])
    out = capsys.readouterr().out
    assert f"{value['mean'][0]:.4g}" in out
    assert "evaluation.json" in out


def test_tensorboard_shows_the_curve_and_what_the_run_was_made_with(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import (
        SESSION_START_INFO_TAG,
        parse_session_start_info_plugin_data,
    )

    succeed("evaluate", str(run), "--tasks=7")
    assert not (run / "evaluation").exists()  # another protocol
    succeed("evaluate", str(run))
    view = EventAccumulator(str(run / "evaluation"))
    view.Reload()
    (picture,) = view.Images("adaptation")
    assert picture.step == json.loads((run / "evaluation.json").read_text())["iteration"]
    assert picture.width > 500
    view = EventAccumulator(str(run))
    view.Reload()
    assert "validation/loss_after" in view.Tags()["scalars"]
    data = view.PluginTagToContent("hparams")[SESSION_START_INFO_TAG]
    told = parse_session_start_info_plugin_data(data).hparams
    assert told["meta_batch"].number_value == 2
    assert told["learned_lr"].string_value == read_config(run)["config"]["learned_lr"]


def test_protocol_options(run: Path) -> None:
    few = evaluated(run, "--tasks=7", "--steps=3", "--task-seed=9", "--shots=20")
    assert (few["tasks"], few["steps"], few["task_seed"]) == (7, 3, 9)
    assert few["variants"]["shots"] == 20
    more = evaluated(run, "--tasks=7", "--steps=5", "--task-seed=9", "--shots=20")
    assert more["per_task"][:4] == few["per_task"]
    other = evaluated(run, "--tasks=7", "--steps=3", "--task-seed=8", "--shots=20")
    assert other["per_task"] != few["per_task"]


def test_another_protocol_leaves_the_default_file_alone(run: Path) -> None:
    succeed("evaluate", str(run), "--tasks=7", "--last")
    assert not (run / "evaluation.json").exists()
    assert (run / "evaluation-tasks-7-last.json").exists()


def test_best_and_last(run: Path) -> None:
    best = json.loads((run / "best.json").read_text())["iteration"]
    assert evaluated(run, "--tasks=5")["iteration"] == best
    assert evaluated(run, "--tasks=5", "--last")["iteration"] == 20


def test_evaluation_changes_nothing_else(run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    evaluated(run, "--tasks=5")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_compare_with_itself_is_zero(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = evaluated(run, "--tasks=9", "--steps=2", "--compare", str(run), str(run))
    for difference in value["variants"]["compare"]:
        assert difference["mean"] == difference["low"] == difference["high"] == [0, 0, 0]
        own = {name: value[name] for name in ("mean", "ci95", "per_task")}
        assert difference["other"] == own
    assert "minus" in capsys.readouterr().out


def test_a_comparison_leaves_the_runs_own_evaluation_too(tmp_path: Path) -> None:
    run = train_small(tmp_path / "run")
    succeed("evaluate", str(run), "--compare", str(run))
    names = {path.name for path in run.glob("evaluation*.json")}
    assert names == {
        "evaluation.json",
        default_file(run, options_of(run), last=False, compare=[str(run)]).name,
    }
    own = json.loads((run / "evaluation.json").read_text())
    assert "compare" not in own["variants"]
    succeed("evaluate", str(run), "--tasks=3", f"--out={tmp_path / 'one.json'}")
    assert {path.name for path in run.glob("evaluation*.json")} == names


def options_of(run: Path) -> Any:
    return load(run).experiment.configs().EvaluateOptions()


def test_a_run_without_steps_is_compared_after_each() -> None:
    own: dict[str, Any] = {
        "experiment": "navigation",
        "metric": "return",
        "task_seed": 0,
        "tasks": 2,
    }
    own |= {"run": "r", "iteration": 1, "variants": {}, "mean": [], "ci95": []}
    steps = {**own, "steps": 2, "per_task": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
    none = {**own, "steps": 0, "per_task": [[6.0, 6.0]]}
    assert compare(steps, none)["mean"] == [-4.5, -2.5, -0.5]
    assert compare(none, steps)["mean"] == [4.5, 2.5, 0.5]
    assert compare(none, none)["mean"] == [0]


def test_compare_needs_a_run(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = refuse(capfd, 2, "evaluate", str(run), "--compare")
    assert "--compare: is empty" in line


def test_differences_in_the_last_bits_are_none() -> None:
    difference = {"run": "b", "mean": [-1.4e-17, 0.5], "low": [1e-17, 0.4], "high": [0.0, 0.6]}
    said = comparison({"run": "a", "metric": "return", "tasks": 3}, difference)
    assert [line.split() for line in said.splitlines()[2:]] == [
        ["0", "0", "0", "0"],
        ["1", "0.5", "0.4", "0.6"],
    ]


@pytest.mark.parametrize("command", [("evaluate",), ("render", "--out=film.gif")])
def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    walks: Path,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # as root may anything
    name, *options = command
    line = refuse(capfd, 4, name, str(walks / "plain"), *options)  # nothing was said before
    assert line.endswith("cannot be written to; name another place with --out")


def test_the_file_is_there_before_anything_is_printed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_reader(_: Any) -> str:
        raise BrokenPipeError

    monkeypatch.setattr("metarl_experiments.commands.evaluate.table", no_reader)
    assert main(["evaluate", str(run), "--tasks=3", f"--out={tmp_path / 'e.json'}"]) == 1
    assert read_json(tmp_path / "e.json")["tasks"] == 3


def test_what_is_no_file_is_not_replaced(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for command in (["evaluate", str(run)], ["bench", "sinusoid"]):
        line = refuse(capfd, 2, *command, f"--out={tmp_path / 'fifo'}")
        assert "is no file that can be replaced" in line
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    succeed("evaluate", str(run), "--tasks=3", f"--out={tmp_path / 'link'}")
    assert (tmp_path / "link").is_symlink()
    assert read_json(tmp_path / "target")["tasks"] == 3


def test_names_of_files_are_short_enough_in_bytes(run: Path) -> None:
    options = load(run).experiment.configs().EvaluateOptions()
    names = [
        default_file(run, options, last=False, compare=[f"/数据/{'实验' * n}"]).name
        for n in (5, 45)
    ]
    assert "实验" in names[0]
    assert all(len(os.fsencode(name)) < 200 for name in names)


def test_an_evaluation_without_numbers_is_drawn() -> None:
    nothing: Any = {"metric": "loss", "mean": [None, None], "ci95": [None, None], "tasks": 1}
    adaptation_curves([Curve("one", nothing)], log=True)
    single: Any = {"steps": 1, "mean": [1.0, None], "ci95": [None, None]}
    assert rows_of([Curve("one", single)])[1] == ["one", "1", "–"]


def test_compare_is_paired_and_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks differ by far more than methods: only a paired interval sees the difference."""
    rng = np.random.default_rng(0)
    tasks = rng.normal(0, 10, 200)
    effect = rng.normal(0.5, 1, 200)

    def evaluation(values: np.ndarray) -> dict[str, Any]:
        head = dict.fromkeys(FIELDS, "x") | {"steps": 0, "tasks": 200, "variants": {}}
        return head | {"per_task": [values.tolist()]}

    found = compare(evaluation(tasks + effect), evaluation(tasks))
    half = 1.96 * effect.std(ddof=1) / np.sqrt(200)
    assert found["mean"][0] == pytest.approx(effect.mean())
    assert found["low"][0] == pytest.approx(effect.mean() - half, abs=0.2 * half)
    assert found["high"][0] == pytest.approx(effect.mean() + half, abs=0.2 * half)
    # A resample at a time.
    monkeypatch.setattr("metarl_experiments.evaluation.comparison.BLOCK", 300)
    again = compare(evaluation(tasks + effect), evaluation(tasks))
    assert again["low"] + again["high"] == pytest.approx(found["low"] + found["high"], rel=1e-12)
    monkeypatch.undo()
    shuffled = compare(evaluation(tasks + effect), evaluation(rng.permutation(tasks)))
    assert shuffled["high"][0] - shuffled["low"][0] > 5 * (found["high"][0] - found["low"][0])


def test_tasks_of_other_ranges_are_not_compared() -> None:
    head = dict.fromkeys(FIELDS, "x") | {"steps": 0, "tasks": 2, "per_task": [[1.0, 2.0]]}
    slow = head | {"variants": {"physics": "paper", "task": {"velocity": [0.5, 1.0]}}}
    fast = head | {"variants": {"physics": "paper", "task": {"velocity": [1.5, 2.0]}}}
    other = head | {"variants": {"physics": "gym", "task": {"velocity": [0.5, 1.0]}}}
    assert compare(slow, slow)["mean"] == [0]
    with pytest.raises(InputError, match="task differs"):
        compare(slow, fast)
    with pytest.raises(InputError, match="physics differs"):
        compare(slow, other)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on navigation that differ in what their returns are measured on."""
    top = tmp_path_factory.mktemp("walks")
    shared = ("--compile=off", "--iterations=0", "--episodes=2", "--validation-tasks=2")
    options = {
        "plain": ("--env.horizon=9",),
        "again": ("--env.horizon=9", "--seed=5", "--hidden", "4"),
        "long": ("--env.horizon=11",),
        "sparse": ("--env.horizon=9", "--env.sparse"),
        "wide": ("--env.horizon=9", "--env.task-range", "2", "3"),
        "few": ("--env.horizon=9", "--evaluation-episodes=3"),
    }
    for name, own in options.items():
        succeed("train", "navigation", f"--out={top / name}", *shared, *own)
    return top


FEW = ("--tasks=2", "--steps=1", "--episodes=2")


@pytest.mark.parametrize(
    ("other", "naming"),
    [
        ("long", "env.horizon is 11"),
        ("sparse", "env.sparse is True"),
        ("wide", "env.task_range is (2.0, 3.0)"),
    ],
)
def test_returns_of_other_episodes_are_not_compared(
    walks: Path, other: str, naming: str, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = str(walks / "plain")
    # Before anything is evaluated: the table is not printed.
    line = refuse(capfd, 2, "evaluate", plain, *FEW, "--compare", str(walks / other))
    assert naming in line
    assert line.endswith("add --task-range LOW HIGH") is (other == "wide")
    line = refuse(capfd, 2, "report", plain, str(walks / other), f"--out={walks / 'page'}")
    assert f"RUN: {other}: {naming}" in line
    assert not (walks / "page").exists()
    assert not (walks / "plain" / "evaluation.json").exists()


def test_runs_on_other_ranges_compare_where_the_protocol_gives_one(
    walks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    two = (str(walks / "plain"), *FEW, "--compare", str(walks / "wide"))
    succeed("evaluate", *two, "--task-range", "0", "1")
    assert "2 tasks, seed 0, range [0.0, 1.0]" in capfd.readouterr().out
    succeed("evaluate", *two, "--task-seed=paper")
    assert "2 tasks, the paper's goals" in capfd.readouterr().out
    succeed("evaluate", str(walks / "plain"), *FEW, "--compare", str(walks / "again"))


def test_adapting_on_other_numbers_of_episodes_is_not_compared(
    walks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    two = (str(walks / "plain"), "--tasks=2", "--compare", str(walks / "few"))
    line = refuse(capfd, 2, "evaluate", *two)
    assert re.search(r"few: evaluation_episodes is 3, that of .*plain is 40", line)
    assert line.endswith("; add --episodes N")
    succeed("evaluate", *two, "--episodes=2")


def test_each_comparison_has_a_file_of_its_own(walks: Path) -> None:
    one = (str(walks / "plain"), "--tasks=3", "--steps=1", "--episodes=2", "--compare")
    for others in (["again"], ["plain"], ["again", "plain"], ["again"] * 9):
        succeed("evaluate", *one, *(str(walks / other) for other in others))
    files = list((walks / "plain").glob("evaluation-tasks-3-*-compare-*.json"))
    assert len(files) == 4
    compared = [json.loads(file.read_bytes())["variants"]["compare"] for file in files]
    assert sorted(len(one) for one in compared) == [1, 1, 2, 9]


def test_one_task_has_no_interval(walks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = walks / "single.json"
    one = (str(walks / "plain"), "--tasks=1", "--steps=1", "--episodes=2", f"--out={out}")
    succeed("evaluate", *one, "--compare", str(walks / "again"))
    assert capfd.readouterr().out.count("one task") == 2 + 2 * 2
    value = json.loads(out.read_bytes())
    assert value["ci95"] == [None, None]
    assert value["variants"]["compare"][0]["low"] == [None, None]
    check_evaluation(value, "navigation", out)


def test_table_and_page_say_which_tasks(walks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    succeed("evaluate", str(walks / "wide"))
    assert "40 tasks, seed 0, range [2.0, 3.0]" in capfd.readouterr().out
    succeed("report", str(walks / "wide"))
    assert (
        "40 tasks, seed 0, range [2.0, 3.0]"
        in (walks / "wide" / "report" / "index.html").read_text()
    )


@pytest.mark.parametrize(
    ("group", "other", "naming"),
    [
        ("maml", {"env": EnvConfig(horizon=7)}, "env.horizon"),
        ("maml", {"env": EnvConfig("another:Task-v0")}, "env.id"),
        ("maml", {"env": EnvConfig(physics="gym")}, "env.physics"),
        ("omniglot", {"rotate": False}, "rotate"),
        ("omniglot", {"ways": 3}, "ways"),
        ("omniglot", {"shots": 3}, "shots"),
        ("omniglot", {"dataset": "mini-imagenet"}, "dataset"),
    ],
)
def test_what_tells_the_tasks_of_two_runs_apart(
    group: str, other: dict[str, Any], naming: str
) -> None:
    experiment = EXPERIMENTS[group]
    config = experiment.configs().Config()

    def loaded(name: str, config: Any) -> Any:
        record = SimpleNamespace(path=Path(name))
        return SimpleNamespace(experiment=experiment, record=record, config=config)

    options = experiment.configs().EvaluateOptions()
    check_comparable(loaded("one", config), loaded("two", replace(config, lr=0.5)), options)
    with pytest.raises(InputError, match=rf"--compare two: {naming} is .*, that of one is "):
        check_comparable(loaded("one", config), loaded("two", replace(config, **other)), options)


def test_what_a_sinusoid_was_trained_on_does_not_tell_its_tests_apart() -> None:
    """Those have the shots of the protocol."""
    experiment = EXPERIMENTS["sinusoid"]
    config = experiment.configs().Config()
    one, other = (
        SimpleNamespace(experiment=experiment, record=SimpleNamespace(path=Path("x")), config=c)
        for c in (config, replace(config, shots=3))
    )
    check_comparable(one, other, experiment.configs().EvaluateOptions())  # type: ignore[arg-type]


def test_missing_numbers_are_null() -> None:
    head = dict.fromkeys(FIELDS, "x") | {"steps": 1, "tasks": 2, "variants": {}}
    whole = head | {"per_task": [[1.0, 2.0], [1.0, 2.0]]}
    holed = head | {"per_task": [[1.0, 2.0], [1.0, None]]}
    found = compare(whole, holed)
    assert (found["mean"], found["low"][1], found["high"][1]) == ([0.0, None], None, None)


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        (["--tasks=0"], "--tasks"),
        (["--tasks=1000000000"], "--tasks"),
        (["--tasks=100000", "--shots=10000"], "--tasks 100000 x --shots 10000"),
        (["--steps=none"], "--steps"),
        (["--out=nowhere/x.json"], "--out"),
        (["--compare", "nowhere"], "nowhere"),
        (["--episodes=3"], "--episodes"),
        (["--data=there"], "--data: sinusoid reads no data set"),
    ],
)
def test_bad_options_are_one_line(
    run: Path, options: list[str], naming: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    assert naming in refuse(capfd, 2, "evaluate", str(run), *options)
    assert sorted(run.rglob("*")) == before


def test_shipped_results_are_not_written_over(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipped, "ROOT", run.parent)
    out = run / "evaluation.json"
    assert "shipped" in refuse(capfd, 2, "evaluate", str(run), "--tasks=5", f"--out={out}")
    assert not out.exists()


@pytest.mark.parametrize("command", ["evaluate", "report", "render"])
def test_a_run_of_ones_own_program(
    tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path / "run", {"mine": 1}, tensorboard=False) as run:
        run.log({"iteration": 1, "loss": 2.0})
    line = refuse(capfd, 2, command, str(tmp_path / "run"))
    assert "is no run of `metarl train`" in line


def test_nothing_is_trained_among_shipped_results(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipped, "ROOT", run.parent)
    before = sorted(run.parent.rglob("*"))
    for out, more in ((run, ["--resume", "--iterations=99"]), (run.parent / "seed-9", [])):
        line = refuse(capfd, 2, "train", "sinusoid", f"--out={out}", *more)
        assert "shipped results stay as they are" in line
    assert sorted(run.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "best.json", "owner.json"])
def test_files_of_the_run_are_not_written_over(
    run: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (run / name).read_bytes()
    line = refuse(capfd, 2, "evaluate", str(run), "--tasks=5", f"--out={run / name}")
    assert "a file of the run itself" in line
    assert (run / name).read_bytes() == before


@pytest.mark.parametrize("name", ["state.json", "params.npz", "new.json"])
@pytest.mark.parametrize("command", ["evaluate", "export", "report", "render"])
def test_checkpoints_are_not_written_over(
    run: Path, command: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = max((run / "checkpoints").iterdir())
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    line = refuse(capfd, 2, command, str(run), f"--out={checkpoint / name}")
    assert "a file of the run itself" in line
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_a_run_that_may_not_be_written_to_is_reported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, _: Any) -> None:
        raise SaveError(f"could not write to {path}: Read-only file system (EROFS)")

    (run / "evaluation.json").unlink(missing_ok=True)
    monkeypatch.setattr("metarl_experiments.reporting.view.write_json", refused)
    with pytest.warns(RunWarning, match="the page has it all the same"):
        page = report([run], tmp_path / "page")
    assert page.exists()
    assert not (run / "evaluation.json").exists()


def test_run_without_a_checkpoint(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "best.json").unlink()
    assert "checkpoint" in refuse(capfd, 2, "evaluate", str(run))
    assert "checkpoint" in refuse(capfd, 2, "report", str(run))


def test_config_of_another_version(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run)
    run.mkdir()
    (run / "config.json").write_text('{"experiment": "walking"}')
    assert "walking" in refuse(capfd, 2, "evaluate", str(run))


def test_damaged_checkpoints(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for params in run.glob("checkpoints/*/params.npz"):
        params.write_bytes(b"no")
    assert "params.npz" in refuse(capfd, 3, "evaluate", str(run))


def test_the_median_and_who_lost_stand_beside_the_mean(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few tasks that diverge decide the mean of a loss."""
    succeed("evaluate", str(run), "--tasks=7", f"--out={run / 'few.json'}")
    lines = capsys.readouterr().out.splitlines()
    value = json.loads((run / "few.json").read_text())
    assert lines[1].split() == ["steps", "loss", "+-95", "%", "median", "worse"]
    step, _, _, median, worse = lines[4].split()
    assert step == "2"
    assert float(median) == pytest.approx(np.median(value["per_task"][2]), rel=1e-3)
    lost = np.array(value["per_task"][2]) > np.array(value["per_task"][0])
    assert int(worse) == lost.sum()


def test_report_is_one_self_contained_page(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    succeed("report", str(run))
    page = (run / "report" / "index.html").read_text()
    assert str(run / "report" / "index.html") in capsys.readouterr().out
    names = ("adaptation", "fits", "learning")
    for name in names:
        assert (run / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (run / "report" / f"{name}.csv").read_text().count("\n") > 2
    assert page.count("data:image/png;base64,") == 2 * len(names)
    assert re.findall(r'(?:src|href|srcset)="(?!data:)', page) == []
    assert "http" not in page
    assert "prefers-color-scheme: dark" in page
    assert (run / "evaluation.json").exists()


def test_report_draws_the_evaluation_that_is_there(run: Path) -> None:
    succeed("evaluate", str(run))
    value = json.loads((run / "evaluation.json").read_text())
    value["mean"][1], value["ci95"][1] = 123.0, 0.0
    value["per_task"][1] = [123.0] * 600
    (run / "evaluation.json").write_text(json.dumps(value))
    succeed("report", str(run))
    assert ",1,123.0," in (run / "report" / "adaptation.csv").read_text()


def test_report_of_several_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path(shutil.copytree(run, run.parent / "other"))
    monkeypatch.chdir(run.parent)
    succeed("report", str(run), str(other))
    rows = (run.parent / "report" / "adaptation.csv").read_text()
    assert "run,0," in rows
    assert "other,0," in rows
    succeed("report", str(run), str(other), "--out=elsewhere")
    assert (run.parent / "elsewhere" / "index.html").exists()


def test_runs_alike_but_for_their_seed_stand_together(tmp_path: Path) -> None:
    def run(seed: int, mean: list[float | None], **config: Any) -> tuple[Any, Any]:
        made = {"from": config.pop("start", None), "machine": {"dtype": "float32"}}
        reached = config.pop("reached", 9)
        made |= {"preset": "paper", "seed": seed, "config": config}
        metrics = [{"iteration": n} for n in (1, reached)]
        record = SimpleNamespace(config=made, metrics=metrics)
        curve = SimpleNamespace(evaluation={"mean": mean, "steps": len(mean) - 1, "tasks": 9})
        usual = preset_config(EXPERIMENTS["sinusoid"], "paper")
        one = SimpleNamespace(record=record, experiment=EXPERIMENTS["sinusoid"], config=usual)
        return (f"run{seed}", one), curve

    three = [
        run(2, [1.0, 5.0], lr=1, log_every=9),
        run(0, [3.0, 6.0], lr=1, data="there"),
        run(1, [2.0, 10.0], lr=1),
        run(3, [2.0, 10.0], lr=1, start="runs/other"),
        run(4, [2.0, 10.0, 11.0], lr=1),
    ]
    others = [run(0, [4.0, 4.0], lr=2), run(5, [7.0, None], lr=3)]
    others += [run(6, [8.0, 1.0], lr=3, reached=5)]
    twice = [run(0, [1.0, 1.0], lr=4), run(0, [2.0, 2.0], lr=4)]
    runs, curves = zip(*three, *others, *twice, strict=True)
    assert seeds_together(runs, curves) == [
        ["runs", "0 steps", "1 step"],
        ["run, seeds 0, 1, 2", "2 (1 to 3)", "7 (5 to 10)"],
        ["run, seeds 5, 6 (5 to 9 iterations)", "7.5 (7 to 8)", "–"],
    ]
    assert seeds_together(runs[:1], curves[:1]) == []
    names = ["seed-0", "seed-0-2", "seed-1", "seed-1-2"]
    same = [run(0, [1.0], lr=5), run(0, [2.0], lr=6), run(1, [3.0], lr=5), run(1, [4.0], lr=6)]
    named = [(name, one) for name, ((_, one), _) in zip(names, same, strict=True)]
    rows = seeds_together(named, [curve for _, curve in same])
    assert [row[0] for row in rows[1:]] == ["seed-0, seed-1", "seed-0-2, seed-1-2"]
    first, second = (train_small(tmp_path / f"seed-{seed}", f"--seed={seed}") for seed in (0, 1))
    page = report([first, second], tmp_path / "page").read_text()
    assert "Seeds together" in page
    options = "iterations 20, meta_batch 2, validation_tasks 4"
    assert "default, seeds 0, 1" in page
    assert page.count(f"<td>{options}</td>") == 2
    drawn = (tmp_path / "page" / "adaptation.csv").read_text()
    assert "default, seeds 0, 1" in drawn
    assert "seed-0," not in drawn  # no line of its own
    learned = (tmp_path / "page" / "learning.csv").read_text()
    assert (
        learned.count('"default, seeds 0, 1",0,') == learned.count('"default, seeds 0, 1",1,') > 2
    )
    assert "Seeds together" not in report([first], tmp_path / "one").read_text()


def test_report_is_refused_before_the_work(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("metarl_experiments.reporting.report.evaluation_of", work)
    (tmp_path / "file").touch()
    line = refuse(capfd, 4, "report", str(run), f"--out={tmp_path / 'file' / 'page'}")
    assert str(tmp_path / "file") in line
    with pytest.raises(AssertionError):
        report([run], tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_report_into_a_file_is_refused(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "--out" in refuse(capfd, 2, "report", str(run), f"--out={run / 'config.json'}")


def test_run_named_twice_is_refused(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), str(run)]) == 2
    assert "twice" in capfd.readouterr().err


@pytest.mark.parametrize(("theme", "paper"), [("light", 255.0), ("dark", 24.0)])
def test_colours_differ_for_every_eye(theme: str, paper: float) -> None:
    """Lightness differs between neighbours in the order of drawing, and from the paper."""
    light = [
        sum(w * int(c[i : i + 2], 16) for w, i in ((0.3, 1), (0.59, 3), (0.11, 5)))
        for c in PALETTES[theme]
    ]
    assert len(light) == len(COLOURS)
    assert all(abs(a - b) > 20 for a, b in itertools.pairwise(light))
    assert all(abs(a - paper) > 80 for a in light)

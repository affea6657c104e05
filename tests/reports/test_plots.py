"""Figures of any experiment: legends, numbers on axes, names, and what a folder of them holds."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import SMALL, succeed, train_small
from matplotlib.figure import Figure as Canvas
from spies import recorded

from metarl_experiments.configs.rl import Config
from metarl_experiments.configs.rl import EvaluateOptions as PolicyOptions
from metarl_experiments.configs.sinusoid import EvaluateOptions
from metarl_experiments.evaluation.evaluate import load
from metarl_experiments.plots.curves import Curve, adaptation_curves
from metarl_experiments.plots.diagnostics import diagnostics
from metarl_experiments.plots.learning import Line, Series, learning_curves, mean_and_range
from metarl_experiments.plots.legend import LEGEND_ROW, elided, legend_below
from metarl_experiments.plots.paths import paths
from metarl_experiments.plots.sinusoid import fits
from metarl_experiments.plots.style import draw, log_scale, plain_number
from metarl_experiments.reporting.report import labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("runs") / "one")


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("letters", [5, 30, 400])
def test_legends_fit_their_figure(letters: int, columns: int) -> None:
    found: list[tuple[float, list[str]]] = []

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for i in range(5):
            axes.plot([0, 1], [i, i], label=f"{i}{'m' * letters}{i}")
        legend_below(canvas, axes, columns=columns)
        canvas.draw_without_rendering()
        (legend,) = canvas.legends
        box, height = legend.get_window_extent(), axes.get_window_extent().height
        assert box.x0 >= 0
        assert box.x1 <= canvas.bbox.width
        rows = 5 if letters > 5 else math.ceil(5 / columns)
        grown = LEGEND_ROW * (rows - math.ceil(5 / columns))
        assert canvas.get_size_inches()[1] == pytest.approx(3.8 + grown)
        found.append((height, [text.get_text() for text in legend.get_texts()]))

    draw(paint, name="n", title="t", caption="c", rows=[])
    for height, texts in found:
        assert height > 100  # what the legend takes, the figure grew by
        assert [(text[0], text[-1]) for text in texts] == [(str(i), str(i)) for i in range(5)]
        assert ("…" in texts[0]) == (letters == 400)


def test_labels_keep_their_ends() -> None:
    assert elided("cheetah/seed-0", 14) == "cheetah/seed-0"
    assert elided("cheetah/seed-0", 9) == "chee…ed-0"
    assert elided("cheetah/seed-0", 8) == "che…ed-0"


def test_returns_in_titles_keep_three_digits() -> None:
    told = [plain_number(x) for x in (0.512, -12.34, 99.96, 123.4, -4321.0, 0.0)]
    assert told == ["0.512", "−12.3", "100", "123", "−4321", "0"]


@pytest.mark.parametrize("high", [5.0, 1e3, 1e14, 1e40])
def test_logarithmic_axes_have_numbers(high: float) -> None:
    canvas = Canvas()
    axes = canvas.add_subplot()
    axes.plot([0, 1], [0.3, high])
    log_scale(axes)
    canvas.draw_without_rendering()
    low, top = axes.get_ylim()
    seen = [t for t in axes.get_yticks() if low <= t <= top]
    assert len(seen) >= 2
    assert any(not math.log10(t).is_integer() for t in seen) == (high <= 1e3)


def test_names_of_runs_are_no_markup(run: Path, tmp_path: Path) -> None:
    hidden, formula = tmp_path / "_one", tmp_path / "a$b_$c"
    for path in (hidden, formula):
        path.symlink_to(run)
    (tmp_path / "links").mkdir()
    names = labels([tmp_path / "_x", tmp_path / "y"])
    assert names == [f"{tmp_path.name}/_x", f"{tmp_path.name}/y"]
    one = load(run)
    learning_curves([Line("a$b_$c", [one]), Line("b", [one])])
    evaluation: Any = {"metric": "loss", "mean": [1.0, 0.5], "ci95": [0.1, 0.1], "tasks": 3}
    figure = adaptation_curves([Curve(f"$x{i}_$", evaluation) for i in range(5)])
    assert [row[0] for row in figure.rows[1::2]] == [f"$x{i}_$" for i in range(5)]


def test_a_report_leaves_no_figure_of_another(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "walk"
    tiny = ("--compile=off", "--threads=1", "--hidden=4", "--episodes=2", "--meta-batch=2")
    tiny += ("--validation-tasks=2", "--evaluation-episodes=2", "--iterations=1")
    succeed("train", "navigation", f"--out={other}", "--observe-task", "--inner-steps=0", *tiny)
    out = tmp_path / "report"
    succeed("report", str(other), f"--out={out}")
    (out / "notes.png").write_bytes(b"somebody's own")
    assert "the policy is told" in (out / "index.html").read_text()
    assert (out / "paths.png").exists()
    assert (out / "paths.csv").exists()
    succeed("report", str(run), f"--out={out}")
    kinds = {path.stem for path in out.glob("*.*")}
    assert kinds == {"index", "adaptation", "learning", "fits", "notes"}
    assert (out / "notes.png").read_bytes() == b"somebody's own"


def test_fits_are_of_tasks_that_are_evaluated(run: Path) -> None:
    loaded = load(run)
    head, *rows = fits("one", loaded, EvaluateOptions()).rows
    assert head[:3] == ["task", "x", "truth"]
    test = EvaluateOptions()
    learner: Any = loaded.learner
    tasks, episodes = learner.source.held_out(test.task_seed, "test", test.tasks, test.shots)
    for task in range(3):
        x, y = episodes.query.x[task, 0, 0].item(), episodes.query.y[task, 0, 0].item()
        mine = np.array([row[1:3] for row in rows if row[0] == task], dtype=float)
        assert np.interp(x, mine[:, 0], mine[:, 1]) == pytest.approx(y, abs=2e-3)
        wave = tasks.amplitude[task] * np.sin(x - tasks.phase[task])
        assert wave == pytest.approx(y, abs=1e-5)


def test_the_goal_is_told_or_hidden(tmp_path: Path) -> None:
    tiny = ("--compile=off", "--hidden=4", "--episodes=2", "--meta-batch=2", "--iterations=0")
    out = tmp_path / "walk"
    succeed("train", "navigation", f"--out={out}", "--evaluation-episodes=2", *tiny)
    assert "which the policy does not see;" in paths("one", load(out), PolicyOptions()).caption


def trained(out: Path, *, iterations: int = 7, seed: int = 0) -> Path:
    others = [option for option in SMALL if not option.startswith("--iterations")]
    options = (f"--iterations={iterations}", f"--seed={seed}")
    succeed("train", "sinusoid", f"--out={out}", *options, *others)
    return out


@pytest.mark.parametrize("update", ["trpo", "promp", "adam"])
def test_panels_are_those_of_the_update(update: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch, "matplotlib.axes.Axes.set_title")
    record = {"iteration": 1, "kl": 0.1, "loss": 0.2, "step_accepted": 1.0, "backtracks": 0.0}
    figure = diagnostics("one", [record], Config(update=update))
    assert figure is not None
    titles = [call.args[1] for call in calls]
    searched = update == "trpo"
    assert any("backtracks" in title for title in titles) is searched
    assert ("loss of the meta-update" in titles) is not searched
    assert ("line search" in figure.caption) is searched


def test_a_single_record_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = load(trained(tmp_path / "run", iterations=5))
    assert [line["iteration"] for line in one.record.metrics] == [5]
    calls = recorded(monkeypatch, "matplotlib.axes.Axes.plot")
    learning_curves([Line("one", [one])])
    assert [call.options["marker"] for call in calls] == [".", ".", "o"] * 2  # light and dark
    calls.clear()
    learning_curves([Line(str(i), [one]) for i in range(9)])
    looks = {(call.options["marker"], call.options["color"]) for call in calls[2:27:3]}
    assert len(looks) == 9


def test_seeds_are_one_line_between_the_lowest_and_the_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [load(trained(tmp_path / str(seed), seed=seed)) for seed in (0, 1, 2)]
    lines = recorded(monkeypatch, "matplotlib.axes.Axes.plot")
    bands = recorded(monkeypatch, "matplotlib.axes.Axes.fill_between")
    figure = learning_curves([Line("all", seeds), Line("one", seeds[:1])], log=True)
    assert figure is not None
    assert len(lines) == 2 * (3 + 3)  # light and dark
    assert len(bands) == 2 * 3
    values = np.array([[record["loss_after"] for record in one.record.metrics] for one in seeds])
    assert values.shape == (3, 2)
    assert lines[1].args[2] == pytest.approx(values.mean(0))
    assert bands[1].args[2] == pytest.approx(values.min(0))
    assert bands[1].args[3] == pytest.approx(values.max(0))
    rows = [row for row in figure.rows if row[:1] == ["all"] and row[2] == "loss_after"]
    assert [row[1] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [row[4] for row in rows] == values.ravel().tolist()


def test_seeds_meet_where_all_have_been() -> None:
    often = Series([1, 5, 10, 15, 20], [2.0, 10.0, 20.0, 30.0, 40.0], [0.0, 4.0, 9.0, 14.0, 19.0])
    seldom = Series([1, 10, 18], [1.0, 10.0, 18.0], [2.0, 2.0, 2.0])
    x, mean, low, high = mean_and_range([often, seldom])
    assert x.tolist() == [1.5, 15.0, 27.0]
    assert mean.tolist() == [1.0, 5.5, 9.5]
    assert low.tolist() == [0.0, 2.0, 2.0]
    assert high.tolist() == [2.0, 9.0, 17.0]
    stopped = Series([1, 8], [1.0, 8.0], [5.0, 5.0])
    assert mean_and_range([often, seldom, stopped])[0].tolist() == pytest.approx([4 / 3, 32 / 3])
    late = Series([30], [30.0], [1.0])
    assert len(mean_and_range([often, late])[0]) == 0


def test_the_last_record_has_all_that_others_have(tmp_path: Path) -> None:
    lines = load(trained(tmp_path / "run", iterations=7)).record.metrics
    assert [(line["iteration"], "loss_before" in line) for line in lines] == [(5, True), (7, True)]

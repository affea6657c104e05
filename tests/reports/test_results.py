"""Shipped runs and the numbers in README and docs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import train_small

from metarl.errors import InputError, NoDataError
from metarl_experiments import results
from metarl_experiments.catalog import EXPERIMENTS, package_data
from metarl_experiments.evaluation import shipped
from metarl_experiments.evaluation.shipped import check_run, evaluations, ship
from metarl_experiments.family import mean_and_ci95
from metarl_experiments.reporting import documents
from metarl_experiments.reporting.documents import fill
from metarl_experiments.reporting.drawings import drawings
from metarl_experiments.results import main


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one shipped run."""
    folder = tmp_path_factory.mktemp("results")
    ship(train_small(folder / "run", "--init-std=0.3"), "sinusoid", folder / "results")
    return folder / "results"


def show(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Have the documents be these."""
    for module in (documents, results):
        monkeypatch.setattr(module, "documents", lambda: list(paths))


@pytest.fixture
def root(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(source, tmp_path / "experiments" / "results"))
    monkeypatch.setattr(results, "ROOT", copy)
    return copy


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | changes))


def test_shipped_run_is_small_and_checks(root: Path) -> None:
    run = root / "sinusoid" / "seed-0"
    names = {path.name for path in run.rglob("*") if path.is_file()}
    assert "optimizer.npz" not in names
    assert {"config.json", "metrics.jsonl", "evaluation.json", "params.npz"} <= names
    text = (run / "evaluation.json").read_text()
    assert json.loads(text)["run"] == "experiments/results/sinusoid/seed-0"
    assert check_run(run) == []


def test_a_run_is_shipped_with_its_evaluation_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, root = train_small(tmp_path / "run"), tmp_path / "results"
    with monkeypatch.context() as stopped:

        def stop(*_: Any) -> Any:
            raise KeyboardInterrupt

        stopped.setattr(shipped, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            ship(run, "sinusoid", root)
    assert shipped.shipped(root) == []
    assert ship(run, "sinusoid", root) == root / "sinusoid" / "seed-0"
    assert shipped.shipped(root) == [root / "sinusoid" / "seed-0"]
    assert [path.name for path in (root / "sinusoid").iterdir()] == ["seed-0"]
    with pytest.raises(InputError, match="exists; remove it first"):
        ship(run, "sinusoid", root)


@pytest.mark.parametrize(
    "change",
    ["mean", "ci95", "per_task", "10-shot", "20-shot", "tasks", "iteration", "params"],
)
def test_a_difference_is_found(root: Path, change: str) -> None:
    run = root / "sinusoid" / "seed-0"
    path = run / "evaluation.json"
    value = json.loads(path.read_text())
    variants, ci95 = value["variants"], value["ci95"][1]
    if change in ("mean", "ci95"):  # told alike wherever it stands
        row = np.array(value["per_task"][1])
        row = row + 0.2 * ci95 if change == "mean" else row.mean() + 1.2 * (row - row.mean())
        value["per_task"][1] = row.tolist()
        edit(path, **value | mean_and_ci95(np.array(value["per_task"])))
    elif change == "per_task":
        value["per_task"][1][0] += 600 * ci95
        edit(path, **value)
    elif change == "10-shot":
        variants[change]["mean"][1] += 0.2 * ci95
        edit(path, **value)
    elif change == "20-shot":
        del variants[change]
        edit(path, **value)
    elif change == "params":
        other = train_small(root.parent / "other", "--seed=1", "--init-std=0.3")
        shutil.rmtree(run)
        ship(other, "sinusoid", root).rename(run)
        path.write_text(json.dumps(value))
    else:
        edit(path, **{change: value[change] + 1})
    assert check_run(run)


def test_a_damaged_evaluation_is_a_line(root: Path) -> None:
    run = root / "sinusoid" / "seed-0"
    edit(run / "evaluation.json", per_task=None)
    (problem,) = check_run(run)
    assert "evaluation.json is damaged: per_task" in problem


def test_a_group_that_is_not_there_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "sinusiod"]) == 2
    assert capsys.readouterr().err == "results: GROUP: there is no sinusiod, only sinusoid\n"


def test_best_presets_are_evaluated_on_other_goals_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    navigation, sinusoid = EXPERIMENTS["navigation"], EXPERIMENTS["sinusoid"]
    both = shipped.protocols(navigation, "navigation")
    assert list(both) == ["evaluation.json", "held-out.json"]
    assert (both["held-out.json"].tasks, both["held-out.json"].task_seed) == (200, 0)
    assert list(shipped.protocols(navigation, "navigation-paper")) == ["evaluation.json"]
    assert list(shipped.protocols(sinusoid, "sinusoid")) == ["evaluation.json"]

    options = sinusoid.configs().EvaluateOptions
    told = {"evaluation.json": options(), "held-out.json": options(tasks=7, task_seed=1)}
    monkeypatch.setattr(shipped, "protocols", lambda *_: told)
    run = root / "sinusoid" / "seed-0"
    assert "has no held-out.json" in check_run(run)[0]
    assert main(["evaluate", "sinusoid"]) == 0
    assert check_run(run) == []
    found = evaluations(root)
    assert [e["tasks"] for e in found["sinusoid"] + found["sinusoid-held-out"]] == [600, 7]
    edit(run / "held-out.json", iteration=3)
    assert "held-out.json: iteration is told as 3" in check_run(run)[0]


def groups(*means: list[float | None]) -> dict[str, list[dict[str, Any]]]:
    return {"sinusoid": [{"mean": mean} for mean in means]}


def test_marked_numbers_come_from_the_shipped_runs() -> None:
    text = "loss <!-- results:mean sinusoid 1 .2f -->9.99<!-- /results --> after one step"
    filled = fill(text, groups([3.0, 0.5], [3.0, 0.6]))
    assert filled == text.replace("9.99", "0.55")
    assert fill(filled, groups([3.0, 0.5], [3.0, 0.6])) == filled


def test_table_of_the_sinusoid() -> None:
    # Of two marks the first has no arguments.
    mark = "<!-- results:sinusoid -->\n<!-- /results -->"
    text = f"{mark} and {mark}"
    curve = [3.0, 0.5, *[0.4] * 4, *[0.3] * 4, 0.2]
    made = groups(curve, [2 * x for x in curve])
    for i, seed in enumerate(made["sinusoid"]):
        seed["variants"] = {
            "median": [1.0] * 10 + [0.06 + i],
            "worse_than_unadapted": [9] * 10 + [i],
        }
    table = fill(text, made)
    assert "| 0.75 (0.50 to 1.00) | 0.60 (0.40 to 0.80) | 0.30 (0.20 to 0.40) |" in table
    assert "| 0.56 (0.060 to 1.06) | 0, 1 |" in table
    assert "(2 seeds)" in table
    assert table.count("| MAML, the paper's | 0.67") == 2
    assert "| MAML, the paper's | 0.67 | 0.38 | 0.35 |" in table
    (diverged,) = (made := groups([3.0, 0.5, *[None] * 9]))["sinusoid"]
    diverged["variants"] = {"median": [1.0] * 10 + [None], "worse_than_unadapted": [600] * 11}
    line = "| 0.50 | not finite | not finite | not finite | 600 |"
    assert line in fill(text, made)
    # What takes no step has made no task worse, whatever its last bits say.
    (still,) = (made := groups([3.0] * 11))["sinusoid"]
    still["variants"] = {"median": [1.0] * 11, "worse_than_unadapted": [300] * 11}
    assert "| 3.00 | 3.00 | 3.00 | 1.00 |  |" in fill(text, made)


def test_table_of_policies() -> None:
    rng = np.random.default_rng(0)
    authors = np.array(package_data("paper", "returns")["ant-velocity"]["returns"]["maml"])
    gains = np.array([[-5.0], [10.0], [20.0], [30.0]]) + rng.normal(size=(2, 1, 40))
    runs = [{"mean": x.mean(1).tolist(), "per_task": x.tolist()} for x in authors + gains]
    cliff = package_data("paper", "returns")["navigation"]["returns"]["maml"]
    same = {"mean": np.mean(cliff, 1).tolist(), "per_task": cliff}
    marked = "<!-- results:policies navigation ant-velocity --><!-- /results -->"
    lines = fill(marked, {"ant-velocity": runs, "navigation": [same]}).splitlines()
    assert lines[1].endswith("| 0 steps | 1 step | 2 steps | 3 steps | 4 steps |")
    assert lines[3].startswith("| navigation, ours (1 seed) | -40.4 | -11.7 |")
    assert lines[5].endswith("| +0.00 ± 0.00 |")
    assert lines[6].startswith("| ant, velocity, ours (2 seeds) | 25.")
    assert lines[7] == "| — the authors' | 30.6 | 96.7 | 100.1 | 101.4 |  |"
    told = lines[8].split(" | ")[1:5]
    mean = gains.mean(0)
    half = 1.96 * mean.std(1, ddof=1) / 40**0.5
    assert told == [f"{m:+.2f} ± {h:.2f}" for m, h in zip(mean.mean(1), half, strict=True)]
    with pytest.raises(InputError, match="ant-direction"):
        fill("<!-- results:policies ant-direction --><!-- /results -->", {"ant-velocity": runs})


def test_table_of_returns_without_the_authors() -> None:
    curve = {"mean": [100.0, 200.0, 210.0], "per_task": [[100.0], [200.0], [210.0]]}
    level = {"mean": [50.0], "per_task": [[50.0]]}
    marked = "<!-- results:returns ant-goal --><!-- /results -->"
    lines = fill(marked, {"ant-goal": [curve], "ant-goal-oracle": [level]}).splitlines()
    assert lines[1] == "| mean return after | 0 steps | 1 step | 2 steps |"
    assert lines[3:] == [
        "| MAML, default preset, ours (1 seed) | 100.0 | 200.0 | 210.0 |",
        "| oracle, ours (1 seed) | 50.0 |  |  |",
        "<!-- /results -->",
    ]
    with pytest.raises(InputError, match="ant-goal"):
        fill(marked, {"ant-velocity": [curve]})


def test_table_of_accuracies() -> None:
    def evaluation(mean: float, support: float) -> dict[str, Any]:
        variants = {"shots": 1, "support, 1 queries": {"mean": [0.2, support], "ci95": [0, 0.004]}}
        return {"mean": [0.2, mean], "ci95": [0.1, 0.003], "variants": variants}

    name = "omniglot-5way-1shot"
    text = f"<!-- results:accuracies {name} omniglot-20way-1shot -->\n<!-- /results -->"
    table = fill(text, {name: [evaluation(0.9912, 0.98)]})
    assert "| MAML, ours | 99.1 ± 0.3 |  |" in table
    assert "| MAML, the support's moments, ours | 98.0 ± 0.4 |  |" in table
    assert "| MAML, published | 98.7 ± 0.4 | 95.8 ± 0.3 |" in table
    assert "| MAML++, published | 99.5 | 97.7 |" in table
    assert "first order, ours" not in table
    table = fill(text, {name: [evaluation(0.99, 0.98), evaluation(0.992, 0.97)]})
    assert "| 99.1 (99.0 to 99.2), 2 seeds |" in table


def test_check_tells_what_it_cannot_re_evaluate(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_data(path: Path) -> list[str]:
        raise NoDataError(f"no pictures for {path}")

    show(monkeypatch)
    monkeypatch.setattr(results, "check_run", without_data)
    assert main(["check"]) == 0
    assert "sinusoid/seed-0: not re-evaluated: no pictures" in capsys.readouterr().out


@pytest.mark.parametrize("marker", ["median sinusoid 1", "mean cheetah 1", "mean sinusoid 30"])
def test_unknown_numbers_are_errors(marker: str) -> None:
    with pytest.raises(InputError, match=marker.split()[0]):
        fill(f"<!-- results:{marker} -->1<!-- /results -->", groups([1.0, 2.0]))


def test_check_fails_when_a_document_differs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:mean sinusoid 1 .3f -->1<!-- /results -->")
    show(monkeypatch, readme)
    assert main(["check"]) == 1
    assert "README.md" in capsys.readouterr().err
    assert main(["write"]) == 0
    assert main(["check"]) == 0


def test_documents_are_those_of_the_checkout() -> None:
    names = {path.name for path in documents.documents()}
    assert "README.md" in names


def test_numbers_in_the_documents_are_the_shipped_ones() -> None:
    """The cheap half of `make results`."""
    groups = evaluations(shipped.ROOT)
    for path in documents.documents():
        text = path.read_text(encoding="utf-8")
        assert fill(text, groups) == text, path


def test_figures_in_the_documents_are_drawn_from_the_shipped_runs() -> None:
    found = documents.figures(evaluations(shipped.ROOT))
    assert "navigation-adaptation.png" in {path.name for path in found}
    for path, drawing in found.items():
        assert drawing.is_in(path), f"{path}: python -m metarl_experiments.results write"


def test_a_figure_follows_its_numbers(tmp_path: Path) -> None:
    told = {"metric": "return", "tasks": 40, "mean": [-4.0, -1.0], "ci95": [0.1, 0.2]}
    group = {"navigation": [told]}
    drawing = drawings(group)["navigation-adaptation.png"]
    path = tmp_path / "figures" / "navigation-adaptation.png"
    assert not drawing.is_in(path)
    drawing.write(path)
    assert drawing.is_in(path)
    (curves,) = drawing.panels.values()
    assert [curve.label for curve in curves][:2] == ["MAML, ours", "MAML (authors)"]
    changed = drawings({"navigation": [{**told, "mean": [-4.0, -1.1]}]})
    assert not changed["navigation-adaptation.png"].is_in(path)


def test_one_figure_has_all_policies(tmp_path: Path) -> None:
    told = {"metric": "return", "tasks": 40, "mean": [-4.0, -1.0], "ci95": [0.1, 0.2]}
    level = {**told, "mean": [-0.5], "ci95": [0.1]}
    runs = {"navigation": [told], "navigation-oracle": [level], "ant-direction": [told]}
    drawing = drawings({**runs, "cheetah-velocity-random": [told]})["policies-adaptation.png"]
    labels = {title: [c.label for c in curves] for title, curves in drawing.panels.items()}
    assert list(labels) == ["navigation", "ant, direction"]
    assert labels["navigation"][:3] == ["MAML, ours", "oracle, ours", "MAML (authors)"]
    assert labels["ant, direction"][:2] == ["MAML, ours", "MAML (authors)"]
    path = tmp_path / "policies-adaptation.png"
    drawing.write(path)
    assert drawing.is_in(path)
    several = [told | {"per_task": [[-4.0, -2.0], [-1.0, x]]} for x in (-1.0, -3.0)]
    curve = drawings({"navigation": several})["navigation-adaptation.png"].panels["navigation"][0]
    assert curve.evaluation["mean"] == [-3.0, -1.5]
    assert curve.evaluation["ci95"] == [pytest.approx(1.96), pytest.approx(0.98)]
    only = {"navigation": [told]}
    assert "policies-adaptation.png" not in drawings(only)


def test_a_figure_that_no_run_gives_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("![](docs/figures/ant-velocity-adaptation.png)")
    show(monkeypatch, readme)
    with pytest.raises(InputError, match="no shipped run gives it"):
        documents.figures({})


def test_shipped_runs_hold_no_paths_of_a_machine() -> None:
    for path in shipped.shipped(shipped.ROOT):
        told = re.findall(r'"(?:/|~|[A-Za-z]:)[^"]*"', (path / "config.json").read_text())
        assert told == []
        run = json.loads((path / "evaluation.json").read_text())["run"]
        assert run == f"experiments/results/{path.parent.name}/{path.name}"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish"]) == 2
    assert "ship RUN GROUP" in capsys.readouterr().err

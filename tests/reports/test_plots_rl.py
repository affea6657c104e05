"""Figures, page and film of meta-policies."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refuse, succeed, train_small
from PIL import Image

import metarl
from metarl.rl.distributions import Gaussian
from metarl.rl.rollout import Rollout
from metarl_experiments.configs.rl import Config, EvaluateOptions
from metarl_experiments.evaluation.evaluate import Loaded, load
from metarl_experiments.options import find_experiment, overlay, preset_config
from metarl_experiments.plots import rl
from metarl_experiments.plots.curves import Curve
from metarl_experiments.plots.diagnostics import accepted_share, diagnostics
from metarl_experiments.plots.learning import summed
from metarl_experiments.plots.paths import half_width, positions
from metarl_experiments.plots.tasks import against_task, before_after
from metarl_experiments.reporting import report
from metarl_experiments.rl import video
from metarl_experiments.rl.cells import words
from metarl_experiments.rl.episodes import learner_of, play, spread_tasks

TINY = ("--compile=off", "--device=cpu", "--threads=1", "--hidden", "4", "--episodes=2")
TINY += ("--meta-batch=2", "--validation-tasks=2", "--evaluation-episodes=2", "--iterations=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    succeed("train", "navigation", f"--out={out}", *TINY)
    succeed("evaluate", str(out))
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def table(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def configured(loaded: Loaded, experiment: str, **env: Any) -> Loaded:
    """A run of another experiment and environment, for what only reads its configuration."""
    found = find_experiment(experiment)
    config = overlay(preset_config(found, "default"), {"env": env, "hidden": [4]})
    learner = found.learner().build(config, loaded.learner.machine)
    return loaded._replace(experiment=found, learner=learner)


def evaluation(per_task: np.ndarray, **task: Any) -> dict[str, Any]:
    variants = {"task": task, "episodes": 1}
    head = {"metric": "return", "task_seed": "paper", "tasks": per_task.shape[1]}
    head |= {"mean": per_task.mean(1).tolist(), "ci95": [0.0] * len(per_task)}
    return {**head, "per_task": per_task.tolist(), "variants": variants}


@pytest.fixture(scope="module")
def page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report of a run and a copy, where two groups are shipped."""
    top = tmp_path_factory.mktemp("report")
    other = shutil.copytree(trained, top / "two")
    told = json.loads((trained / "evaluation.json").read_text())
    for group, mean, episodes in (("navigation", [-9.0] * 5, 2), ("navigation-oracle", [-2.5], 7)):
        seed = top / "results" / group / "seed-0"
        seed.mkdir(parents=True)
        value = told | {"mean": mean, "ci95": [0.1] * len(mean), "steps": len(mean) - 1}
        value["variants"] = told["variants"] | {"episodes": episodes}
        (seed / "evaluation.json").write_text(json.dumps(value))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "ROOT", top / "results")
        succeed("report", str(trained), str(other), f"--out={top / 'page'}")
    return top / "page"


def test_page_of_navigation(page: Path) -> None:
    each = ("task-goal", "before-after", "diagnostics", "paths")
    names = {"adaptation", "learning", *each, *(f"{name}-2" for name in each)}
    assert {path.stem for path in page.glob("*.png")} == names
    for name in names:
        assert (page / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (page / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert len(table(page / f"{name}.csv")) > 2
    text = (page / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 2 * len(names)
    assert re.findall(r'(?:src|href|srcset)="(?!data:)', text) == []
    assert "one: 2, two: 2, MAML (shipped): 2, oracle (shipped): 7" in text
    assert text.count("<td>40 tasks, the paper&#x27;s goals</td>") == 2
    assert "environment card: Navigation2D" in text
    assert "## Rewards" in text


def test_authors_curves_are_those_of_their_table(page: Path, trained: Path) -> None:
    rows = table(page / "adaptation.csv")
    found = {(row[0], int(row[1])): float(row[2]) for row in rows[1:]}
    maml = [found["MAML (authors)", k] for k in range(4)]
    assert maml == pytest.approx([-40.41, -11.68, -3.33, -3.23], abs=0.005)
    assert found["pretrained (authors)", 3] == pytest.approx(-8.47, abs=0.005)
    assert found["oracle (authors)", 0] == pytest.approx(-2.29, abs=0.005)
    told = json.loads((trained / "evaluation.json").read_text())
    assert [found["one", k] for k in range(5)] == told["mean"]


def test_shipped_runs_stand_beside(page: Path, trained: Path) -> None:
    rows = table(page / "adaptation.csv")
    assert ["oracle (shipped)", "0", "-2.5", "0.1"] in rows
    assert ["MAML (shipped)", "4", "-9.0", "0.1"] in rows
    sparse = configured(load(trained), "navigation", sparse=True)
    assert rl.shipped_groups([sparse]) == {}
    assert rl.shipped_groups([configured(load(trained), "maml", id="metarl/Navigation2D-v0")]) == {}


def test_authors_stand_only_beside_their_own_problem(trained: Path) -> None:
    loaded = load(trained)
    told = evaluation(np.zeros((2, 40)), goal=[[0, 0]] * 40)

    def shown(one: Loaded, **changed: Any) -> int:
        curves = rl.authors([("run", one)], [Curve("run", {**told, **changed})])
        assert all(curve.published for curve in curves)
        return len(curves)

    assert shown(loaded) == 4
    assert shown(loaded, task_seed=0) == 0
    assert shown(configured(loaded, "navigation", sparse=True)) == 0
    assert shown(configured(loaded, "navigation", horizon=50)) == 0
    assert shown(configured(loaded, "cheetah-direction")) == 4
    assert shown(configured(loaded, "cheetah-direction", physics="gym")) == 0
    assert shown(configured(loaded, "maml", id="metarl/Navigation2D-v0", horizon=100)) == 4
    assert shown(configured(loaded, "ant-goal")) == 0


def test_fewer_goals_take_the_same_of_theirs(trained: Path) -> None:
    told = evaluation(np.zeros((2, 3)), goal=[[0, 0]] * 3)
    first = rl.authors([("run", load(trained))], [Curve("run", told)])[0]
    assert first.evaluation["mean"][1] == pytest.approx((-12.19 - 20.8 - 21.73) / 3)


def test_learning_curve_counts_environment_steps(page: Path, trained: Path) -> None:
    records = [{"iteration": 2, "env_steps": 10.0}, {"iteration": 3, "env_steps": 7.0}]
    assert summed(records, "env_steps") == [20.0, 27.0]
    assert summed([{"iteration": 1}], "env_steps") == [0.0]
    rows = table(page / "learning.csv")
    assert rows[0] == ["label", "seed", "tag", "iteration", "env_steps", "value"]
    last = [float(row[4]) for row in rows if row[:3] == ["one", "0", "return_after"]][-1]
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert last == sum(record["env_steps"] for record in logged)
    assert "validation.return_after" in {row[2] for row in rows}


PER_TASK = np.array([[-9.0, -8.0, -7.0, -6.0], [-5.0, -4.0, -3.0, -2.0], [-1.0, -1.0, -1.0, -9.0]])


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ({"velocity": [0.1, 1.9, 0.4, 0.9]}, ["task-velocity"]),
        ({"direction": [1.0, -1.0, 1.0, 1.0]}, ["task-direction"]),
        ({"goal": [[0.1, 0.2], [0.3, 0.4], [0.0, 1.0], [1.0, 0.0]]}, ["task-goal"]),
        ({"a/b": [1, 2, 3, 4], "colour": ["red"] * 4, "matrix": [[1, 2, 3]] * 4}, ["task-a-b"]),
    ],
)
def test_return_against_each_kind_of_task(task: dict[str, Any], names: list[str]) -> None:
    found = against_task("run", evaluation(PER_TASK, **task), units=True)
    assert [figure.name for figure in found] == names
    rows = found[0].rows
    value = np.ravel(next(iter(task.values()))[1]).tolist()
    assert rows[2] == [1, *value, -8.0, -4.0, -1.0]


@pytest.mark.parametrize("own", [True, False])
def test_only_our_own_goals_have_a_start_and_metres(own: bool) -> None:
    goals = [[0.1, 0.2], [0.3, 0.4], [0.0, 1.0], [1.0, 0.0]]
    (figure,) = against_task("run", evaluation(PER_TASK, goal=goals), units=own)
    assert ("the start" in figure.caption) is own


def test_before_and_after_counts_who_gained() -> None:
    figure = before_after("run", evaluation(PER_TASK))
    assert figure is not None
    assert "100 % after 1 step, 75 % after 2 steps" in figure.caption
    assert list(figure.rows[1]) == [0, -9.0, -5.0, -1.0]
    assert before_after("oracle", evaluation(PER_TASK[:1])) is None


@pytest.mark.parametrize("missing", [(), ("kl", "backtracks", "seconds.fisher", "sigma")])
def test_diagnostics_of_any_update(missing: tuple[str, ...]) -> None:
    tags = ("kl", "backtracks", "step_accepted", "gain", "gain_ci95", "sigma", "seconds.fisher")
    record = dict.fromkeys(tags, 0.5) | {"inner_grad_norm": 1.0, "seconds.sample": 2.0}
    records = [{"iteration": i, **record} for i in (1, 2, 3)]
    for one in records:
        for tag in missing:
            del one[tag]
    figure = diagnostics("run", records, Config())
    assert figure is not None
    assert len(figure.rows) == 4
    assert diagnostics("run", [], Config()) is None


@pytest.mark.parametrize("log_every", [1, 2, 5])
def test_share_of_accepted_updates_does_not_depend_on_the_records(log_every: int) -> None:
    accepted = np.array([1, 1, 0, 1, 0, 1, 1, 1, 0, 1.0])
    records = [
        {"iteration": end, "step_accepted": accepted[end - log_every : end].mean()}
        for end in range(log_every, 11, log_every)
    ]
    assert accepted_share(records) == pytest.approx(0.7)
    # A last record of fewer iterations, as a validation or the end makes it, counts less.
    ragged = [{"iteration": 9, "step_accepted": 6 / 9}, {"iteration": 10, "step_accepted": 1.0}]
    assert accepted_share(ragged) == pytest.approx(0.7)
    assert accepted_share([{"iteration": 1}]) == 1  # Adam has no line search


def test_paths_beyond_a_metre_are_seen() -> None:
    assert half_width(np.array([[0.2, -0.7]])) == 1
    assert half_width(np.array([[0.2, 0.1], [-3.0, 2.0]])) > 3


def test_paths_end_at_the_true_last_position() -> None:
    observations = torch.arange(24.0).reshape(1, 2, 4, 3)
    final = -torch.ones(1, 2, 3)
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]])
    empty = torch.zeros(1, 2, 4)
    gaussian = Gaussian(empty, empty)
    rollout = Rollout(observations, empty, empty, mask, empty, empty, final, gaussian)
    ((short, whole),) = positions(rollout, 2)
    assert short.tolist() == [[0, 1], [3, 4], [-1, -1]]
    assert whole.shape == (5, 2)


def test_cards_come_with_those_they_refer_to(trained: Path) -> None:
    cards = rl.notes([configured(load(trained), "cheetah-direction")])
    assert [heading.split(": ")[1] for heading, _ in cards] == [
        "HalfCheetahDirection",
        "HalfCheetahVelocity",
    ]
    assert "Planar" in cards[1][1].title()


def test_card_of_a_users_environment_is_its_docstring(trained: Path) -> None:
    ((heading, card),) = rl.notes([configured(load(trained), "maml", id="my_package:MyTask-v0")])
    assert heading == "environment card: Walker"
    assert card.startswith("Random walk: observes position and time;")


def test_film_of_navigation(run: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "film.gif"
    succeed("render", str(run), f"--out={out}", "--tasks=2", "--steps", "0", "1")
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as film:
        assert film.size == (2 * 240, 26 + 2 * 284)
        assert film.info["duration"] == 100
        assert 2 < getattr(film, "n_frames", 0) <= 101


def test_film_shows_the_adapted_policies(trained: Path) -> None:
    """Without noise the first step is the policy's mean: that of k steps in column k."""
    loaded = load(trained)
    learner = learner_of(loaded)
    params = {**loaded.params, "log_std": torch.full_like(loaded.params["log_std"], -20.0)}
    loaded = loaded._replace(params=params)
    tasks, _ = learner.test_tasks(EvaluateOptions(tasks=2))
    grid = play(loaded, tasks, (0, 1), EvaluateOptions(), seed=0, stride=7)
    key = metarl.seed_of(0, "test-rollouts")
    path = learner.adapt(params, learner.sampler(2, 2), tasks, 1, key).path
    for i, row in enumerate(grid):
        for k, episode in enumerate(row):
            own = {name: p[i] for name, p in path[k].items()}
            mean = learner.apply(own, torch.zeros(1, 2)).mean[0].detach().numpy()
            expected = np.clip(0.1 * mean, -0.1, 0.1)
            assert episode.motion["position"][0] == pytest.approx(expected, abs=1e-4)
            distances = np.linalg.norm(episode.motion["position"] - tasks[i]["goal"], axis=1)
            assert episode.returns == pytest.approx([0, *-np.cumsum(distances)])
            assert episode.times[:2] == [0, 7]
            assert episode.times[-1] == len(episode.returns) - 1
            assert len(episode.pictures) == len(episode.times)
    assert not np.allclose(*(episode.motion["position"][0] for episode in grid[0]), atol=1e-5)


def test_tasks_of_a_film_are_spread(trained: Path) -> None:
    loaded = load(trained)

    def tasks(experiment: str, count: int) -> list[float]:
        learner = learner_of(configured(loaded, experiment))
        return [next(iter(t.values())) for t in spread_tasks(learner, count, EvaluateOptions())]

    assert tasks("cheetah-direction", 3) == [-1.0, 1.0]
    low, middle, high = tasks("cheetah-velocity", 3)
    assert low < 0.3 < middle < 1.7 < high
    learner = learner_of(loaded)
    first = learner.test_tasks(EvaluateOptions(tasks=2))[0]
    assert np.array_equal(spread_tasks(learner, 2, EvaluateOptions())[1]["goal"], first[1]["goal"])


def test_tasks_in_words() -> None:
    assert words({"velocity": -0.001}) == "goal 0.00"
    assert words({"goal": np.array([-1.0, 2.0])}) == "goal −1.00, 2.00"
    assert words({"direction": -1.0}) == "backwards"
    assert words({"maze": "left"}) == "maze left"


@pytest.mark.parametrize("out", ["film.avi", "nowhere/film.gif", "."])
def test_film_needs_a_file(run: Path, out: str, capfd: Any) -> None:
    assert "--out" in refuse(capfd, 2, "render", str(run), f"--out={out}")


def test_film_without_encoder(run: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    line = refuse(capfd, 2, "render", str(run), f"--out={run / 'film.mp4'}")
    assert "metarl-policies[video]" in line
    assert not (run / "film.mp4").exists()


def test_film_of_a_sinusoid(tmp_path: Path, capfd: Any) -> None:
    line = refuse(capfd, 2, "render", str(train_small(tmp_path / "sinusoid")))
    assert "no environment" in line


def test_film_as_mp4(tmp_path: Path) -> None:
    out = tmp_path / "film.mp4"
    video.write_video(out, [Image.new("RGB", (64, 48), c) for c in ("red", "blue", "red")], 25)
    assert out.read_bytes()[4:8] == b"ftyp"
    assert list(tmp_path.iterdir()) == [out]

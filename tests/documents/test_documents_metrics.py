"""The metric glossary names every key that runs write, and no other."""

import json
import re
from pathlib import Path

import pytest
from commands import SMALL
from documents import TOP, keys
from images_data import glyphs

from metarl_experiments.__main__ import main
from metarl_experiments.evaluation.evaluations import FIELDS

GLOSSARY = keys(TOP / "docs" / "metrics.md")
SECTIONS = ("metrics.jsonl", "evaluation.json")
POLICY = ["--compile=off", "--iterations=1", "--meta-batch=2", "--episodes=2", "--env.horizon=10"]
POLICY += ["--validation-tasks=2", "--evaluation-episodes=2"]
IMAGES = ["--compile=off", "--net=dense", "--iterations=1", "--meta-batch=2", "--log-every=1"]
RUNS = [
    ("sinusoid", SMALL),
    ("navigation", [*POLICY, "--update=trpo"]),
    ("navigation", [*POLICY, "--update=promp", "--env.task-range", "0", "1"]),
    ("navigation", [*POLICY, "--update=adam"]),
    ("omniglot", [*IMAGES, "--validation-tasks=2"]),
]


def general(key: str) -> str:
    """The key as the glossary writes it: N for a number of query images."""
    return re.sub(r", \d+ queries", ", N queries", key)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """File -> keys that the runs wrote."""
    top = tmp_path_factory.mktemp("runs")
    found: dict[str, set[str]] = {"metrics": set(), "evaluation": set(), "variants": set()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl_experiments.images.tasks.load_omniglot", lambda _: glyphs(1623))
        for number, (experiment, options) in enumerate(RUNS):
            run = top / str(number)
            assert main(["train", experiment, f"--out={run}", *options]) == 0
            more = ["--tasks=3", "--shots=10"] if experiment == "sinusoid" else ["--tasks=3"]
            for arguments in (["--tasks=3"], [*more, f"--compare={run}"]):
                out = run / "e.json"
                assert main(["evaluate", str(run), f"--out={out}", *arguments]) == 0
                value = json.loads(out.read_text())
                found["evaluation"] |= value.keys()
                found["variants"] |= {general(key) for key in value["variants"]}
            lines = (run / "metrics.jsonl").read_text().splitlines()
            found["metrics"] |= {key for line in lines for key in json.loads(line)}
    return found


def test_every_key_is_in_the_glossary(written: dict[str, set[str]]) -> None:
    metrics, evaluation = (keys(TOP / "docs" / "metrics.md", name) for name in SECTIONS)
    assert written["metrics"] - metrics == set()
    assert (written["evaluation"] | written["variants"]) - evaluation == set()
    assert written["evaluation"] == set(FIELDS)


def test_the_glossary_names_no_other_key(written: dict[str, set[str]]) -> None:
    metrics, evaluation = (keys(TOP / "docs" / "metrics.md", name) for name in SECTIONS)
    assert metrics - written["metrics"] == {"validation.…"}
    assert evaluation - (written["evaluation"] | written["variants"]) == set()


def test_shipped_runs_write_the_same_keys() -> None:
    for path in (TOP / "experiments" / "results").glob("*/seed-*/metrics.jsonl"):
        lines = path.read_text().splitlines()
        assert {key for line in lines for key in json.loads(line)} <= GLOSSARY, path


def test_a_key_that_is_missing_is_seen(tmp_path: Path) -> None:
    text = (TOP / "docs" / "metrics.md").read_text().replace("| `kl` |", "| kl |")
    (tmp_path / "metrics.md").write_text(text)
    assert GLOSSARY - keys(tmp_path / "metrics.md") == {"kl"}

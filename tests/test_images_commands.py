"""The commands on an image run: what is recorded, and what works where the data set is not."""

import json
from pathlib import Path

import pytest
from commands import SMALL, refuse, succeed
from images_data import glyphs

TINY = [*SMALL, "--iterations=100", "--net=dense", "--patience=20"]


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run on glyphs with a step size of zero: the first validation is the best."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl_experiments.image_tasks.omniglot_sources", lambda _: [])
        patch.setattr("metarl_experiments.image_tasks.load_omniglot", lambda _: glyphs(1623))
        argv = [a for a in TINY if a != "--iterations=20"]
        succeed("train", "omniglot", f"--out={run}", "--lr=0", *argv)
        succeed("evaluate", str(run), "--tasks=8", f"--out={run / 'evaluation.json'}")
    return run


def test_early_stopping_is_recorded_and_told(stopped: Path) -> None:
    lines = (stopped / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 30
    evaluation = json.loads((stopped / "evaluation.json").read_text())
    assert evaluation["iteration"] == 10
    assert evaluation["variants"]["trained_iterations"] == 30
    succeed("report", str(stopped))
    page = (stopped / "report" / "index.html").read_text()
    assert "30 of 100 iterations; it ends where validation has not improved for 20" in page


def test_only_new_episodes_need_the_data_set(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    succeed("report", str(stopped))
    drawn = {path.name for path in (stopped / "report").glob("*.png")}
    assert "adaptation.png" in drawn
    assert "episodes.png" not in drawn
    before = sorted(stopped.rglob("*"))
    line = refuse(capfd, 2, "evaluate", str(stopped))
    assert "--data DIR" in line
    assert "metarl download omniglot" in line
    line = refuse(capfd, 2, "evaluate", str(stopped), f"--data={stopped}")
    assert "metarl download omniglot" in line
    line = refuse(capfd, 2, "train", "omniglot", f"--out={stopped}-2")
    assert "metarl download omniglot" in line
    assert not Path(f"{stopped}-2").exists()
    assert sorted(stopped.rglob("*")) == before

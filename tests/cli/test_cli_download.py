"""`metarl download`: options; the downloading itself is tested with the images."""

from pathlib import Path

import pytest
from commands import refuse

from metarl_experiments.__main__ import main


def test_where_and_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import metarl_experiments.commands.download as module

    asked: list[Path] = []

    def download(root: Path, progress: object) -> list[Path]:
        asked.append(root)
        return [Path(root, "omniglot", "images_background.zip")]

    monkeypatch.setattr(module, "download_omniglot", download)
    monkeypatch.setenv("METARL_DATA", "there")
    assert main(["download", "omniglot"]) == 0
    assert main(["download", "omniglot", f"--data={tmp_path}"]) == 0
    assert asked == [Path("there"), tmp_path]
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "naming"),
    [
        ([], "DATASET"),
        (["imagenet"], "imagenet"),
        (["omniglot", "omniglot"], "DATASET"),
        (["omniglot"], "--data"),
        (["omniglot", "--url", "x"], "--url"),
    ],
)
def test_bad_input(
    argv: list[str],
    naming: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    assert naming in refuse(capfd, 2, "download", *argv)

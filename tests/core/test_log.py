import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metarl.errors import InputError, RunWarning
from metarl.log import Log, Settings, TensorBoard
from metarl.runs import read_metrics
from metarl.runs.metrics import cut_metrics, thin_metrics
from metarl_experiments.plots.learning import summed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def points(directory: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows, purged steps left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    view = EventAccumulator(str(directory))
    view.Reload()
    return [(e.step, e.value) for e in view.Scalars(tag)]


def test_a_line_holds_numbers_of_all_kinds_and_null_for_the_others(path: Path) -> None:
    log = Log(path, tensorboard=False)
    log.write(
        3,
        {
            "train/loss": 0.1,
            "numpy": np.float32(0.5),
            "count": np.int64(7),
            "tensor": torch.tensor(2.5, requires_grad=True),
            "flag": True,
            "none": None,
            "nan": float("nan"),
            "inf": -math.inf,
            "tensor.nan": torch.tensor(float("nan")),
        },
    )
    log.close()
    assert path.read_text() == (
        '{"iteration": 3, "train/loss": 0.1, "numpy": 0.5, "count": 7, "tensor": 2.5, '
        '"flag": true, "none": null, "nan": null, "inf": null, "tensor.nan": null}\n'
    )
    assert read_metrics(path)[0]["train/loss"] == 0.1


def test_lines_are_there_at_once_and_go_on_after_a_restart(path: Path) -> None:
    log = Log(path, tensorboard=False)
    log.write(1, {"a": 1})
    assert len(path.read_text().splitlines()) == 1
    log.close()
    with path.open("a") as file:
        file.write('{"iteration": 2, "a": 2}\n{"iteration": 3, "a')
    assert [line["iteration"] for line in read_metrics(path)] == [1, 2]  # the torn one is none
    cut_metrics(path, 1)
    log = Log(path, after=1, tensorboard=False)
    log.write(2, {"a": 2.5})
    log.close()
    assert path.read_text() == '{"iteration": 1, "a": 1}\n{"iteration": 2, "a": 2.5}\n'


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '{"a": 1}', '{"iteration": 1.5}', '{"iteration": 2, "a": NaN}', "", "[" * 9999],
)
def test_a_damaged_line_is_named(path: Path, line: str) -> None:
    path.write_text(f'{{"iteration": 1}}\n{line}\n{{"iteration": 3}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)
    with pytest.raises(InputError, match="line 2"):
        cut_metrics(path, 1)


def test_an_iteration_twice_is_a_damaged_record(path: Path) -> None:
    path.write_text('{"iteration": 1}\n{"iteration": 1}\n')
    with pytest.raises(InputError, match="line 2"):
        read_metrics(path)


def test_a_line_that_cannot_be_written_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path, tensorboard=False)
    log.write(1, {"a": 1})
    real = os.write
    room = 10

    def almost_full(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        written = real(descriptor, data[:room])
        room -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", almost_full)
        log.write(2, {"a": 2})
        log.write(3, {"a": 3})
        with pytest.raises(OSError, match="No space"):
            log.flush()
    assert read_metrics(path) == [{"iteration": 1, "a": 1}]
    log.write(4, {"a": 4})
    log.close()
    assert [line["a"] for line in read_metrics(path)] == [1, 2, 3, 4]


def test_tensorboard_shows_the_record_and_forgets_what_a_restart_repeats(path: Path) -> None:
    log = Log(path)
    for n in range(1, 6):
        log.write(n, {"train/loss": n / 2, "nan": math.nan})
    log.close()
    assert points(path.parent, "train/loss") == [(n, n / 2) for n in range(1, 6)]
    time.sleep(1 - time.time() % 1)  # TensorBoard reads files by the second in their names
    log = Log(path, after=3)  # back to the checkpoint of iteration 3
    log.write(4, {"train/loss": 40.0})
    log.close()
    assert points(path.parent, "train/loss") == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 40.0)]


def test_trouble_with_tensorboard_ends_the_view_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log = Log(path)
    log.write(1, {"a": 1})
    monkeypatch.setattr(TensorBoard, "write", full)
    with pytest.warns(RunWarning, match="no more TensorBoard"):
        log.write(2, {"a": 2})
    log.write(3, {"a": 3})
    log.close()
    assert len(read_metrics(path)) == 3


def test_tensorboard_is_imported_on_first_use_only() -> None:
    code = "import sys, metarl.log, metarl.runs; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_thinned_metrics_keep_both_ends_of_each_kind() -> None:
    train = [{"iteration": 10 * n, "train/loss": n / 7} for n in range(1, 1001)]
    validation = [{"iteration": 10 * n + 1, "validation/loss": None} for n in range(1, 1001, 200)]
    lines = sorted(train + validation, key=lambda line: line["iteration"])
    thin = [json.loads(line) for line in thin_metrics(lines, 40).splitlines()]
    assert [line["iteration"] for line in thin] == sorted(line["iteration"] for line in thin)
    kept = [line["iteration"] for line in thin if "train/loss" in line]
    assert (kept[0], kept[-1], len(kept)) == (10, 10_000, 20)
    assert sum("validation/loss" in line for line in thin) == 5
    assert thin[-1] in ({"iteration": 10_000, "train/loss": 142.857},)
    assert thin_metrics([], 40) == b""


def test_sums_stay_as_they_are_in_thinned_metrics() -> None:
    lines: list[dict[str, Any]] = [
        {"iteration": n, "env_steps": 900.0 if n == 150 else 100.0, "loss": None if n == 90 else n}
        for n in range(1, 368)
    ]
    for line in lines[24::25]:
        line["validation/loss"] = float(line["iteration"])
    thin = [json.loads(line) for line in thin_metrics(lines, 100).splitlines()]
    assert len(thin) < 120
    assert summed(thin, "env_steps")[-1] == pytest.approx(100 * 367 + 800, rel=1e-5)
    told = [line for line in thin if "validation/loss" in line]
    assert all(line["validation/loss"] == line["iteration"] for line in told)
    middle = next(
        line for line in thin if line["iteration"] > 200 and "validation/loss" not in line
    )
    assert middle["loss"] < middle["iteration"]  # a mean since the line before


def test_thinned_metrics_of_few_lines() -> None:
    train = [{"iteration": 10, "train/loss": 1 / 7}]
    assert thin_metrics(train, 40) == b'{"iteration": 10, "train/loss": 0.142857}\n'


def test_tensorboard_groups_tags_and_knows_the_settings(path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import (
        EXPERIMENT_TAG,
        SESSION_START_INFO_TAG,
        parse_experiment_plugin_data,
        parse_session_start_info_plugin_data,
    )

    log = Log(path)
    values = {"inner_lr": 0.1, "env.id": "Task-v0", "first_order": False}
    log.settings = Settings(values, ("validation.return_after",))
    began = time.time()
    log.write(1, {"seconds.sample": 0.5, "return_after": 2.0, "validation.return_after": 1.0})
    log.close()
    view = EventAccumulator(str(path.parent))
    view.Reload()
    tags = {"seconds/sample", "return_after", "validation/return_after"}
    assert set(view.Tags()["scalars"]) == tags
    assert began <= view.Scalars("return_after")[0].wall_time <= time.time()
    data = view.PluginTagToContent("hparams")
    start = parse_session_start_info_plugin_data(data[SESSION_START_INFO_TAG])
    assert start.hparams["inner_lr"].number_value == 0.1
    assert start.hparams["env.id"].string_value == "Task-v0"
    assert start.hparams["first_order"].bool_value is False
    experiment = parse_experiment_plugin_data(data[EXPERIMENT_TAG])
    assert [m.name.tag for m in experiment.metric_infos] == ["validation/return_after"]


def test_a_picture_in_tensorboard(path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    board = TensorBoard(path.parent, 0)
    board.write_picture(7, "adaptation", buffer.getvalue())
    board.close()
    view = EventAccumulator(str(path.parent))
    view.Reload()
    (seen,) = view.Images("adaptation")
    assert (seen.step, seen.width, seen.height) == (7, 30, 20)
    assert seen.encoded_image_string == buffer.getvalue()

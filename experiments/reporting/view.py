"""An evaluation written into its run, with its adaptation curve as a picture in TensorBoard."""

import warnings
from pathlib import Path
from typing import Any

from metarl.log import TensorBoard
from metarl.runs import write_json
from metarl.runs.layout import EVALUATION

from .labels import labels

# Beside the training's events: a reader goes on to a folder's newest file and does not come back.
FOLDER = "evaluation"


def write_evaluation(file: Path, run: Path, evaluation: dict[str, Any]) -> None:
    """Write an evaluation, and show it where it is the run's ``evaluation.json``.

    Raises:
        SaveError: the file cannot be written.
    """
    write_json(file, evaluation)
    if file == run / EVALUATION:
        show_curve(run, evaluation)


def show_curve(path: Path, evaluation: dict[str, Any]) -> None:
    """Add the picture; what goes wrong is a warning, since evaluation.json is the record.

    Args:
        path: run directory.
        evaluation: as in its evaluation.json.
    """
    from ..plots.curves import Curve, adaptation_curves

    log = evaluation["metric"] == "loss"
    try:
        figure = adaptation_curves([Curve(labels([path])[0], evaluation)], log=log)
        (path / FOLDER).mkdir(exist_ok=True)
        view = TensorBoard(path / FOLDER, 0)
        view.write_picture(evaluation["iteration"], "adaptation", figure.light)
        view.close()
    except Exception as error:
        warnings.warn(f"no picture in TensorBoard: {error}", stacklevel=2)

"""The monitor's picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from glialite_distill.monitor import Curves, curves_of_run, judge
from glialite_distill.monitor_figure import draw, draw_runs
from glialite_distill.workspace import Workspace

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("norm", [np.nan, 40.0])
@pytest.mark.parametrize("epochs", [1, 60])
def test_a_picture_is_written_whatever_is_known(epochs: int, norm: float, tmp_path: Path) -> None:
    """With and without a weight norm, a restart, a verdict; nothing is left beside it."""
    epoch = np.arange(epochs, dtype=np.float64)
    step = np.where(epoch < 30, 0.2, 0.9)
    curves = Curves(epoch, -step / 90, -step / 80, step, step, np.full(epochs, norm), (0,) if epochs == 1 else ())
    draw(curves, judge(curves), tmp_path / "curves.png", "grokking, fold 0")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_every_run_gets_a_picture_and_a_row(trained: Workspace, tmp_path: Path) -> None:
    """Three recipes on two folds; one epoch is too few for a verdict, and that is what the row says."""
    rows = draw_runs(trained, tmp_path / "curves")
    names = [f"{recipe}-fold{fold}.png" for recipe in ("baseline", "grokking", "mednext-b") for fold in (0, 1)]
    assert [Path(row["picture"]).name for row in rows] == names
    assert sorted(p.name for p in (tmp_path / "curves").iterdir()) == sorted(names)
    assert {row["sentence"] for row in rows} == {"too few epochs to tell: 1 of at least 40"}


def test_a_long_run_is_drawn_after_the_run_that_it_started_from(trained: Workspace) -> None:
    """The baseline's one epoch, then the restart; the baseline alone has none."""
    assert curves_of_run(trained, "grokking", 0).restarts == (1,)
    assert curves_of_run(trained, "grokking", 0).epoch.tolist() == [0, 1]
    assert curves_of_run(trained, "baseline", 0).restarts == ()

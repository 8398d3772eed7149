"""The long run: its schedule, its restart, and that interrupting it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from glialite_distill.grokking import poly_with_floor
from glialite_distill.prepare import Request, prepare
from glialite_distill.runs import final_checkpoint, fold_folder, read_history, training_record
from glialite_distill.teachers import RunOptions, load_weights, run_teachers
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import TimeLimitReached

EPOCHS = 4


@pytest.fixture
def workspace(cohort: Path, tmp_path: Path) -> Workspace:
    """Return a workspace with a finished baseline on its first fold."""
    made = prepare(Request((cohort,), tmp_path / "w", plan="tiny", folds=2))
    run_teachers(made, ("baseline",), (0,), RunOptions(epochs=1, iterations=1, device="cpu"))
    return made


def options(tmp_path: Path, **more: float | bool) -> RunOptions:
    """Return the options of a short long run whose floor lies within its four epochs."""
    config = tmp_path / "floor.toml"
    config.write_text("[grokking]\nlearning_rate_floor = 0.004\n")
    return RunOptions(epochs=EPOCHS, iterations=2, device="cpu", config=config, **more)


def curves(workspace: Workspace) -> list[dict[str, float]]:
    """Return the history without what a clock decides."""
    rows = read_history(fold_folder(workspace, "grokking", 0))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_published_schedule() -> None:
    """Hand-derived: 0.01 · (1 − epoch / 3500)^0.9; from epoch 3 480 on it would be below 1e-4, and is not."""
    epochs = (0, 1, 100, 1750, 3479, 3480, 3499, 3500, 9999)
    rates = [poly_with_floor(0.01, epoch, 3500, 1e-4) for epoch in epochs]
    assert rates == pytest.approx([0.01, 9.99743e-3, 9.74249e-3, 5.35887e-3, 1.00077e-4, *[1e-4] * 4], rel=1e-4)


def test_the_restart_begins_at_the_first_rate(workspace: Workspace, tmp_path: Path) -> None:
    """The baseline's rate had fallen; the long run starts from its weights at the full rate and stops at the floor."""
    run_teachers(workspace, ("grokking",), (0,), options(tmp_path))
    assert training_record(workspace, "grokking", 0)["warm_start"]["recipe"] == "baseline"
    rates = [row["learning_rate"] for row in curves(workspace)]
    assert rates == pytest.approx([0.01, 0.00771889, 0.00535887, 0.004], rel=1e-4)


def test_interrupting_after_every_epoch_changes_no_bit(workspace: Workspace, tmp_path: Path) -> None:
    """Stopped three times and continued: losses, Dice, rates and weight norms to the last digit, and the weights."""
    run_teachers(workspace, ("grokking",), (0,), options(tmp_path))
    whole = curves(workspace)
    weights = load_weights(final_checkpoint(workspace, "grokking", 0))
    with pytest.raises(TimeLimitReached, match=f"epoch 1 of {EPOCHS}"):
        run_teachers(workspace, ("grokking",), (0,), options(tmp_path, time_limit_s=1e-9, restart=True))
    for epoch in (2, 3):
        with pytest.raises(TimeLimitReached, match=f"epoch {epoch} of {EPOCHS}"):
            run_teachers(workspace, ("grokking",), (0,), options(tmp_path, time_limit_s=1e-9))
    run_teachers(workspace, ("grokking",), (0,), options(tmp_path, time_limit_s=1e-9))
    assert [row["epoch"] for row in whole] == list(range(EPOCHS))
    assert curves(workspace) == whole
    resumed = load_weights(final_checkpoint(workspace, "grokking", 0))
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)

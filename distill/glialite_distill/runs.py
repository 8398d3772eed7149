"""What lies on disk about teacher runs: folders, what each was begun with, its history."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Final

from glialite_runtime.files import write_bytes

from glialite_distill.recipes import find_recipe, trainer_name
from glialite_distill.workspace import Workspace, plans_name, results_folder

__all__ = [
    "final_checkpoint",
    "fold_folder",
    "latest_checkpoint",
    "read_history",
    "record_file",
    "trained_folds",
    "training_record",
    "write_history",
]

HISTORY: Final = (
    "epoch", "train_loss", "validation_loss", "dice_wt", "dice_tc", "dice_et", "dice_mean", "dice_ema",
    "learning_rate", "seconds", "weight_norm",
)  # fmt: skip
"""Columns of `history.csv`, one row an epoch; Dice is nnU-Net's pseudo Dice on validation patches, `weight_norm` the L2
norm of all weights together (NaN where it is not known)."""


def fold_folder(workspace: Workspace, recipe: str, fold: int) -> Path:
    """Return nnU-Net's results folder of a recipe and fold."""
    configuration = find_recipe(recipe).configuration
    name = f"{trainer_name(recipe)}__{plans_name(workspace.plan)}__{configuration}"
    return results_folder(workspace.root) / name / f"fold_{fold}"


def final_checkpoint(workspace: Workspace, recipe: str, fold: int) -> Path:
    """Return where the final checkpoint lies; it is there when, and only when, training is finished."""
    return fold_folder(workspace, recipe, fold) / "checkpoint_final.pth"


def latest_checkpoint(workspace: Workspace, recipe: str, fold: int) -> Path:
    """Return where the state of an unfinished run lies."""
    return fold_folder(workspace, recipe, fold) / "checkpoint_latest.pth"


def record_file(workspace: Workspace, recipe: str, fold: int) -> Path:
    """Return where what a run was begun with is written."""
    return fold_folder(workspace, recipe, fold) / "teacher.json"


def trained_folds(workspace: Workspace, recipe: str) -> tuple[int, ...]:
    """Return the folds of which the recipe has a finished teacher."""
    return tuple(f for f in range(len(workspace.splits)) if final_checkpoint(workspace, recipe, f).is_file())


def training_record(workspace: Workspace, recipe: str, fold: int) -> dict[str, Any]:
    """Return what a run was begun with, empty when there is no run; `teachers` writes it."""
    path = record_file(workspace, recipe, fold)
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record


def write_history(folder: Path, rows: list[dict[str, float]]) -> None:
    """Write `history.csv`, whole, in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: int(v) if k == "epoch" else f"{v:.6g}" for k, v in row.items()} for row in rows)
    write_bytes(folder / "history.csv", text.getvalue().encode())


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the rows of `history.csv`, none when there is no file; a column that an older version lacks is NaN."""
    path = folder / "history.csv"
    if not path.is_file():
        return []
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return [{key: float(row.get(key) or "nan") for key in HISTORY} for row in rows]

"""What lies on disk about teacher runs: folders, what each was begun with, its history, the status table."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any, Final

from glialite_runtime.files import write_bytes

from glialite_distill.recipes import RECIPES, trainer_name
from glialite_distill.workspace import CONFIGURATION, Workspace, plans_name, results_folder

__all__ = [
    "final_checkpoint",
    "fold_folder",
    "latest_checkpoint",
    "record_file",
    "status",
    "trained_folds",
    "training_record",
    "write_history",
]

HISTORY: Final = (
    "epoch", "train_loss", "validation_loss", "dice_wt", "dice_tc", "dice_et", "dice_mean", "dice_ema",
    "learning_rate", "seconds",
)  # fmt: skip
"""Columns of `history.csv`, one row an epoch; Dice is nnU-Net's pseudo Dice on validation patches."""


def fold_folder(workspace: Workspace, recipe: str, fold: int) -> Path:
    """Return nnU-Net's results folder of a recipe and fold."""
    name = f"{trainer_name(recipe)}__{plans_name(workspace.plan)}__{CONFIGURATION}"
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


def status(workspace: Workspace) -> list[dict[str, Any]]:
    """Return one row for each recipe and fold that was begun.

    Returns
    -------
    list of dict
        `recipe`, `fold`, `state` ("finished" or "interrupted"), `epoch` and `epochs` (done and wanted), `last_dice` and
        `best_dice` (nnU-Net's pseudo Dice, averaged over epochs with 0.9; None before the first), `eta_s`.
    """
    rows = []
    for recipe in RECIPES:
        for fold in range(len(workspace.splits)):
            record = training_record(workspace, recipe, fold)
            if record:
                rows.append(_status_row(workspace, recipe, fold, record["epochs"]))
    return rows


def _status_row(workspace: Workspace, recipe: str, fold: int, epochs: int) -> dict[str, Any]:
    path = fold_folder(workspace, recipe, fold) / "history.csv"
    history = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.is_file() else []
    averages = [float(row["dice_ema"]) for row in history]
    finished = final_checkpoint(workspace, recipe, fold).is_file()
    pace = statistics.median(float(row["seconds"]) for row in history[-10:]) if history else None
    return {
        "recipe": recipe,
        "fold": fold,
        "state": "finished" if finished else "interrupted",
        "epoch": len(history),
        "epochs": epochs,
        "last_dice": averages[-1] if averages else None,
        "best_dice": max(averages) if averages else None,
        "eta_s": 0.0 if finished else None if pace is None else pace * (epochs - len(history)),
    }

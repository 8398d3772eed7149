"""How far every teacher is: one row a recipe and fold, and the table of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

from glialite_distill.recipes import RECIPES
from glialite_distill.runs import final_checkpoint, fold_folder, read_history, training_record
from glialite_distill.slurm_queue import queued_jobs
from glialite_distill.training_lock import being_trained
from glialite_distill.workspace import Workspace

__all__ = ["duration", "status", "status_table", "watch_status"]

_REFRESH_S: Final = 2.0


def status(workspace: Workspace) -> list[dict[str, Any]]:
    """Return one row for each recipe and fold that was begun or waits in SLURM's queue.

    Returns
    -------
    list of dict
        `recipe`, `fold`, `state` ("queued", "running", "interrupted" or "finished"), `job` (the last SLURM job, None
        without one), `epoch` and `epochs` (done and wanted; wanted is None before the first start), `last_dice` and
        `best_dice` (nnU-Net's pseudo Dice, averaged over epochs with 0.9; None before the first), `eta_s`.
    """
    queue = queued_jobs(workspace)
    rows = []
    for recipe in RECIPES:
        for fold in range(len(workspace.splits)):
            record = training_record(workspace, recipe, fold)
            job, queued = queue.get((recipe, fold), (None, None))
            if record or queued:
                rows.append({**_row(workspace, recipe, fold, record.get("epochs"), queued), "job": job})
    return rows


def _row(workspace: Workspace, recipe: str, fold: int, epochs: int | None, queued: str | None) -> dict[str, Any]:
    history = read_history(fold_folder(workspace, recipe, fold))
    averages = [row["dice_ema"] for row in history]
    pace = statistics.median(row["seconds"] for row in history[-10:]) if history else None
    finished = final_checkpoint(workspace, recipe, fold).is_file()
    running = queued == "RUNNING" or being_trained(workspace, recipe, fold)
    left = None if pace is None or epochs is None else pace * (epochs - len(history))
    return {
        "recipe": recipe,
        "fold": fold,
        "state": "finished" if finished else "running" if running else "queued" if queued else "interrupted",
        "epoch": len(history),
        "epochs": epochs,
        "last_dice": averages[-1] if averages else None,
        "best_dice": max(averages) if averages else None,
        "eta_s": 0.0 if finished else left,
    }


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: 45 s, 12 min, 30.5 h."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"


def status_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as lines for a terminal."""
    if not rows:
        return "no teacher has been begun"
    wide = max(len("recipe"), *(len(row["recipe"]) for row in rows))
    lines = [
        f"{'recipe':<{wide}}  {'fold':>4}  {'epoch':>11}  {'last Dice':>9}  {'best Dice':>9}  {'ETA':>7}  "
        f"{'state':<11}  job"
    ]
    for row in rows:
        last, best = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("last_dice", "best_dice"))
        eta = "-" if row["eta_s"] is None else duration(row["eta_s"])
        done = f"{row['epoch']}/{row['epochs'] or '-'}"
        lines.append(
            f"{row['recipe']:<{wide}}  {row['fold']:>4}  {done:>11}  {last:>9}  {best:>9}  {eta:>7}  "
            f"{row['state']:<11}  {row['job'] or '-'}"
        )
    return "\n".join(lines)


def watch_status(workspace: Workspace) -> None:
    """Show the table and refresh it in place until nothing is queued or running, or Ctrl-C.

    Where stdout is no terminal, the last table alone is printed.
    """
    from rich.live import Live  # noqa: PLC0415 - a tenth of a second that only this needs
    from rich.text import Text  # noqa: PLC0415

    with Live(auto_refresh=False) as live:
        while True:
            rows = status(workspace)
            live.update(Text(status_table(rows), no_wrap=True), refresh=True)
            if not any(row["state"] in ("queued", "running") for row in rows):
                return
            time.sleep(_REFRESH_S)

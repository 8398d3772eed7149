"""How a training went: rows of figures, their CSV file and their picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from glialite_runtime.files import write_bytes
from glialite_runtime.sequences import REGIONS

from glialite_distill.figures import new_figure, save_figure

__all__ = ["LOSSES", "HistoryRow", "write_curve", "write_history"]

LOSSES: Final = ("loss", "dice_loss", "bce", "soft", "assistant", "features", "unlabelled")
"""The losses of a `HistoryRow`, and of `LossTerms`, in their order: the total and its parts."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """What is known after some iterations.

    Attributes
    ----------
    iteration : int
        Iterations done.
    learning_rate : float
        Of the last of them.
    loss, dice_loss, bce, soft, assistant, features, unlabelled : float
        Means over the iterations since the row before: the total, and its parts before their weights.
    dice_wt, dice_tc, dice_et : float
        Mean Dice of the averaged weights over whole validation cases; NaN when no case counts.
    """

    iteration: int
    learning_rate: float
    loss: float
    dice_loss: float
    bce: float
    soft: float
    assistant: float
    features: float
    unlabelled: float
    dice_wt: float
    dice_tc: float
    dice_et: float


def write_history(path: Path, rows: Sequence[HistoryRow]) -> None:
    """Write the rows as CSV in one step; NaN is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [f.name for f in fields(HistoryRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if math.isnan(value) else f"{value:.6g}" for name, value in asdict(row).items()})
    write_bytes(path, stream.getvalue().encode())


def write_curve(path: Path, rows: Sequence[HistoryRow]) -> None:
    """Draw loss and validation Dice over the iterations as PNG, in one step."""
    figure = new_figure(8, 4)
    left, right = figure.subplots(1, 2)
    at = [row.iteration for row in rows]
    for name in LOSSES:
        if any(values := [getattr(row, name) for row in rows]):  # a part that the training has
            left.plot(at, values, label=name.replace("_", " "))
    left.set(title="Training loss", xlabel="iteration", yscale="log")
    for region in REGIONS:
        right.plot(at, [getattr(row, f"dice_{region.lower()}") for row in rows], marker=".", label=region)
    right.set(title="Validation Dice", xlabel="iteration", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(path, figure)

"""What every member is worth: the ensemble without each of them, each alone, and the ways to weigh them, side by side.

More members are not always better, so this is measured for every ensemble. Scores are Dice on out-of-fold predictions,
each region by itself at a threshold of 0.5, before any minimum size. Weights that are chosen by looking at cases
(learnt, and nnU-Net's best single member or pair) are scored on a fold after choosing them on the other folds; a single
fold has no such rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from glialite_runtime.sequences import REGIONS

from glialite_distill.automatic_choice import best_configuration
from glialite_distill.member_weights import (
    Evidence,
    MemberWeights,
    equal_weights,
    hybrid_weights,
    learn_weights,
    mean_dice,
)

__all__ = ["MemberRow", "csv_text", "markdown", "member_table", "rows_json"]


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One ensemble.

    Attributes
    ----------
    members : str
        "all", "without X" or "only X".
    weights : str
        See `member_weights.CHOICES`.
    dice : tuple of float
        Mean over the cases, in the order of `REGIONS`.
    """

    members: str
    weights: str
    dice: tuple[float, float, float]

    @property
    def mean(self) -> float:
        """Mean over the regions."""
        return sum(self.dice) / len(self.dice)


def member_table(cases: Sequence[Evidence], names: Sequence[str]) -> tuple[MemberRow, ...]:
    """Return the table, the whole ensemble with equal weights first.

    Parameters
    ----------
    cases : sequence of Evidence
        Out-of-fold predictions, at least one.
    names : sequence of str
        The members, in the order of `Evidence.levels`.
    """
    rows = []
    sets = [("all", list(range(len(names))))]
    if len(names) > 1:
        sets += [(f"without {name}", [i for i in range(len(names)) if i != k]) for k, name in enumerate(names)]
    for label, among in sets:
        rows.append(_row(label, "equal", mean_dice(cases, equal_weights(names, among))))
        if label == "all" and {"baseline", "grokking"} <= set(names):
            rows.append(_row(label, "hybrid", mean_dice(cases, hybrid_weights(names))))
        learnt = _cross_fitted(cases, partial(learn_weights, names=names, among=among))
        rows += [] if learnt is None else [_row(label, "learnt", learnt)]
        best = _cross_fitted(cases, partial(best_configuration, names=names)) if label == "all" else None
        rows += [] if best is None else [_row(label, "best", best)]
    if len(names) > 1:
        rows += [_row(f"only {n}", "equal", mean_dice(cases, equal_weights(names, [k]))) for k, n in enumerate(names)]
    return tuple(rows)


def _row(members: str, weights: str, scores: npt.NDArray[np.float64]) -> MemberRow:
    wt, tc, et = scores.mean(0).tolist()
    return MemberRow(members, weights, (wt, tc, et))


def _cross_fitted(
    cases: Sequence[Evidence], learn: Callable[[Sequence[Evidence]], MemberWeights]
) -> npt.NDArray[np.float64] | None:
    """Return the Dice (cases, 3) of learnt weights on cases that they were not learnt on; None for a single fold."""
    folds = sorted({case.fold for case in cases})
    if len(folds) < 2:
        return None
    parts = []
    for fold in folds:
        weights = learn([c for c in cases if c.fold != fold])
        parts.append(mean_dice([c for c in cases if c.fold == fold], weights))
    return np.concatenate(parts)


def rows_json(rows: Sequence[MemberRow]) -> list[dict[str, Any]]:
    """Return the table ready for JSON; `against_all` is the difference in mean Dice to the first row."""
    return [
        {
            "members": row.members,
            "weights": row.weights,
            "dice": dict(zip(REGIONS, row.dice, strict=True)),
            "mean_dice": row.mean,
            "against_all": row.mean - rows[0].mean,
        }
        for row in rows
    ]


def csv_text(rows: Sequence[MemberRow]) -> str:
    """Return members, weights, dice_WT, dice_TC, dice_ET, mean_dice, against_all: one line an ensemble."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["members", "weights", *(f"dice_{region}" for region in REGIONS), "mean_dice", "against_all"])
    for row in rows:
        values = (*row.dice, row.mean, row.mean - rows[0].mean)
        writer.writerow([row.members, row.weights, *(f"{value:.6f}" for value in values)])
    return stream.getvalue()


def markdown(rows: Sequence[MemberRow], cases: int) -> str:
    """Return the table for people, with a sentence on what it shows."""
    lines = [
        f"Mean Dice of {cases} cases, predicted out of fold; every region by itself at 0.5, no minimum sizes. Learnt "
        "and best weights were chosen on the other folds.",
        "",
        f"| members | weights | {' | '.join(REGIONS)} | mean | against all |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = " | ".join(f"{value:.3f}" for value in (*row.dice, row.mean))
        lines.append(f"| {row.members} | {row.weights} | {cells} | {row.mean - rows[0].mean:+.3f} |")
    return "\n".join(lines) + "\n"

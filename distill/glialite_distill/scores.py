"""`teacher-train evaluate`: scores of one folder of label maps against another, as a CSV table."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glialite_runtime.errors import GeometryError, InputError
from glialite_runtime.files import write_bytes
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.sequences import REGIONS

from glialite_distill.cohort import read_labels

__all__ = ["ROWS", "PlainScore", "find_label_maps", "plain_scores", "summary", "write_plain_csv"]

ROWS: Final = ("ET", "TC", "WT")
"""Order of a case's rows, as in the challenge's tables."""


@dataclass(frozen=True, slots=True)
class PlainScore:
    """Dice of one region of one case; NaN where neither reference nor prediction has the region."""

    case: str
    region: str
    dice: float


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Return case -> label map of a folder of `<case>/<case>-seg.nii.gz`, `<case>-seg.nii.gz` or `<case>.nii.gz`.

    Raises
    ------
    InputError
        There is none, or two files claim to be the same case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that holds label maps")
    found: dict[str, Path] = {}
    candidates = sorted(folder.glob("*.nii.gz")) + sorted(folder.glob("*/*-seg.nii.gz"))
    for path in candidates:
        case = path.name.removesuffix(".nii.gz").removesuffix("-seg")
        if case in found:
            raise InputError(f"both {found[case]} and {path} claim to be the label map of {case}")
        found[case] = path
    if not found:
        raise InputError(f"{folder} holds no label map (<case>/<case>-seg.nii.gz or <case>.nii.gz)")
    return found


def plain_scores(reference: Path, prediction: Path, conventions: tuple[str, str]) -> list[PlainScore]:
    """Return the Dice of every region of every reference case, cases by name, rows as in `ROWS`.

    Parameters
    ----------
    reference, prediction : Path
        Folders of label maps; predictions of cases without reference are ignored.
    conventions : tuple of str
        Label conventions of reference and prediction.

    Raises
    ------
    InputError
        A prediction is missing, or a file cannot be read.
    GeometryError
        The two label maps of a case have different shapes.
    """
    truths, predictions = find_label_maps(reference), find_label_maps(prediction)
    if missing := sorted(set(truths) - set(predictions)):
        raise InputError(f"{prediction} has no label map for {', '.join(missing)}")
    scores = []
    for case in sorted(truths):
        _, truth = read_labels(truths[case], conventions[0])
        _, predicted = read_labels(predictions[case], conventions[1])
        if truth.shape != predicted.shape:
            raise GeometryError(f"{predictions[case]} has the shape {predicted.shape}, its reference {truth.shape}")
        dice = dict(zip(REGIONS, dice_per_region(predicted, truth), strict=True))
        scores += [PlainScore(case, region, dice[region]) for region in ROWS]
    return scores


def summary(scores: Sequence[PlainScore]) -> dict[str, dict[str, float | int | None]]:
    """Return region -> mean, SD (n − 1; None below two values) and number of cases that have a Dice."""
    rows: dict[str, dict[str, float | int | None]] = {}
    for region in ROWS:
        values = [s.dice for s in scores if s.region == region and not math.isnan(s.dice)]
        rows[region] = {
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "cases": len(values),
        }
    return rows


def write_plain_csv(path: Path, scores: Sequence[PlainScore]) -> None:
    """Write `case,Labels,Dice`, one row a case and region; an empty cell where Dice is not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "Labels", "Dice"])
    writer.writerows([s.case, s.region, "" if math.isnan(s.dice) else f"{s.dice:.6f}"] for s in scores)
    write_bytes(path, text.getvalue().encode())

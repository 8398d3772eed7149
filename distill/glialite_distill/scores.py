"""Scores of label maps against a reference, by case and region, and their CSV table."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.files import write_bytes
from glialite_runtime.measure import volumes_ml
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.sequences import REGION_LABELS, REGIONS

from glialite_distill.label_maps import Model, Pair, find_pairs, read_pair
from glialite_distill.lesion_definitions import DEFINITIONS, Definition, definition_of
from glialite_distill.lesionwise import lesionwise_scores
from glialite_distill.surface_distance import bounding_box, hd95_mm, normalised_surface_dice, surface_of

__all__ = ["COLUMNS", "METRICS", "ROWS", "Score", "Settings", "score_folders", "score_pair", "summary", "write_csv"]

ROWS: Final = ("ET", "TC", "WT")
"""Order of a case's rows, as in the challenge's tables."""

_BEFORE_LESIONS: Final = ("Num_TP", "Num_FP", "Num_FN", "Sensitivity", "Specificity", "Legacy_Dice", "Legacy_HD95")
_LESIONS: Final = ("GT_Complete_Volume", "LesionWise_Score_Dice", "LesionWise_Score_HD95")
_VOLUMES: Final = ("Reference_mL", "Predicted_mL", "Volume_Error_mL", "Volume_Error_Percent")

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "plain": ("Dice", "HD95", "NSD @ 0.5", "NSD @ 1.0", *_VOLUMES),
        "brats-2023": (*_BEFORE_LESIONS, *_LESIONS),
        "brats-2024": (
            *_BEFORE_LESIONS,
            "Legacy NSD @ 0.5",
            "Legacy NSD @ 1.0",
            *_LESIONS,
            "LesionWise_Score_NSD @ 0.5",
            "LesionWise_Score_NSD @ 1.0",
        ),
    }
)
"""Metric -> columns of its CSV table after `case` and `Labels`; those of the BraTS metrics are the challenge's."""

METRICS: Final = tuple(COLUMNS)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is computed.

    Attributes
    ----------
    metric : str
        One of `METRICS`.
    challenge : str
        Whose constants the BraTS metrics take: ssa, gli, ped or met.
    conventions : tuple of str
        Label conventions of reference and predictions.
    """

    metric: str = "plain"
    challenge: str = "ssa"
    conventions: tuple[str, str] = ("brats2023", "brats2023")

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"unknown metric {self.metric!r}; known: {', '.join(METRICS)}")
        if self.metric in DEFINITIONS:
            definition_of(self.metric, self.challenge)


@dataclass(frozen=True, slots=True)
class Score:
    """Scores of one region of one case by one model.

    Attributes
    ----------
    reference_ml, predicted_ml : float
        Volumes of the region in the two label maps.
    values : mapping of str to float
        Column -> value; NaN where it is not defined.
    """

    model: str
    case: str
    region: str
    reference_ml: float
    predicted_ml: float
    values: Mapping[str, float]


def _volumes_ml(pair: Pair) -> dict[str, tuple[float, float]]:
    """Return region -> mL in the reference and in the prediction."""
    reference, predicted = (volumes_ml(labels, pair.voxel_mm3) for labels in (pair.reference, pair.prediction))
    return {region: (reference[region] or 0.0, predicted[region] or 0.0) for region in ROWS}


def _plain_values(pair: Pair, volumes: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Return region -> Dice, HD95 in mm, NSD and volume error of whole images.

    A region that both sides lack has no score (NaN); one that one side lacks has Dice and NSD 0 and the image's
    diagonal as HD95, so that a miss never improves a mean. The volume error is predicted minus true, in per cent of
    the true volume where there is any.
    """
    diagonal_mm = math.hypot(*(n * mm for n, mm in zip(pair.reference.shape, pair.spacing_mm, strict=True)))
    box = bounding_box((pair.reference > 0) | (pair.prediction > 0))
    reference, prediction = pair.reference[box], pair.prediction[box]
    dice = dict(zip(REGIONS, dice_per_region(prediction, reference), strict=True))
    found = {}
    for region, (true_ml, predicted_ml) in volumes.items():
        masks = (np.isin(labels, REGION_LABELS[region]).astype(np.uint8) for labels in (reference, prediction))
        truth, predicted = (surface_of(mask, pair.spacing_mm) for mask in masks)
        distance = hd95_mm(truth, predicted)
        finite = distance if math.isfinite(distance) else diagonal_mm
        values = [dice[region], finite, *normalised_surface_dice(truth, predicted)]
        if math.isnan(dice[region]):
            values = [math.nan] * len(values)
        error = predicted_ml - true_ml
        values += [true_ml, predicted_ml, error, 100 * error / true_ml if true_ml else math.nan]
        found[region] = dict(zip(COLUMNS["plain"], values, strict=True))
    return found


def _brats_values(pair: Pair, definition: Definition) -> dict[str, dict[str, float]]:
    found = {}
    for region, s in lesionwise_scores(pair.reference, pair.prediction, pair.spacing_mm, definition).items():
        found[region] = {
            "Num_TP": float(s.true_positives),
            "Num_FP": float(s.false_positives),
            "Num_FN": float(s.false_negatives),
            "Sensitivity": s.sensitivity,
            "Specificity": s.specificity,
            "Legacy_Dice": s.whole.dice,
            "Legacy_HD95": s.whole.hd95_mm,
            "Legacy NSD @ 0.5": s.whole.nsd_half,
            "Legacy NSD @ 1.0": s.whole.nsd_one,
            "GT_Complete_Volume": s.reference_mm3,
            "LesionWise_Score_Dice": s.lesions.dice,
            "LesionWise_Score_HD95": s.lesions.hd95_mm,
            "LesionWise_Score_NSD @ 0.5": s.lesions.nsd_half,
            "LesionWise_Score_NSD @ 1.0": s.lesions.nsd_one,
        }
    return found


def score_pair(model: str, case: str, pair: Pair, settings: Settings) -> list[Score]:
    """Return the scores of one case by one model, regions as in `ROWS`."""
    volumes, columns = _volumes_ml(pair), COLUMNS[settings.metric]
    if settings.metric == "plain":
        found = _plain_values(pair, volumes)
    else:
        found = _brats_values(pair, definition_of(settings.metric, settings.challenge))
    values = {region: MappingProxyType({c: found[region][c] for c in columns}) for region in ROWS}
    return [Score(model, case, region, *volumes[region], values[region]) for region in ROWS]


def score_folders(
    reference: Path,
    models: Sequence[Model],
    settings: Settings,
    progress: Callable[..., Iterable[Any]] = lambda items, **_: items,
) -> list[Score]:
    """Return the scores of every case of the reference: models in their order, cases by name, regions as in `ROWS`.

    Raises
    ------
    InputError
        Predictions are missing, or label maps cannot be read or compared; the message lists all of them.
    """
    scores: list[Score] = []
    pairs, problems = find_pairs(reference, models)
    for model, case, truth, prediction in progress(pairs, label="evaluate"):
        try:
            pair = read_pair(truth, prediction, settings.conventions)
        except InputError as error:
            problems.append(f"{case}: {error}")
            continue
        if not problems:  # after the first problem the others are only looked for
            scores += score_pair(model.name, case, pair, settings)
    if problems:
        listed = "\n  ".join(dict.fromkeys(problems))
        raise InputError(f"the label maps cannot be compared; {len(set(problems))} problem(s):\n  {listed}")
    return scores


def summary(scores: Sequence[Score]) -> dict[str, dict[str, dict[str, dict[str, float | int | None]]]]:
    """Return region -> model -> column -> mean, SD (n − 1; None below two values) and cases that have a value."""
    rows: dict[str, Any] = {}
    for region in ROWS:
        for model in dict.fromkeys(s.model for s in scores):
            own = [s for s in scores if s.region == region and s.model == model]
            rows.setdefault(region, {})[model] = {
                column: _mean_sd([s.values[column] for s in own]) for column in (own[0].values if own else ())
            }
    return rows


def _mean_sd(values: Iterable[float]) -> dict[str, float | int | None]:
    known = [v for v in values if not math.isnan(v)]
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "cases": len(known),
    }


def write_csv(path: Path, scores: Sequence[Score], metric: str) -> None:
    """Write one row a case and region, an empty cell where a value is not defined.

    The columns are `case`, `Labels` and those of the metric; `model` comes first where there are several.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = len({s.model for s in scores}) > 1
    writer.writerow([*(["model"] if several else []), "case", "Labels", *COLUMNS[metric]])
    for s in scores:
        cells = ["" if math.isnan(v) else repr(v) for v in (float(s.values[c]) for c in COLUMNS[metric])]
        writer.writerow([*([s.model] if several else []), s.case, s.region, *cells])
    write_bytes(path, text.getvalue().encode())

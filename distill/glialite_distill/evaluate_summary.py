"""What an evaluation says of each source, ready for JSON and CSV: means with intervals, volumes, reliability."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from glialite_calibration.bootstrap import Bootstrap, Interval, mean_interval, ratio_interval
from glialite_calibration.logit_counts import LogitCounts
from glialite_calibration.reliability import reliability
from glialite_calibration.temperature import UNCHANGED, Temperatures
from glialite_runtime.measure import VolumeInterval
from glialite_runtime.sequences import REGIONS, SEQUENCES

from glialite_distill.cohort import patient_of
from glialite_distill.evaluate_scores import CaseScore, Evaluation

__all__ = ["HeldOutFit", "cases_json", "csv_text", "reliability_json", "subset_rows", "summarise"]

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeldOutFit:
    """What was fitted for one network on cases that training never saw; tuples in the order of `REGIONS`.

    Attributes
    ----------
    cases : tuple of str
        One a patient.
    temperatures : tuple of float
        What its logits are divided by before they are read as probabilities.
    thresholds : tuple of float, optional
        The probabilities, read so, from which its labels begin; the labels themselves do not change. None where the
        rule is not known.
    intervals : tuple of VolumeInterval
        Around its volumes.
    """

    cases: tuple[str, ...]
    temperatures: Temperatures
    thresholds: tuple[float, float, float] | None
    intervals: tuple[VolumeInterval, VolumeInterval, VolumeInterval]

    def to_json(self) -> dict[str, Any]:
        """Return what a bundle may carry."""
        return {
            "cases": list(self.cases),
            "temperature": _by_region(self.temperatures),
            "thresholds": None if self.thresholds is None else _by_region(self.thresholds),
            "volume_intervals": {
                region: {"rate": i.rate, "low": i.low, "high": i.high}
                for region, i in zip(REGIONS, self.intervals, strict=True)
            },
        }


def summarise(
    evaluation: Evaluation, fits: Mapping[str, HeldOutFit], reference: str | None = None
) -> list[dict[str, Any]]:
    """Return a row a source, ready for JSON.

    Means are over the cases in which a figure is defined (`counted` says how many); None where there is none. Intervals
    are bootstrap percentiles at 95 % over patients. `ratio` is the mean Dice as a share of the reference's;
    `volume_coverage` the share of the cases whose true volume lies in the interval learnt on other cases.
    """
    whole = [s for s in evaluation.scores if not s.withheld]
    own = {name: [s for s in whole if s.source == name] for name in dict.fromkeys(s.source for s in whole)}
    compared = None if reference is None else _dice(own[reference])
    return [_row(name, scores, fits.get(name), None if name == reference else compared) for name, scores in own.items()]


def _dice(scores: Sequence[CaseScore]) -> _Values:
    return np.array([s.dice for s in scores], np.float64)


def _row(name: str, scores: Sequence[CaseScore], fit: HeldOutFit | None, reference: _Values | None) -> dict[str, Any]:
    dice, how = _dice(scores), Bootstrap(tuple(patient_of(s.case) for s in scores))
    mean = mean_interval(dice, how)
    errors = np.array([s.predicted_ml for s in scores]) - np.array([s.true_ml for s in scores])
    false_ml = [s.false_positive_ml for s in scores]
    return {
        "source": name,
        **_dice_json(dice, how),
        "mean_dice": _number(mean.value),
        "mean_dice_95": [_number(mean.low), _number(mean.high)],
        "ratio": None if reference is None else _interval_json(ratio_interval(dice, reference, how)),
        "volume_error_ml": {
            r: {"mean": _mean(errors[:, i]), "mean_absolute": _mean(np.abs(errors[:, i]))}
            for i, r in enumerate(REGIONS)
        },
        "volume_interval_rate": None if fit is None else fit.intervals[0].rate,
        "volume_coverage": None if fit is None else _coverage(scores, fit, how),
        "tumour_free_cases": sum(not math.isnan(ml) for ml in false_ml),
        "false_positive_ml": _mean(false_ml),
        "largest_false_positive_ml": _number(float(np.nanmax([*false_ml, -math.inf]))),
    }


def _dice_json(dice: _Values, how: Bootstrap) -> dict[str, Any]:
    """Return mean Dice by region, `_95` their intervals, and how many cases there are and were counted."""
    regions = [mean_interval(dice[:, [i]], how) for i in range(len(REGIONS))]
    return {
        "cases": len(dice),
        "dice": _by_region(_number(r.value) for r in regions),
        "dice_95": _by_region([_number(r.low), _number(r.high)] for r in regions),
        "counted": _by_region(int(n) for n in (~np.isnan(dice)).sum(0)),
    }


def _coverage(scores: Sequence[CaseScore], fit: HeldOutFit, how: Bootstrap) -> dict[str, Any]:
    rows = [
        [
            math.nan if math.isnan(predicted) else float(interval.holds(predicted, true))
            for interval, predicted, true in zip(fit.intervals, s.predicted_ml, s.true_ml, strict=True)
        ]
        for s in scores
    ]
    held = np.array(rows)
    return {r: _interval_json(mean_interval(held[:, [i]], how)) for i, r in enumerate(REGIONS)}


def subset_rows(scores: Iterable[CaseScore]) -> list[dict[str, Any]]:
    """Return a row a source and set of sequences that it was shown: mean Dice by region, None where not reported.

    Only cases that have all four sequences count, so that every row is about the same cases. Empty when no sequence
    was withheld from any source.
    """
    found = list(scores)
    complete = {(s.source, s.case) for s in found if s.sequences == SEQUENCES}
    sources = dict.fromkeys(s.source for s in found if s.withheld)
    rows = []
    for source in sources:
        own = [s for s in found if s.source == source and (source, s.case) in complete]
        for shown in dict.fromkeys(s.sequences for s in own):
            part = [s for s in own if s.sequences == shown]
            how = Bootstrap(tuple(patient_of(s.case) for s in part))
            rows.append({"source": source, "sequences": list(shown), **_dice_json(_dice(part), how)})
    return rows


def reliability_json(counts: Mapping[str, Mapping[str, LogitCounts]], fits: Mapping[str, HeldOutFit]) -> dict[str, Any]:
    """Return source -> scope -> region -> figures "before" temperature and, where one was fitted, "after".

    Each holds `voxels`, `ece`, `brier`, `nll` and the curve: `probability`, `frequency` and `counted` of 15 bins.
    """

    def figures(counted: LogitCounts, temperatures: Temperatures) -> list[dict[str, Any]]:
        return [
            {"voxels": r.voxels, "ece": _number(r.ece), "brier": _number(r.brier), "nll": _number(r.nll)}
            | {"probability": [*map(_number, r.probability)], "frequency": [*map(_number, r.frequency)]}
            | {"counted": list(r.counted)}
            for r in reliability(counted, temperatures)
        ]

    found: dict[str, Any] = {}
    for source, scopes in counts.items():
        fitted = fits[source].temperatures if source in fits else None
        for scope, counted in scopes.items():
            stages = {"before": figures(counted, UNCHANGED)}
            if fitted is not None:
                stages["after"] = figures(counted, fitted)
            regions = {region: {stage: rows[i] for stage, rows in stages.items()} for i, region in enumerate(REGIONS)}
            found.setdefault(source, {})[scope] = regions
    return found


def cases_json(scores: Iterable[CaseScore]) -> list[dict[str, Any]]:
    """Return a row a case, source and set of sequences, ready for JSON; NaN is None."""
    return [
        {
            "case": s.case,
            "source": s.source,
            "sequences": list(s.sequences),
            "withheld": s.withheld,
            "dice": _by_region(map(_number, s.dice)),
            "true_ml": _by_region(s.true_ml),
            "predicted_ml": _by_region(map(_number, s.predicted_ml)),
            "false_positive_ml": _number(s.false_positive_ml),
        }
        for s in scores
    ]


def csv_text(scores: Iterable[CaseScore]) -> str:
    """Return a line a case, source and set of sequences; NaN is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    measures = [f"{what}_{r}" for what in ("dice", "true_ml", "predicted_ml") for r in REGIONS]
    writer.writerow(["case", "source", "sequences", *measures, "false_positive_ml"])
    for s in scores:
        values = (*s.dice, *s.true_ml, *s.predicted_ml, s.false_positive_ml)
        writer.writerow(
            [s.case, s.source, "+".join(s.sequences), *("" if math.isnan(v) else f"{v:.6f}" for v in values)]
        )
    return stream.getvalue()


def _by_region(values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(REGIONS, values, strict=True))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Iterable[float]) -> float | None:
    known = [float(v) for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else None


def _interval_json(interval: Interval) -> dict[str, float | None]:
    return {"value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high)}

"""Judge candidates for the INT8 graph on selection cases: training cases that gave no activation range.

FP32 runs once a case; what is kept of it are its labels and its logits near the thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.decode import DecisionRule, decode

from glialite_export.parity import LabelTriple, Network, label_figures

__all__ = ["NEAR", "Judge", "Load", "Score", "judge_against", "near_thresholds", "pick"]

NEAR: Final = 2.0
"""Logits at most so far from their threshold decide an outline; what happens to the others changes no label."""

_EQUAL_DICE: Final = 0.001
_EQUAL_ERROR: Final = 1.25

Load = Callable[[str], tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]]
"""Case -> image (4, z, y, x), labels (z, y, x)."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a candidate costs against FP32.

    Attributes
    ----------
    dice_change : mapping of str to (float or None)
        By region, mean over cases; None where no case has the region.
    squared_error : float
        Mean squared difference of the logits that FP32 puts near a threshold; the mean of the cases' means.
    """

    dice_change: Mapping[str, float | None]
    squared_error: float

    @property
    def worst(self) -> float:
        """Dice change of the worst region; 0 where none lost."""
        return min((change for change in self.dice_change.values() if change is not None and change < 0), default=0.0)

    def record(self) -> dict[str, Any]:
        """Return the score for JSON, rounded."""
        changes = {region: None if change is None else round(change, 5) for region, change in self.dice_change.items()}
        return {"dice_change": changes, "squared_error": float(f"{self.squared_error:.4g}")}


def pick(scores: Mapping[str, Score]) -> str:
    """Return the name of the best candidate.

    The worst region's Dice decides, then the squared error. Candidates within 0.001 of the best Dice, and of these the
    ones within 1.25 times the smallest error, count as equal, and the first of them wins: differences as small as that
    are chance, so the caller puts first what is safest on cases that nobody has seen.
    """
    best = max(score.worst for score in scores.values())
    equal = {name: score for name, score in scores.items() if score.worst >= best - _EQUAL_DICE}
    smallest = min(score.squared_error for score in equal.values())
    return next(name for name, score in equal.items() if score.squared_error <= _EQUAL_ERROR * smallest)


def near_thresholds(logits: npt.NDArray[np.float32], rule: DecisionRule) -> npt.NDArray[np.bool_]:
    """Return which logits (3, z, y, x) lie within `NEAR` of their region's threshold."""
    thresholds = np.array(rule.logit_thresholds, np.float32).reshape(-1, 1, 1, 1)
    near: npt.NDArray[np.bool_] = np.abs(logits - thresholds) <= NEAR
    return near


@dataclass(frozen=True, slots=True)
class _Reference:
    case: str
    labels: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Judge:
    """FP32's answers to the selection cases; see `judge_against`."""

    load: Load
    rule: DecisionRule
    voxel_mm3: float
    references: tuple[_Reference, ...]

    def score(self, candidate: Network) -> Score:
        """Run a candidate on every case and return what it costs."""
        errors, triples = [], []
        for reference in self.references:
            image, truth = self.load(reference.case)
            logits = candidate(image)
            off = logits.ravel()[reference.places] - reference.logits
            errors.append(float(np.mean(np.square(off, dtype=np.float64))) if off.size else 0.0)
            triples.append(LabelTriple(reference.labels, decode(logits, self.rule, self.voxel_mm3), truth))
        changes = label_figures(triples)["dice_change"]
        return Score(dict(changes) if isinstance(changes, Mapping) else {}, float(np.mean(errors)))


def judge_against(reference: Network, cases: Iterable[str], load: Load, rule: DecisionRule, voxel_mm3: float) -> Judge:
    """Run FP32 on every selection case, once.

    Parameters
    ----------
    reference : Network
        The FP32 graph.
    cases : iterable of str
        At least one.
    load : function
        Reads a case.
    rule : DecisionRule
        How logits become labels.
    voxel_mm3 : float
        Volume of a voxel in mm³.
    """
    references = []
    for case in cases:
        logits = reference(load(case)[0])
        places = np.flatnonzero(near_thresholds(logits, rule))
        references.append(_Reference(case, decode(logits, rule, voxel_mm3), places, logits.ravel()[places]))
    return Judge(load, rule, voxel_mm3, tuple(references))

"""From probabilities to labels: the published decision rules, and rules fitted on out-of-fold predictions.

The hierarchy (ET in TC in WT) is not fitted: `glialite_runtime.decode` always keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.errors import ConfigError
from glialite_runtime.metrics import dice, dice_per_region, region_masks
from glialite_runtime.sequences import REGIONS

__all__ = [
    "FITTED",
    "PRESETS",
    "Labelled",
    "dice_or_absent",
    "fit_decision",
    "fit_minimum_sizes",
    "fit_thresholds",
    "preset",
    "rule_dice",
    "rule_from_json",
    "rule_json",
]

Labelled = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
"""Logits (3, z, y, x) and the labels (z, y, x) that they should give."""

FITTED: Final = "fitted"
"""Name of the rule that belongs to an ensemble, see `ensemble_fit`."""

PRESETS: Final[Mapping[str, DecisionRule]] = MappingProxyType(
    {
        "plain": DecisionRule(),
        # Hashmi et al., arXiv:2411.15872, table 1: 0.7 for ET and TC, 0.5 for WT.
        "ssa": DecisionRule(thresholds=(0.5, 0.7, 0.7)),
        # The same, table 2 (paediatric); voxels of 1 mm³; the names count those of ET.
        "ped-100": DecisionRule(minimum_mm3=(500.0, 150.0, 100.0)),
        "ped-50": DecisionRule(minimum_mm3=(250.0, 75.0, 50.0)),
        "ped-25": DecisionRule(minimum_mm3=(125.0, 37.0, 25.0)),
    }
)
"""Published rules by name; thresholds and sizes in the order of `REGIONS`."""

_LOWER: Final = (0.1, 0.15, 0.2, 0.25)
_THRESHOLDS: Final = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
_MINIMUM_MM3: Final = (0.0, 25.0, 37.0, 50.0, 75.0, 100.0, 125.0, 150.0, 200.0, 250.0, 500.0)
_EQUAL_DICE: Final = 0.005


def preset(name: str) -> DecisionRule:
    """Return a published rule by name; a `ConfigError` lists them."""
    if name not in PRESETS:
        raise ConfigError(f"unknown decision rule {name!r}; known: {FITTED}, {', '.join(PRESETS)}")
    return PRESETS[name]


def rule_json(rule: DecisionRule) -> dict[str, dict[str, float]]:
    """Return `thresholds` and `minimum_mm3` by region."""
    return {key: dict(zip(REGIONS, getattr(rule, key), strict=True)) for key in ("thresholds", "minimum_mm3")}


def rule_from_json(value: Mapping[str, Any]) -> DecisionRule:
    """Return the rule that `rule_json` wrote."""
    thresholds, sizes = ([value[key][region] for region in REGIONS] for key in ("thresholds", "minimum_mm3"))
    return DecisionRule((thresholds[0], thresholds[1], thresholds[2]), (sizes[0], sizes[1], sizes[2]))


def fit_decision(cases: Callable[[], Iterable[Labelled]], voxel_mm3: float, *, elsewhere: bool = False) -> DecisionRule:
    """Return thresholds, then minimum sizes, that give each region the best mean Dice.

    The caller must see to it that no member of the ensemble was trained on the cases.

    Parameters
    ----------
    cases : callable
        Gives (logits, labels) of the held-out cases, one after the other; called twice.
    voxel_mm3 : float
        Volume of a voxel.
    elsewhere : bool
        Whether the scans to come are unlike those of the training, see `fit_thresholds`.
    """
    return fit_minimum_sizes(cases(), DecisionRule(fit_thresholds(cases(), elsewhere=elsewhere)), voxel_mm3)


def fit_thresholds(cases: Iterable[Labelled], *, elsewhere: bool = False) -> tuple[float, float, float]:
    """Return, of 0.3 to 0.8 in steps of 0.05, each region's threshold with the best mean Dice.

    Of the thresholds within 0.005 of the best the one nearest to 0.5 is taken (0.5 without a case). Every region is
    looked at by itself; a region that is absent counts 1 when nothing is predicted and 0 when anything is.

    With `elsewhere` they may be as low as 0.1, the one in the middle of those within 0.005 of the best is taken,
    and a region counts where it is present (false specks are for the smallest sizes): scans unlike those of the
    training may be outlined too small or too large.
    """
    choice = (*_LOWER, *_THRESHOLDS) if elsewhere else _THRESHOLDS
    cuts = [np.float32(np.log(t / (1 - t))) for t in choice]
    rows = []
    for logits, labels in cases:
        truth = region_masks(labels)
        dices = [[dice_or_absent(logits[i] > cut, truth[i]) for i in range(len(REGIONS))] for cut in cuts]
        rows.append(np.where([mask.any() or not elsewhere for mask in truth], dices, np.nan))
    known = np.isfinite(np.array(rows)).any((0, 1)) if rows else np.zeros(len(REGIONS), bool)
    if not known.all():
        return DecisionRule().thresholds
    means = np.nanmean(rows, axis=0)  # (thresholds, regions)
    equal = means >= means.max(0) - _EQUAL_DICE
    if elsewhere:
        wt, tc, et = (places[(len(places) - 1) // 2] for places in map(np.flatnonzero, equal.T))
    else:
        wt, tc, et = np.where(equal, np.abs(np.array(choice) - 0.5)[:, None], np.inf).argmin(0)
    return choice[wt], choice[tc], choice[et]


def dice_or_absent(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Return Dice; 1 where neither mask has a voxel, so that tumour seen where there is none costs."""
    return float(np.nan_to_num(dice(predicted, truth), nan=1.0))


def fit_minimum_sizes(cases: Iterable[Labelled], rule: DecisionRule, voxel_mm3: float) -> DecisionRule:
    """Return `rule` with the minimum component sizes, of a grid, that give each region the best mean Dice.

    The grid holds the published sizes. A region that is absent counts 1 when nothing is predicted and 0 when anything
    is, so false positives cost. Of the sizes within 0.005 of the best mean the smallest is taken; without a case the
    rule comes back as it is.

    Parameters
    ----------
    cases : iterable of (logits, labels)
        Held-out cases: float32 (3, z, y, x), uint8 (z, y, x).
    rule : DecisionRule
        Thresholds and temperature to use.
    voxel_mm3 : float
        Volume of a voxel.
    """
    grid = [replace(rule, minimum_mm3=(m, m, m)) for m in _MINIMUM_MM3]
    rows = [[rule_dice(logits, labels, candidate, voxel_mm3) for candidate in grid] for logits, labels in cases]
    if not rows:
        return rule
    means = np.mean(rows, axis=0)  # (sizes, regions)
    wt, tc, et = (means >= means.max(0) - _EQUAL_DICE).argmax(0)
    return replace(rule, minimum_mm3=(_MINIMUM_MM3[wt], _MINIMUM_MM3[tc], _MINIMUM_MM3[et]))


def rule_dice(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], rule: DecisionRule, voxel_mm3: float
) -> npt.NDArray[np.float64]:
    """Return the Dice (3,) of a case under a rule; 1 for a region that neither truth nor prediction has."""
    return np.nan_to_num(np.array(dice_per_region(decode(logits, rule, voxel_mm3), labels)), nan=1.0)

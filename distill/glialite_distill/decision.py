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
from glialite_runtime.decode import DecisionRule, decode, within_rim
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
    "fit_rim",
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
_RIM_SHARES: Final = (1.0, 0.3)
"""Without and with a core confined to its rim. Between a quarter and 0.4 it is as good, see docs/synthetic.md."""


def preset(name: str) -> DecisionRule:
    """Return a published rule by name; a `ConfigError` lists them."""
    if name not in PRESETS:
        raise ConfigError(f"unknown decision rule {name!r}; known: {FITTED}, {', '.join(PRESETS)}")
    return PRESETS[name]


def rule_json(rule: DecisionRule) -> dict[str, dict[str, float] | float]:
    """Return `thresholds` and `minimum_mm3` by region, and `rim_share`."""
    by_region = {key: dict(zip(REGIONS, getattr(rule, key), strict=True)) for key in ("thresholds", "minimum_mm3")}
    return {**by_region, "rim_share": rule.rim_share}


def rule_from_json(value: Mapping[str, Any]) -> DecisionRule:
    """Return the rule that `rule_json` wrote."""
    thresholds, sizes = ([value[key][region] for region in REGIONS] for key in ("thresholds", "minimum_mm3"))
    (wt, tc, et), (wt_mm3, tc_mm3, et_mm3) = thresholds, sizes
    return DecisionRule((wt, tc, et), (wt_mm3, tc_mm3, et_mm3), rim_share=float(value.get("rim_share", 1.0)))


def fit_decision(cases: Callable[[], Iterable[Labelled]], voxel_mm3: float, *, elsewhere: bool = False) -> DecisionRule:
    """Return thresholds, whether a rim confines the core, then minimum sizes, that give the best mean Dice.

    The caller must see to it that no member of the ensemble was trained on the cases.

    Parameters
    ----------
    cases : callable
        Gives (logits, labels) of the held-out cases, one after the other; called three times.
    voxel_mm3 : float
        Volume of a voxel.
    elsewhere : bool
        Whether the scans to come are unlike those of the training, see `fit_thresholds`.
    """
    rule = fit_rim(cases(), DecisionRule(fit_thresholds(cases(), elsewhere=elsewhere)), elsewhere=elsewhere)
    return fit_minimum_sizes(cases(), rule, voxel_mm3)


def fit_thresholds(cases: Iterable[Labelled], *, elsewhere: bool = False) -> tuple[float, float, float]:
    """Return, of 0.3 to 0.8 in steps of 0.05, each region's threshold with the best mean Dice.

    Of the thresholds within 0.005 of the best the one nearest to 0.5 is taken (0.5 without a case). Every region is
    looked at by itself; a region that is absent counts 1 when nothing is predicted and 0 when anything is.

    With `elsewhere` they may be as low as 0.1, the one in the middle of those within 0.005 of the best is taken,
    and a region counts where it is present (false specks are for the smallest sizes): scans unlike those of the
    training may be outlined too small or too large.
    """
    choice = _choice(elsewhere=elsewhere)
    rows = []
    for logits, labels in cases:
        truth = region_masks(labels)
        dices = [[dice_or_absent(logits[i] > _logit(t), truth[i]) for i in range(len(REGIONS))] for t in choice]
        rows.append(np.where([mask.any() or not elsewhere for mask in truth], dices, np.nan))
    known = np.isfinite(np.array(rows)).any((0, 1)) if rows else np.zeros(len(REGIONS), bool)
    if not known.all():
        return DecisionRule().thresholds
    means = np.nanmean(rows, axis=0)  # (thresholds, regions)
    wt, tc, et = (choice[_pick(column, choice, elsewhere=elsewhere)] for column in means.T)
    return wt, tc, et


def fit_rim(cases: Iterable[Labelled], rule: DecisionRule, *, elsewhere: bool = False) -> DecisionRule:
    """Return `rule` with the core confined to its rim, and a threshold of TC for that, if the Dice of TC gains by it.

    Parameters
    ----------
    cases : iterable of (logits, labels)
        Held-out cases; those without core say nothing here.
    rule : DecisionRule
        Thresholds of `fit_thresholds`.
    elsewhere : bool
        How the threshold is chosen, see `fit_thresholds`.
    """
    choice = _choice(elsewhere=elsewhere)
    rows = []
    for logits, labels in cases:
        wt, enhancing = (logits[i] > np.float32(rule.logit_thresholds[i]) for i in (0, 2))
        truth = region_masks(labels)[1]
        if truth.any():
            cores = [(logits[1] > _logit(t)) & wt | enhancing for t in choice]
            rows.append(
                [[dice_or_absent(within_rim(core, enhancing, s), truth) for core in cores] for s in _RIM_SHARES]
            )
    if not rows:
        return rule
    free, confined = np.mean(rows, axis=0)  # one value a threshold
    if confined.max() <= free.max() + _EQUAL_DICE:
        return rule
    wt_at, _, et_at = rule.thresholds
    return replace(
        rule,
        thresholds=(wt_at, choice[_pick(confined, choice, elsewhere=elsewhere)], et_at),
        rim_share=_RIM_SHARES[1],
    )


def _choice(*, elsewhere: bool) -> tuple[float, ...]:
    return (*_LOWER, *_THRESHOLDS) if elsewhere else _THRESHOLDS


def _logit(probability: float) -> np.float32:
    return np.float32(np.log(probability / (1 - probability)))


def _pick(dices: npt.NDArray[np.float64], choice: tuple[float, ...], *, elsewhere: bool) -> int:
    """Return which of the thresholds within 0.005 of the best to take."""
    equal = np.flatnonzero(dices >= dices.max() - _EQUAL_DICE)
    return int(equal[(len(equal) - 1) // 2] if elsewhere else min(equal, key=lambda at: abs(choice[at] - 0.5)))


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

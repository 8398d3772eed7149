"""Decision rules: the published ones literally, and fits whose answer is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_distill.decision import (
    FITTED,
    fit_decision,
    fit_minimum_sizes,
    fit_rim,
    fit_thresholds,
    preset,
    rule_dice,
    rule_from_json,
    rule_json,
)
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError

LABELS = np.zeros((8, 8, 12), np.uint8)
LABELS[1:5, 1:5, 1:9] = 3


def logits_of(*, inside: float, outside: float) -> np.ndarray:
    """Return logits of one probability in the tumour of `LABELS` and another beside it, the same for every region."""
    p = np.where(LABELS > 0, inside, outside)
    return np.log(p / (1 - p)).astype(np.float32)[None].repeat(3, 0)


@pytest.mark.parametrize(
    ("name", "thresholds", "minimum_mm3"),
    [
        ("plain", {"ET": 0.5, "TC": 0.5, "WT": 0.5}, {"ET": 0, "TC": 0, "WT": 0}),
        ("ssa", {"ET": 0.7, "TC": 0.7, "WT": 0.5}, {"ET": 0, "TC": 0, "WT": 0}),  # seed 001 §3.1, table 1, row 6
        ("ped-100", {"ET": 0.5, "TC": 0.5, "WT": 0.5}, {"ET": 100, "TC": 150, "WT": 500}),  # seed 001 §3.2, table 2
        ("ped-50", {"ET": 0.5, "TC": 0.5, "WT": 0.5}, {"ET": 50, "TC": 75, "WT": 250}),
        ("ped-25", {"ET": 0.5, "TC": 0.5, "WT": 0.5}, {"ET": 25, "TC": 37, "WT": 125}),
    ],
)
def test_published_rules(name: str, thresholds: dict[str, float], minimum_mm3: dict[str, float]) -> None:
    """By name, region by region as published, and the same after a round trip through JSON."""
    assert rule_json(preset(name)) == {"thresholds": thresholds, "minimum_mm3": minimum_mm3, "rim_share": 1}
    assert rule_from_json(rule_json(preset(name))) == preset(name)


def test_unknown_rules_are_refused_by_name() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match=rf"'best'; known: {FITTED}, plain, ssa, ped-100"):
        preset("best")


@pytest.mark.parametrize(
    ("inside", "outside", "expected"), [(0.9, 0.1, 0.5), (0.9, 0.62, 0.65), (0.42, 0.1, 0.4), (0.9, 0.74, 0.75)]
)
def test_the_threshold_lies_between_tumour_and_the_rest(inside: float, outside: float, expected: float) -> None:
    """Of those that separate the two, the one nearest to 0.5."""
    assert fit_thresholds([(logits_of(inside=inside, outside=outside), LABELS)]) == (expected,) * 3


def test_thresholds_are_fitted_region_by_region() -> None:
    """WT is sure, TC too eager, ET too shy."""
    logits = np.stack(
        [logits_of(inside=inside, outside=outside)[0] for inside, outside in ((0.9, 0.1), (0.9, 0.62), (0.42, 0.1))]
    )
    assert fit_thresholds([(logits, LABELS)]) == (0.5, 0.65, 0.4)


def test_a_threshold_moves_only_for_what_counts() -> None:
    """One false voxel beside 128 costs 0.004 of Dice: the threshold stays."""
    logits = logits_of(inside=0.9, outside=0.1)
    logits[:, 7, 7, 10] = 0.4  # p = 0.6
    assert fit_thresholds([(logits, LABELS)]) == (0.5, 0.5, 0.5)
    logits[:, 7, 7, :] = 0.4
    assert fit_thresholds([(logits, LABELS)]) == (0.6, 0.6, 0.6)


def test_a_healthy_brain_raises_the_threshold() -> None:
    """Predicted tumour where there is none scores 0, none scores 1: that outweighs what a case with tumour loses."""
    healthy = (logits_of(inside=0.55, outside=0.1), np.zeros_like(LABELS))
    assert fit_thresholds([(logits_of(inside=0.9, outside=0.1), LABELS), healthy]) == (0.55, 0.55, 0.55)


def test_without_cases_everything_stays() -> None:
    """No held-out case: 0.5 and no minimum."""
    assert fit_decision(lambda: [], 1.0) == DecisionRule()


def test_a_fit_finds_thresholds_first_then_sizes() -> None:
    """A background of 0.62 asks for 0.65; a spot of 40 mm³ at 0.9 then asks for 50 mm³."""
    logits = logits_of(inside=0.9, outside=0.62)
    logits[:, 6, 6, 2:7] = 2.0
    rule = fit_decision(lambda: [(logits, LABELS)], 8.0)
    assert rule == DecisionRule((0.65,) * 3, (50.0,) * 3)
    assert (rule_dice(logits, LABELS, rule, 8.0) == 1).all()
    assert (rule_dice(logits, LABELS, DecisionRule(), 8.0) < 0.5).all()


def ringed(*, necrosis: float, lobe: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of a shell of enhancement, and of TC's probability in it and in a lobe beside it."""
    labels = np.zeros((12, 12, 30), np.uint8)
    labels[1:11, 1:11, 1:29] = 2
    labels[2:10, 2:10, 2:10] = 3
    labels[3:9, 3:9, 3:9] = 1
    core = np.where(labels == 3, 0.9, np.where(labels == 1, necrosis, 0.05))
    core[2:10, 2:10, 12:20] = lobe
    p = np.stack([np.where(labels > 0, 0.9, 0.05), core, np.where(labels == 3, 0.9, 0.05)])
    return np.log(p / (1 - p)).astype(np.float32), labels


def test_a_rim_confines_the_core_where_that_helps() -> None:
    """A lobe of oedema looks more like core than the necrosis does: no threshold tells them apart, the rim does."""
    case = ringed(necrosis=0.42, lobe=0.62)
    rule = fit_decision(lambda: [case], 1.0)
    assert rule == DecisionRule((0.5, 0.4, 0.5), rim_share=0.3)
    assert (rule_dice(*case, rule, 1.0) == 1).all()
    assert rule_from_json(rule_json(rule)) == rule


def test_a_rim_is_not_asked_where_the_core_is_known_without() -> None:
    """The lobe is core in one case, and no threshold needs help in the other."""
    plain, (logits, labels) = ringed(necrosis=0.9, lobe=0.1), ringed(necrosis=0.9, lobe=0.9)
    labels[2:10, 2:10, 12:20] = 1
    assert fit_rim([plain], DecisionRule()) == DecisionRule()
    assert fit_rim([(logits, labels)], DecisionRule()) == DecisionRule()
    assert fit_rim([(logits, np.zeros_like(labels))], DecisionRule()) == DecisionRule()


def test_minimum_sizes_remove_false_components() -> None:
    """A false spot of 40 mm³ in each region goes, the true component of 320 mm³ stays; equal sizes: the smallest."""
    labels = np.zeros((6, 6, 20), np.uint8)
    labels[1:3, 1:3, 1:11] = 3
    logits = np.where(labels > 0, 5, -5).astype(np.float32)[None].repeat(3, 0)
    logits[:, 4, 4, 14:19] = 5
    rule = fit_minimum_sizes([(logits, labels)], DecisionRule(thresholds=(0.4, 0.5, 0.6)), 8.0)
    assert rule == DecisionRule((0.4, 0.5, 0.6), (50.0, 50.0, 50.0))


def test_minimum_sizes_keep_small_true_components() -> None:
    """A true component of 80 mm³ is not removed for being small."""
    labels = np.zeros((4, 4, 12), np.uint8)
    labels[1, 1, 1:11] = 3
    logits = np.where(labels > 0, 5, -5).astype(np.float32)[None].repeat(3, 0)
    assert fit_minimum_sizes([(logits, labels)], DecisionRule(), 8.0).minimum_mm3 == (0.0, 0.0, 0.0)


def test_minimum_sizes_are_not_raised_for_next_to_nothing() -> None:
    """A false voxel beside a tumour of 400 costs 0.001 of Dice: no size is worth that."""
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:4] = 3
    logits = np.where(labels > 0, 5, -5).astype(np.float32)[None].repeat(3, 0)
    logits[:, 8, 8, 8] = 5
    assert fit_minimum_sizes([(logits, labels)], DecisionRule(), 8.0).minimum_mm3 == (0.0, 0.0, 0.0)


def test_minimum_sizes_keep_a_healthy_brain_healthy() -> None:
    """Where there is no tumour, a minimum size that leaves nothing counts as right: 40 mm³ go."""
    logits = np.full((3, 4, 4, 12), -5, np.float32)
    logits[:, 1, 1, 1:6] = 5
    rule = fit_minimum_sizes([(logits, np.zeros((4, 4, 12), np.uint8))], DecisionRule(), 8.0)
    assert rule.minimum_mm3 == (50.0, 50.0, 50.0)


def test_minimum_sizes_without_cases_stay() -> None:
    """No held-out case: the rule comes back."""
    rule = DecisionRule(minimum_mm3=(7.0, 8.0, 9.0))
    assert fit_minimum_sizes([], rule, 1.0) == rule

"""The parity gate: figures by hand, and limits that hold at their bound and break beyond it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from glialite_export import parity
from glialite_export.parity import LIMITS, LabelTriple, check, difference_figures, label_figures
from glialite_runtime.errors import ParityError

GOOD = {
    "dice_change": {"WT": -0.005, "TC": 0.01, "ET": None},
    "agreement_dice": {"WT": 0.95, "TC": 1.0, "ET": None},
    "differing_voxels": 0.005,
}


def test_limits_are_the_ones_that_were_fixed() -> None:
    """Changing a bound is a decision, so it has to be made here as well."""
    assert {(limit.hop, limit.figure, limit.relation, limit.bound) for limit in LIMITS} == {
        ("torch to onnx-3d", "relative_difference", "at most", 1e-4),
        ("onnx-3d to lowered", "relative_difference", "at most", 1e-4),
        ("lowered to int8", "dice_change", "at least", -0.005),
        ("lowered to int8", "agreement_dice", "at least", 0.95),
        ("lowered to int8", "differing_voxels", "at most", 0.005),
        ("onnx-3d to fp16", "logit_difference", "at most", 0.01),
        ("onnx-3d to fp16", "differing_voxels", "at most", 0.0005),
        ("onnx-3d to gpu-int8", "dice_change", "at least", -0.005),
        ("onnx-3d to gpu-int8", "agreement_dice", "at least", 0.95),
        ("onnx-3d to gpu-int8", "differing_voxels", "at most", 0.005),
    }
    assert all(limit.why for limit in LIMITS)


def test_figures_at_the_bound_hold() -> None:
    """A limit belongs to the side that passes; a region that cannot be judged breaks nothing."""
    report = check(parity.TO_INT8, GOOD)
    assert all(row["held"] for row in report["limits"])
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("figure", "value", "named"),
    [
        ("dice_change", {"WT": 0.0, "TC": -0.0051, "ET": 0.0}, "dice_change TC is -0.0051"),
        ("agreement_dice", {"WT": 0.949, "TC": 1.0, "ET": 1.0}, "agreement_dice WT"),
        ("differing_voxels", 0.0051, "differing_voxels is 0.0051"),
        ("differing_voxels", float("nan"), "differing_voxels is nan"),
    ],
)
def test_figures_beyond_the_bound_are_refused(figure: str, value: object, named: str) -> None:
    """The error names figure, region, value and bound, and carries the whole report."""
    with pytest.raises(ParityError, match=named) as caught:
        check(parity.TO_INT8, {**GOOD, figure: value})  # type: ignore[dict-item]
    report = json.loads(json.dumps(caught.value.report, allow_nan=False))
    assert [row["figure"] for row in report["limits"] if not row["held"]] == [figure]


def test_missing_figure_is_refused() -> None:
    """What was not measured did not hold."""
    with pytest.raises(ParityError, match="differing_voxels"):
        check(parity.TO_INT8, {name: GOOD[name] for name in ("dice_change", "agreement_dice")})  # type: ignore[misc]


def test_difference_is_relative_to_the_largest_value() -> None:
    """0.5 of 10 is 0.05; the worst image counts."""
    images = [np.zeros((4, 2, 2, 2), np.float32), np.ones((4, 2, 2, 2), np.float32)]
    figures = difference_figures(lambda x: x[:3] + 9, lambda x: x[:3] * 1.5 + 9, images)
    assert figures["relative_difference"] == pytest.approx(0.05)


def test_values_that_are_not_finite_never_pass() -> None:
    """NaN logits are infinitely far away, also when both graphs give them."""
    image = np.ones((4, 2, 2, 2), np.float32)
    figures = difference_figures(lambda x: x[:3] * np.nan, lambda x: x[:3] * np.nan, [image])
    with pytest.raises(ParityError):
        check(parity.TO_ONNX, figures)


def test_nothing_to_compare_on_is_an_error() -> None:
    """A gate without cases would let everything through."""
    with pytest.raises(ValueError, match="no image"):
        difference_figures(lambda x: x, lambda x: x, [])
    with pytest.raises(ValueError, match="no case"):
        label_figures([])


def labels(*runs: tuple[int, int]) -> np.ndarray:
    """Return a label map (1, 1, 1000) of (value, length) runs, 0 after them."""
    flat = np.concatenate([np.full(length, value, np.uint8) for value, length in runs])
    return np.pad(flat, (0, 1000 - len(flat))).reshape(1, 1, 1000)


def test_label_figures_by_hand() -> None:
    """One case: truth 400 WT of them 200 ET; the candidate moves 10 voxels from ET to background."""
    truth = labels((3, 200), (2, 200))
    figures = label_figures([LabelTriple(truth, labels((0, 10), (3, 190), (2, 200)), truth)])
    assert figures["differing_voxels"] == pytest.approx(10 / 1000)
    assert figures["dice_reference"] == {"WT": 1, "TC": 1, "ET": 1}
    change, agreement = figures["dice_change"], figures["agreement_dice"]
    assert isinstance(change, dict)
    assert isinstance(agreement, dict)
    assert change["ET"] == pytest.approx(2 * 190 / 390 - 1)
    assert agreement["ET"] == pytest.approx(2 * 190 / 390)
    assert agreement["WT"] == pytest.approx(2 * 390 / 790)


def test_cases_without_a_region_do_not_judge_it() -> None:
    """A case whose truth has no ET says nothing about ET, whatever the graphs put there."""
    without = LabelTriple(labels((2, 300)), labels((3, 1), (2, 299)), labels((2, 300)))
    figures = label_figures([without])
    assert isinstance(figures["dice_change"], dict)
    assert figures["dice_change"]["ET"] is None
    assert figures["differing_voxels"] == pytest.approx(0.001)


def test_a_handful_of_voxels_does_not_judge_agreement() -> None:
    """Under 200 voxels in both outlines together a threshold decides by chance."""
    truth = labels((3, 300))
    few = label_figures([LabelTriple(labels((3, 99)), labels((3, 100)), truth)])["agreement_dice"]
    enough = label_figures([LabelTriple(labels((3, 100)), labels((3, 100)), truth)])["agreement_dice"]
    assert isinstance(few, dict)
    assert isinstance(enough, dict)
    assert (few["ET"], enough["ET"]) == (None, 1)

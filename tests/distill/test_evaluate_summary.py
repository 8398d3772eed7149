"""Summaries: means and what is counted in them, ratios, coverage, subsets, plain JSON and CSV."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from glialite_calibration.logit_counts import count_logits
from glialite_distill.evaluate_scores import SCOPES, CaseScore, Evaluation
from glialite_distill.evaluate_summary import (
    HeldOutFit,
    cases_json,
    csv_text,
    reliability_json,
    subset_rows,
    summarise,
)
from glialite_runtime.measure import VolumeInterval

NAN = math.nan
SCORES = (
    CaseScore("a", "c1", (0.8, 0.6, NAN), (30.0, 10.0, 0.0), (33.0, 8.0, 0.0)),
    CaseScore("b", "c1", (0.9, 0.9, 0.9), (30.0, 10.0, 0.0), (30.0, 10.0, 0.0)),
    CaseScore("a", "c2", (0.6, NAN, NAN), (0.0, 0.0, 0.0), (3.0, 0.0, 0.0)),
    CaseScore("b", "c2", (0.9, NAN, NAN), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
)
WHOLE = Evaluation(SCORES, {})


def test_absent_regions_are_left_out_of_the_mean_and_counted() -> None:
    """Source a: WT over two cases, TC over one, ET over none."""
    row = summarise(WHOLE, {})[0]
    assert row["source"] == "a"
    assert row["dice"] == {"WT": pytest.approx(0.7), "TC": 0.6, "ET": None}
    assert row["counted"] == {"WT": 2, "TC": 1, "ET": 0}
    assert row["mean_dice"] == pytest.approx(0.65)
    assert row["dice_95"]["WT"] == pytest.approx([0.6, 0.8])
    assert row["dice_95"]["ET"] == [None, None]


def test_false_millilitres_and_volume_errors_by_hand() -> None:
    """One brain without tumour, 3 mL seen there; WT is 3 mL too much on both, TC 2 too little on one."""
    row = summarise(WHOLE, {})[0]
    assert (row["tumour_free_cases"], row["false_positive_ml"], row["largest_false_positive_ml"]) == (1, 3.0, 3.0)
    assert row["volume_error_ml"]["WT"] == {"mean": 3.0, "mean_absolute": 3.0}
    assert row["volume_error_ml"]["TC"] == {"mean": -1.0, "mean_absolute": 1.0}


def test_the_ratio_is_to_the_reference() -> None:
    """0.65 of the reference's 0.9; the reference itself has none, and nobody without a reference."""
    first, second = summarise(WHOLE, {}, "b")
    assert first["ratio"]["value"] == pytest.approx(0.65 / 0.9)
    assert first["ratio"]["low"] < first["ratio"]["value"] < first["ratio"]["high"]
    assert second["ratio"] is None
    assert summarise(WHOLE, {})[0]["ratio"] is None


def test_withheld_sequences_do_not_touch_the_summary() -> None:
    """A score with fewer sequences than the case has is in the subsets' table alone."""
    poor = CaseScore("a", "c1", (0.1, NAN, NAN), SCORES[0].true_ml, (1.0, NAN, NAN), ("t2f",), withheld=True)
    found = Evaluation((*SCORES, poor), {})
    assert summarise(found, {}) == summarise(WHOLE, {})
    full, flair = subset_rows(found.scores)
    assert full["sequences"] == ["t1n", "t1c", "t2w", "t2f"]
    assert full["dice"]["WT"] == pytest.approx(0.7)
    assert (flair["sequences"], flair["dice"]["WT"], flair["dice"]["TC"]) == (["t2f"], 0.1, None)


def test_no_subset_no_rows() -> None:
    """Without withheld sequences there is no table of them."""
    assert subset_rows(SCORES) == []


def test_coverage_is_the_share_of_true_volumes_inside() -> None:
    """From 0.9 to 1.3 of the predicted: 30 for 33 and 10 for 8 hold, 0 for 3 does not; TC and ET hold twice."""
    near = VolumeInterval(0.9, 19, math.log(0.9), math.log(1.3))
    fit = HeldOutFit(("x",), (1.0, 2.0, 3.0), (0.5,) * 3, (near,) * 3)
    first, second = summarise(WHOLE, {"a": fit})
    assert [first["volume_coverage"][r]["value"] for r in ("WT", "TC", "ET")] == [0.5, 1.0, 1.0]
    assert second["volume_coverage"] is None
    assert fit.to_json()["temperature"] == {"WT": 1.0, "TC": 2.0, "ET": 3.0}
    assert fit.to_json()["volume_intervals"]["ET"]["rate"] == 0.9


def test_reliability_before_and_after_a_temperature() -> None:
    """Half of the voxels said to be 0.99 are there: a large temperature brings them to 0.5."""
    logits = np.full((3, 1, 1, 100), 4.6, np.float32)
    labels = np.tile(np.array([0, 3], np.uint8), 50)[None, None]
    counts = {"n": dict.fromkeys(SCOPES, count_logits(logits, labels, np.ones_like(labels, bool)))}
    interval = VolumeInterval(0.9, 19, 0, 0)
    fit = HeldOutFit(("x",), (1e3,) * 3, (0.5,) * 3, (interval,) * 3)
    found = reliability_json(counts, {"n": fit})["n"][SCOPES[0]]["WT"]
    assert found["before"]["ece"] == pytest.approx(0.49, abs=0.001)
    assert found["after"]["ece"] < 0.002
    assert "after" not in reliability_json(counts, {})["n"][SCOPES[0]]["WT"]
    json.dumps(found, allow_nan=False)


def test_the_results_are_plain_json() -> None:
    """No NaN gets into the JSON."""
    json.dumps(summarise(WHOLE, {}, "b"), allow_nan=False)
    assert json.loads(json.dumps(cases_json(SCORES), allow_nan=False))[0] == {
        "case": "c1",
        "source": "a",
        "sequences": ["t1n", "t1c", "t2w", "t2f"],
        "withheld": False,
        "dice": {"WT": 0.8, "TC": 0.6, "ET": None},
        "true_ml": {"WT": 30.0, "TC": 10.0, "ET": 0.0},
        "predicted_ml": {"WT": 33.0, "TC": 8.0, "ET": 0.0},
        "false_positive_ml": None,
    }


def test_the_csv_has_a_line_a_case_and_source() -> None:
    """NaN is an empty cell."""
    lines = csv_text(SCORES).splitlines()
    assert lines[0].startswith("case,source,sequences,dice_WT,dice_TC,dice_ET,true_ml_WT,")
    assert lines[1].startswith("c1,a,t1n+t1c+t2w+t2f,0.800000,0.600000,,30.000000,")
    assert lines[1].endswith(",0.000000,")
    assert lines[3].endswith(",3.000000")

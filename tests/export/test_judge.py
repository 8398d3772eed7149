"""Scores of candidates by hand, and which of them is picked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from glialite_export.judge import Score, judge_against, near_thresholds, pick
from glialite_runtime.decode import DecisionRule

RULE = DecisionRule((0.5, 0.5, 0.5))


def score(worst: float, error: float) -> Score:
    return Score({"WT": worst, "TC": 0.01, "ET": None}, error)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({"wide": score(-0.003, 0.1), "narrow": score(-0.001, 9.0)}, "narrow"),
        ({"wide": score(-0.0019, 0.5), "narrow": score(-0.001, 0.1)}, "narrow"),
        ({"wide": score(-0.0019, 0.12), "narrow": score(-0.001, 0.1)}, "wide"),
        ({"wide": score(0.02, 0.3), "narrow": score(0.0, 0.1)}, "narrow"),
        ({"wide": Score({"ET": None}, 0.0), "narrow": Score({"ET": None}, 0.0)}, "wide"),
    ],
    ids=["Dice decides", "then the error", "about equal: the first", "a gain is no merit", "nothing to judge"],
)
def test_which_candidate_is_picked(scores: dict[str, Score], best: str) -> None:
    """The worst region's loss, then the error near the thresholds; what is about equal goes to the first."""
    assert pick(scores) == best


def test_near_means_within_two_logits_of_the_regions_own_threshold() -> None:
    """A threshold of 0.7 is a logit of 0.847."""
    logits = np.full((3, 1, 1, 1), 2.5, np.float32)
    assert near_thresholds(logits, DecisionRule((0.5, 0.7, 0.5))).ravel().tolist() == [False, True, False]


def test_scores_by_hand() -> None:
    """FP32 outlines 10 of 20 voxels as ET; the candidate loses one, and only logits near 0 count for the error."""
    image = np.zeros((4, 1, 1, 20), np.float32)
    image[:3, ..., :10], image[:3, ..., 10:] = 1, -9
    truth = np.where(np.arange(20) < 10, 3, 0).astype(np.uint8).reshape(1, 1, 20)
    judge = judge_against(lambda x: x[:3], ["a", "b"], lambda _: (image, truth), RULE, 1.0)

    def candidate(x: np.ndarray) -> np.ndarray:
        out = x[:3].copy()
        out[..., 0] = -1
        out[..., 15] = -5
        return out

    found = judge.score(candidate)
    assert found.worst == pytest.approx(2 * 9 / 19 - 1)
    assert found.squared_error == pytest.approx(4 / 10)
    assert judge.score(lambda x: x[:3]) == Score(dict.fromkeys(("WT", "TC", "ET"), 0.0), 0.0)
    assert json.loads(json.dumps(found.record()))["dice_change"]["ET"] == pytest.approx(-0.05263)


def test_fp32_runs_once_a_case() -> None:
    """However many candidates there are."""
    runs = []

    def reference(image: np.ndarray) -> np.ndarray:
        runs.append(1)
        return image[:3]

    image, truth = np.ones((4, 2, 2, 2), np.float32), np.full((2, 2, 2), 3, np.uint8)
    judge = judge_against(reference, ["a", "b"], lambda _: (image, truth), RULE, 1.0)
    for _ in range(3):
        judge.score(lambda x: x[:3])
    assert len(runs) == 2


def test_logits_far_from_every_threshold_cost_nothing() -> None:
    """Where FP32 is sure everywhere there is no error to measure, and none is made up."""
    image, truth = np.full((4, 2, 2, 2), 30, np.float32), np.full((2, 2, 2), 3, np.uint8)
    judge = judge_against(lambda x: x[:3], ["a"], lambda _: (image, truth), RULE, 1.0)
    assert judge.score(lambda x: x[:3] / 2).squared_error == 0

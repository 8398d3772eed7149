"""Temperatures: the best one by hand, found from anywhere, and labels that do not move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_calibration.logit_counts import LogitCounts, count_logits
from glialite_calibration.temperature import fit_temperatures, mean_nll, sigmoid, thresholds_after
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.errors import CalibrationError


def counted(logits: np.ndarray, positive: np.ndarray) -> LogitCounts:
    """Count a row of voxels whose label is 0 or 3, so that every region has the same truth."""
    labels = np.where(positive, 3, 0).astype(np.uint8)[None, None]
    return count_logits(
        np.broadcast_to(logits.astype(np.float32), (3, 1, 1, len(logits))), labels, np.ones_like(labels, np.bool_)
    )


@pytest.mark.parametrize("size", [0.3, 2.0, 20.0])
def test_the_best_temperature_by_hand(size: float) -> None:
    """Logits of ± a that are right three times in four mean 3 : 1, so a / T = ln 3."""
    logits = size * np.array([1, 1, 1, 1, -1, -1, -1, -1])
    found = fit_temperatures(counted(logits, np.array([1, 1, 1, 0, 0, 0, 0, 1], np.bool_)))
    assert found == pytest.approx((size / math.log(3),) * 3, rel=1e-6)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_a_known_overconfidence_is_found(scale: float) -> None:
    """Truth drawn with the probabilities that logits say, which are then multiplied: T is the factor."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, 100_000)
    found = fit_temperatures(counted(scale * logits, rng.random(100_000) < sigmoid(logits)))
    assert found == pytest.approx((scale,) * 3, rel=0.03)


def test_nothing_beats_the_fitted_temperature() -> None:
    """The likelihood is worse a little to either side and at 1."""
    rng = np.random.default_rng(1)
    logits = rng.standard_t(2, 5_000) * 5
    counts = counted(logits, rng.random(5_000) < sigmoid(logits / 3))
    t = fit_temperatures(counts)[0]
    best = mean_nll(counts, (t, t, t))[0]
    assert all(best < mean_nll(counts, (other,) * 3)[0] for other in (1.0, t * 0.98, t * 1.02))


def test_each_region_gets_its_own() -> None:
    """WT's logits are right, TC's twice and ET's four times too large."""
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, 50_000)
    labels = np.where(rng.random(50_000) < sigmoid(logits), 3, 0).astype(np.uint8)[None, None]
    three = np.stack([logits, 2 * logits, 4 * logits]).astype(np.float32)[:, None, None]
    found = fit_temperatures(count_logits(three, labels, np.ones_like(labels, np.bool_)))
    assert found == pytest.approx((1, 2, 4), rel=0.05)


@pytest.mark.parametrize(
    ("logits", "positive", "said"),
    [
        ([1, -1], [0, 0], "WT fills 0 of 2 voxels; TC fills"),
        ([1, -1], [1, 1], "WT fills 2 of 2 voxels"),
        ([1, -1], [1, 0], "no best temperature"),
        ([1, -1], [0, 1], "no best temperature"),
        ([9e3, 9e3, -9e3, -9e3], [1, 0, 0, 1], "no best temperature"),
    ],
    ids=["absent", "everywhere", "without an error", "always wrong", "huge"],
)
def test_what_cannot_be_fitted_is_refused(logits: list[float], positive: list[int], said: str) -> None:
    """Every region is named; no temperature at the end of a range is passed off as the best."""
    with pytest.raises(CalibrationError, match=said):
        fit_temperatures(counted(np.array(logits), np.array(positive, np.bool_)))


def test_the_likelihood_by_hand() -> None:
    """Two voxels of logit 0 cost ln 2 each; no voxel has no likelihood."""
    assert mean_nll(counted(np.zeros(2), np.array([True, False])))[0] == pytest.approx(math.log(2))
    assert math.isnan(mean_nll(counted(np.zeros(0), np.zeros(0, np.bool_)))[0])


def test_labels_stay_as_they_were() -> None:
    """Probabilities and thresholds after temperature give the labels that the rule gives."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (3, 12, 12, 12)).astype(np.float32)
    rule, temperatures = DecisionRule(thresholds=(0.5, 0.7, 0.2)), (0.7, 1.9, 3.0)
    thresholds = thresholds_after(rule, temperatures)
    assert thresholds[0] == 0.5
    assert thresholds[1] == pytest.approx(1 / (1 + (3 / 7) ** (1 / 1.9)))
    said = sigmoid(logits / np.array(temperatures)[:, None, None, None])
    above = np.where(said > np.array(thresholds)[:, None, None, None], 1, -1).astype(np.float32)
    assert np.array_equal(decode(above, DecisionRule(), 1.0), decode(logits, rule, 1.0))

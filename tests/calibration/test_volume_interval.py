"""Volume intervals: their ranks by hand, their promise on simulated patients, and what may not calibrate them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_calibration.volume_interval import (
    cases_needed,
    fit_volume_interval,
    independent_cases,
)
from glialite_runtime.errors import CalibrationError, ConfigError
from glialite_runtime.measure import VolumeInterval


def test_the_limits_are_order_statistics() -> None:
    """Of 39 cases at 90 % the limits are the second smallest and second largest log ratio, ⌊40 · 0.05⌋ = 2."""
    predicted = np.full(39, 9.0)
    true = 10 * np.exp(np.arange(-19, 20) / 10) - 1
    found = fit_volume_interval(np.random.default_rng(0).permutation(true), predicted)
    assert (found.low, found.high) == pytest.approx((-1.8, 1.8))
    assert found.cases == 39


def test_the_interval_is_around_the_prediction() -> None:
    """Half to twice (predicted + 1) − 1: 9 mL may be 4 to 19, and 0 mL up to 1 but never below 0."""
    interval = VolumeInterval(0.9, 19, math.log(0.5), math.log(2))
    assert interval.around(9.0) == pytest.approx((4, 19))
    assert interval.around(0.0) == pytest.approx((0, 1))
    assert interval.holds(9.0, 18.9)
    assert not interval.holds(9.0, 19.1)
    assert not interval.holds(9.0, 3.9)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.9), (50, 0.9), (60, 0.8)])
def test_intervals_hold_at_their_rate(count: int, rate: float) -> None:
    """Skewed, biased errors that grow with the volume: over 3 000 cohorts a new patient is inside as promised."""
    rng = np.random.default_rng(count)
    true = rng.gamma(1.5, 20, (3000, count + 1))
    predicted = np.maximum(0.8 * true + rng.standard_t(3, true.shape) * (1 + 0.2 * true), 0)
    held = [
        fit_volume_interval(t[:-1], p[:-1], rate).holds(float(p[-1]), float(t[-1]))
        for t, p in zip(true, predicted, strict=True)
    ]
    slack = 3 * math.sqrt(rate * (1 - rate) / len(held))
    assert rate - slack <= np.mean(held) <= rate + 2 / (count + 1) + slack


def test_a_bias_moves_the_interval() -> None:
    """A model that sees half of every tumour gets an interval above its prediction."""
    true = np.linspace(5, 100, 30)
    low, high = fit_volume_interval(true, true / 2).around(20.0)
    assert 20 < low <= 40 <= high


@pytest.mark.parametrize(("rate", "needed"), [(0.9, 19), (0.8, 9), (0.95, 39), (0.5, 3)])
def test_too_few_cases_are_refused(rate: float, needed: int) -> None:
    """The message says how many are needed; that many are enough."""
    assert cases_needed(rate) == needed
    volumes = np.arange(1.0, needed + 1)
    assert fit_volume_interval(volumes, volumes, rate).cases == needed
    with pytest.raises(CalibrationError, match=f"need {needed} patients.*there are {needed - 1}"):
        fit_volume_interval(volumes[1:], volumes[1:], rate)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_volumes_that_are_none_are_refused(bad: float) -> None:
    """Negative, NaN and infinite."""
    with pytest.raises(CalibrationError, match="negative or not finite"):
        fit_volume_interval(np.ones(20), np.array([bad] + [1.0] * 19))


@pytest.mark.parametrize("rate", [0.0, 1.0, -1, math.nan])
def test_a_rate_is_a_share(rate: float) -> None:
    """0 and 1 are none that finitely many cases can promise."""
    with pytest.raises(ConfigError, match="between 0 and 1"):
        cases_needed(rate)


def test_one_case_a_patient_calibrates() -> None:
    """Two scans of one patient are no two independent cases: the first by name stays."""
    assert independent_cases({"B-001": "B", "A-000": "A", "B-000": "B"}, {"C"}) == ("A-000", "B-000")


def test_cases_that_training_saw_are_refused() -> None:
    """Another scan of a training patient counts as seen; every one is named."""
    with pytest.raises(CalibrationError, match="A-001, B-000"):
        independent_cases({"A-001": "A", "B-000": "B", "C-000": "C"}, {"A", "B"})

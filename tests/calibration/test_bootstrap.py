"""Intervals over patients: by hand, paired, and as wide as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_calibration.bootstrap import Bootstrap, mean_interval, means, ratio_interval
from glialite_runtime.errors import ConfigError

NAN = math.nan


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"P{n}" for n in range(count))


def test_the_mean_is_that_of_the_regions_means() -> None:
    """Regions of different case counts weigh alike: (0.5 + 0.9) / 2; a region without a case is left out."""
    assert means(np.array([[0.4, 0.9, NAN], [0.6, NAN, NAN]])) == pytest.approx([0.7])
    assert np.isnan(means(np.full((2, 3), NAN))).all()


def test_two_patients_span_everything() -> None:
    """A quarter of the resamples holds one patient only, at either end."""
    found = mean_interval(column(0.0, 1.0), Bootstrap(names(2)))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_one_patient_has_no_spread() -> None:
    """Two scans of one patient are drawn together, so every resample is the same."""
    found = mean_interval(column(0.0, 1.0), Bootstrap(("A", "A")))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_scans_of_a_patient_stay_together() -> None:
    """Every resample draws as many patients as there are, and both scans of one as often."""
    weights = Bootstrap(("A", "B", "A", "C")).weights()
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()


def test_the_seed_decides() -> None:
    """The same seed gives the same interval, another one another."""
    values = np.random.default_rng(0).random((12, 3))
    first = mean_interval(values, Bootstrap(names(12)))
    assert mean_interval(values, Bootstrap(names(12))) == first
    assert mean_interval(values, Bootstrap(names(12), seed=1)) != first


def test_intervals_hold_about_as_often_as_they_say() -> None:
    """Of 400 cohorts of 40 patients the 95 % interval holds the true mean in 0.90 to 0.98."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        found = mean_interval(rng.beta(8, 2, (40, 1)), Bootstrap(names(40), resamples=300, seed=seed))
        held += found.low <= 0.8 <= found.high
    assert 0.90 <= held / 400 <= 0.98


def test_a_ratio_is_paired() -> None:
    """A model that is 2 % worse on every case is so in every resample, however much cases differ."""
    reference = np.random.default_rng(0).random((15, 3))
    found = ratio_interval(0.98 * reference, reference, Bootstrap(names(15)))
    assert (found.value, found.low, found.high) == pytest.approx((0.98, 0.98, 0.98))


def test_a_ratio_to_nothing_is_no_number() -> None:
    """A reference whose mean is 0 has no ratio."""
    found = ratio_interval(column(0.5, 0.5), column(0.0, 0.0), Bootstrap(names(2)))
    assert math.isnan(found.value)
    assert math.isnan(found.low)


def test_undefined_scores_are_not_counted() -> None:
    """The interval of one defined case is that case; of none, NaN."""
    found = mean_interval(column(NAN, 0.7, NAN), Bootstrap(names(3)))
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7))
    assert math.isnan(mean_interval(column(NAN, NAN), Bootstrap(names(2))).low)


def test_a_ratio_needs_the_same_cases() -> None:
    """Three cases against two are refused."""
    with pytest.raises(ConfigError, match="same cases"):
        ratio_interval(column(1, 1, 1), column(1, 1), Bootstrap(names(3)))


@pytest.mark.parametrize("bad", [{"patients": ()}, {"rate": 1.0}, {"rate": 0.0}, {"resamples": 0}])
def test_settings_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    """No case, no resample, or a rate that is none."""
    with pytest.raises(ConfigError, match="bootstrap"):
        Bootstrap(**{"patients": ("A",), **bad})  # type: ignore[arg-type]

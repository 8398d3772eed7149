"""Ranges of grey values over training cases."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from glialite_calibration import intensity
from glialite_calibration.intensity import MIN_CASES, intensity_ranges
from glialite_runtime.intensity import quantiles
from glialite_runtime.sequences import SEQUENCES


def case(seed: int, *, has_t1c: bool = True) -> np.ndarray:
    """Return a normalised case: a brain of 12³ voxels in a background of 0, its grey values skewed by chance."""
    rng = np.random.default_rng(seed)
    image = np.zeros((4, 16, 16, 16), np.float32)
    image[:, 2:14, 2:14, 2:14] = rng.gamma(rng.uniform(1, 9), size=(4, 12, 12, 12))
    image[1] *= has_t1c
    return image


def cases(count: int, **change: bool) -> Iterator[np.ndarray]:
    return (case(seed, **change) for seed in range(count))


def test_the_range_holds_every_case_and_nothing_more() -> None:
    """Each limit is the quantile of one of the cases, to four digits."""
    ranges = intensity_ranges(cases(MIN_CASES), (4.0, 4.0, 4.0))
    assert ranges is not None
    assert tuple(ranges) == SEQUENCES
    seen = np.array([quantiles(case(seed)[2][case(seed)[0] != 0]) for seed in range(MIN_CASES)])
    np.testing.assert_allclose(ranges["t2w"].low, seen.min(0), atol=1e-4)
    np.testing.assert_allclose(ranges["t2w"].high, seen.max(0), atol=1e-4)


def test_too_few_cases_give_none() -> None:
    """A narrow range would call normal scans unusual."""
    assert intensity_ranges(cases(MIN_CASES - 1), (4.0, 4.0, 4.0)) is None
    assert intensity_ranges([], (4.0, 4.0, 4.0)) is None


def test_a_sequence_that_training_lacks_has_no_range() -> None:
    """The others have theirs."""
    ranges = intensity_ranges(cases(MIN_CASES, has_t1c=False), (4.0, 4.0, 4.0))
    assert ranges is not None
    assert tuple(ranges) == ("t1n", "t2w", "t2f")


def test_fine_voxels_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 2 mm every second voxel along each axis counts."""
    monkeypatch.setattr(intensity, "MIN_CASES", 2)
    fine = [np.zeros((4, 32, 32, 32), np.float32) for _ in range(2)]
    for seed, image in enumerate(fine):
        image[:, ::2, ::2, ::2], image[:, 1::2] = case(seed), 1000
    assert intensity_ranges(fine, (2.0, 2.0, 2.0)) == intensity_ranges([case(0), case(1)], (4.0, 4.0, 4.0))

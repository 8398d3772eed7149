"""Logits counted against the truth: nothing is lost, whatever the size of the logits."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_calibration.logit_counts import count_logits, total
from glialite_runtime.errors import CalibrationError

LABELS = np.array([0, 1, 2, 3], np.uint8)[None, None]
INSIDE = np.array([True, True, True, False])[None, None]


def logits_of(*values: float) -> np.ndarray:
    """Return the same row of logits for each region, (3, 1, 1, n)."""
    return np.array([[[values]]] * 3, np.float32)


def test_voxels_and_positives_by_hand() -> None:
    """Three voxels inside: WT holds two of them, TC one, ET (outside) none."""
    counts = count_logits(logits_of(-1, 0, 1, 2), LABELS, INSIDE)
    assert counts.voxels.sum(1).tolist() == [3, 3, 3]
    assert counts.positives.sum(1).tolist() == [2, 1, 0]


@pytest.mark.parametrize("value", [0.0, -0.01, 31.999, 5e4, -5e4])
def test_the_mean_of_a_bin_is_exact(value: float) -> None:
    """Also far beyond the outermost bin."""
    counts = count_logits(logits_of(value), LABELS[..., :1], INSIDE[..., :1])
    assert counts.means()[0][counts.voxels[0] > 0] == pytest.approx([np.float32(value)])


def test_cases_add_up() -> None:
    """Two cases together have the counts of both at once; no case has none."""
    first = count_logits(logits_of(-1, 0), LABELS[..., :2], INSIDE[..., :2])
    second = count_logits(logits_of(1), LABELS[..., 2:3], INSIDE[..., 2:3])
    both = count_logits(logits_of(-1, 0, 1), LABELS[..., :3], INSIDE[..., :3])
    added = total([first, second])
    assert np.array_equal(added.voxels, both.voxels)
    assert np.array_equal(added.positives, both.positives)
    assert np.array_equal(added.sums, both.sums)
    assert not total([]).voxels.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    """Inside they are an error; outside they do not count."""
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        count_logits(logits_of(0, bad, 0, 0), LABELS, INSIDE)
    count_logits(logits_of(0, 0, 0, bad), LABELS, INSIDE)

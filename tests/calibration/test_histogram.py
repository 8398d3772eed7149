"""Histograms that grow."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_calibration.histogram import observe
from glialite_runtime.errors import CalibrationError

from .conftest import HistogramOf


def test_growing_keeps_every_count_in_its_place(histogram_of: HistogramOf) -> None:
    """A histogram that had to widen equals one that was wide from the start."""
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 0.1, 5000), rng.normal(0, 30, 5000)
    grown, wide = histogram_of(small, large), histogram_of(large, small)
    assert grown.radius == wide.radius >= 64
    assert grown.counts.sum() == 10_000
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(wide.counts)).max() <= 2  # float32 rounding at a bin's edge


@pytest.mark.parametrize("values", [[1.0, np.nan], [np.inf], []])
def test_values_that_cannot_be_counted_are_refused(values: list[float]) -> None:
    """NaN, infinity and an empty tensor are errors, not ranges."""
    with pytest.raises(CalibrationError, match="finite"):
        observe(None, np.array(values, np.float32))

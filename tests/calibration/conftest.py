"""Histograms of given values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from glialite_calibration.histogram import Histogram, observe

HistogramOf = Callable[..., Histogram]


@pytest.fixture(scope="session")
def histogram_of() -> HistogramOf:
    """Return a function that makes one histogram of any number of batches of values."""

    def make(*batches: np.ndarray) -> Histogram:
        seen = None
        for batch in batches:
            seen = observe(seen, np.asarray(batch, np.float32))
        assert seen is not None
        return seen

    return make

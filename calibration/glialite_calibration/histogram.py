"""What values a tensor took: a histogram of fixed size that grows by doubling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import CalibrationError

__all__ = ["Histogram", "observe"]

_BINS: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a tensor took which values.

    Attributes
    ----------
    low, high : float
        Smallest and largest value seen.
    radius : float
        A power of two that no value exceeds in magnitude.
    counts : int64 array (bins,)
        Values in equal bins from -radius to +radius.
    """

    low: float
    high: float
    radius: float
    counts: npt.NDArray[np.int64]


def observe(seen: Histogram | None, values: npt.NDArray[np.float32]) -> Histogram:
    """Return the histogram with `values` added.

    Parameters
    ----------
    seen : Histogram or None
        What was seen before; None at the start.
    values : float32 array of any shape
        At least one value, all finite.

    Raises
    ------
    CalibrationError
        There is no value, or one is not finite.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CalibrationError(
            f"a tensor with values from {low} to {high} cannot be calibrated; finite ones are needed"
        )
    largest = max(-low, high)
    radius = max(2.0 ** math.ceil(math.log2(largest)) if largest > 0 else 0.0, 2.0**-20)
    if seen is not None:
        radius, low, high = max(radius, seen.radius), min(low, seen.low), max(high, seen.high)
    bins = ((values.ravel() + np.float32(radius)) * np.float32(_BINS / (2 * radius))).astype(np.int32)
    counts = np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS).astype(np.int64)
    if seen is not None:
        counts += _widened(seen, radius)
    return Histogram(low, high, radius, counts)


def _widened(histogram: Histogram, radius: float) -> npt.NDArray[np.int64]:
    """Return the counts over a range that is a power of two times as wide: pairs of bins merge towards the middle."""
    counts, quarter = histogram.counts, _BINS // 4
    for _ in range(round(math.log2(radius / histogram.radius))):
        wide = np.zeros_like(counts)
        wide[quarter:-quarter] = counts.reshape(-1, 2).sum(axis=1)
        counts = wide
    return counts

"""How a tensor's range is chosen from its histogram: one function a method.

Every method weighs two errors against each other: a wide range has coarse levels, a narrow one cuts off what lies
beyond it. Zero is on the grid of every range, so exact zeros (background, and what a `Relu` cut off) cost nothing
and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_calibration.histogram import Histogram

__all__ = [
    "LEVELS",
    "Method",
    "divergence",
    "entropy",
    "evenly_spread",
    "min_max",
    "min_max_doubled",
    "mse",
    "percentile",
]

Method = Callable[[Histogram], tuple[float, float]]
"""Histogram -> (low, high)."""

LEVELS: Final = 256
"""Values that a quantised activation can take."""

_SHARES: Final = 2.0 ** (-np.arange(113) / 16)
"""Shares of the whole range that `mse` and `entropy` try, 4 % apart, from all of it down to 1/128."""


def min_max(histogram: Histogram) -> tuple[float, float]:
    """Return the smallest and the largest value."""
    return histogram.low, histogram.high


def min_max_doubled(histogram: Histogram) -> tuple[float, float]:
    """Return twice the smallest and the largest value.

    Cases that nobody has seen reach further than those that calibrate, in deep layers above all.
    What lies beyond an end is off by its whole distance; a step that is twice as wide costs half a step.
    """
    return 2 * histogram.low, 2 * histogram.high


def percentile(histogram: Histogram, share: float) -> tuple[float, float]:
    """Return the smallest value range that leaves at most `1 - share` of the values above it, and as many below."""
    running = np.cumsum(histogram.counts)
    total, width = int(running[-1]), 2 * histogram.radius / len(histogram.counts)
    above = int(np.searchsorted(running, share * total))
    below = int(np.searchsorted(running, (1 - share) * total, side="right"))
    low, high = below * width - histogram.radius, (above + 1) * width - histogram.radius
    return max(low, histogram.low), min(high, histogram.high)


def mse(histogram: Histogram) -> tuple[float, float]:
    """Return the range with the smallest expected squared error of quantisation to `LEVELS` values.

    A value inside is off by a uniformly distributed rounding error, step² / 12 in the mean; a value outside by its
    distance to the nearer end. Both ends shrink by the same share.

    Source: Nagel et al., A White Paper on Neural Network Quantization (arXiv:2106.08295), section 3.1.
    """
    counts, centres = _without_zero(histogram)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    lows, highs = _SHARES * low, _SHARES * high
    # Sums of 1, x and x² over the bins below each end give the errors of all candidates at once.
    sums = np.concatenate([np.zeros((3, 1)), np.cumsum(counts * centres ** np.arange(3)[:, None], axis=1)], axis=1)
    below = sums[:, np.searchsorted(centres, lows)]
    above = sums[:, [-1]] - sums[:, np.searchsorted(centres, highs)]
    inside = sums[0, -1] - below[0] - above[0]
    cut_off = sum(part[2] - 2 * end * part[1] + end**2 * part[0] for part, end in ((below, lows), (above, highs)))
    best = int(np.argmin(inside * ((highs - lows) / (LEVELS - 1)) ** 2 / 12 + cut_off))
    return float(lows[best]), float(highs[best])


def entropy(histogram: Histogram) -> tuple[float, float]:
    """Return the range whose `LEVELS` values keep most of the information: the smallest Kullback-Leibler divergence.

    Both ends shrink by the same share. Values beyond an end count as the outermost bin in the reference, and are
    missing from the quantised distribution.

    Source: Migacz, 8-bit Inference with TensorRT (GTC 2017), the method of TensorRT's entropy calibrator.
    """
    counts, _ = _without_zero(histogram)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    width = 2 * histogram.radius / len(counts)
    best, smallest = 1.0, np.inf
    for share in _SHARES:
        first = int(np.floor((share * low + histogram.radius) / width))
        last = min(int(np.ceil((share * high + histogram.radius) / width)), len(counts))
        if last - first < LEVELS:  # fewer bins than levels: nothing is left to compare
            break
        inside = counts[first:last]
        reference = inside.copy()
        reference[0] += counts[:first].sum()
        reference[-1] += counts[last:].sum()
        found = divergence(reference, evenly_spread(inside, reference > 0, LEVELS))
        if found < smallest:
            best, smallest = float(share), found
    return best * low, best * high


def evenly_spread(counts: npt.NDArray[np.float64], used: npt.NDArray[np.bool_], levels: int) -> npt.NDArray[np.float64]:
    """Return what is left of a histogram after quantisation: each level's count, spread over its bins in use.

    Parameters
    ----------
    counts : float64 array (bins,)
        At least `levels` bins, which are shared out among the levels in order.
    used : bool array (bins,)
        Bins that may hold something afterwards.
    levels : int
        Values after quantisation.
    """
    starts = np.arange(levels) * len(counts) // levels
    held = np.add.reduceat(counts, starts) / np.maximum(np.add.reduceat(used.astype(np.float64), starts), 1)
    return np.repeat(held, np.diff(starts, append=len(counts))) * used


def divergence(reference: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence of two histograms in nats.

    0 for an empty reference; infinity where `other` has nothing although the reference has something.
    """
    total, total_other, held = reference.sum(), other.sum(), reference > 0
    if total == 0:
        return 0.0
    if not other[held].all():
        return float("inf")
    ratio = (reference[held] / total) / (other[held] / total_other)
    return float(np.sum(reference[held] / total * np.log(ratio)))


def _without_zero(histogram: Histogram) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the counts and centres of the bins (bins,), without those in the bin that starts at 0."""
    bins = len(histogram.counts)
    counts = histogram.counts.astype(np.float64)
    counts[bins // 2] = 0
    centres = (np.arange(bins) + 0.5) * (2 * histogram.radius / bins) - histogram.radius
    return counts, centres.astype(np.float64)

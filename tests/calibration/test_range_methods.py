"""Methods for activation ranges, each against a result by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from glialite_calibration.histogram import Histogram
from glialite_calibration.range_methods import (
    LEVELS,
    divergence,
    entropy,
    evenly_spread,
    min_max_doubled,
    mse,
    percentile,
)

from .conftest import HistogramOf


@pytest.mark.parametrize("share", [0.99999, 0.9999, 0.999])
def test_percentile_agrees_with_numpy(share: float, histogram_of: HistogramOf) -> None:
    """The quantile of the histogram is numpy's to within a bin."""
    values = np.random.default_rng(1).exponential(1.0, 200_000)
    histogram = histogram_of(values[:1000], values[1000:])
    width = 2 * histogram.radius / len(histogram.counts)
    expected = np.quantile(values.astype(np.float32), share)
    assert percentile(histogram, share)[1] == pytest.approx(expected, abs=2 * width)


def test_percentile_cuts_both_tails(histogram_of: HistogramOf) -> None:
    """An outlier at either end does not widen the range."""
    values = np.concatenate([np.random.default_rng(2).uniform(-1, 1, 100_000), [-50, 70]])
    low, high = percentile(histogram_of(values), 0.999)
    assert -1.1 < low < -0.9
    assert 0.9 < high < 1.1


def test_doubled_range_reaches_twice_as_far(histogram_of: HistogramOf) -> None:
    """Both ends move away from 0."""
    assert min_max_doubled(histogram_of(np.array([-1.5, 0.25, 4.0]))) == (-3, 8)


def one_outlier(count: int, outlier: float) -> Histogram:
    """Return a histogram of `count` values spread over [0, 1) and one far away, made without the values."""
    bins = 1 << 14
    counts = np.zeros(bins, np.int64)
    radius = 64.0
    first = bins // 2 + 1
    inside = round(bins / (2 * radius))
    counts[first : first + inside] = count // inside
    counts[int((outlier + radius) / (2 * radius) * bins)] = 1
    return Histogram(0.0, outlier, radius, counts)


def test_mse_balances_rounding_and_cutting_by_hand() -> None:
    """N values inside and one at M: N b² / (12 · 255²) + (M - b)² is smallest at b = M / 2 where N = 12 · 255²."""
    low, high = mse(one_outlier(12 * (LEVELS - 1) ** 2, 60.0))
    assert low == 0
    assert high == pytest.approx(30, rel=0.05)


def test_mse_keeps_the_whole_range_of_even_values(histogram_of: HistogramOf) -> None:
    """Cutting off what is as frequent as the rest costs more than finer levels give."""
    low, high = mse(histogram_of(np.linspace(-2, 3, 100_000)))
    assert (low, high) == pytest.approx((-2, 3), rel=0.05)


@pytest.mark.parametrize("method", [mse, entropy])
def test_zeros_do_not_move_a_range(method: object, histogram_of: HistogramOf) -> None:
    """Background is exact on every grid, so how much of it there is decides nothing."""
    values = np.random.default_rng(3).exponential(1.0, 50_000) + 0.1
    assert callable(method)
    assert method(histogram_of(values)) == method(histogram_of(values, np.zeros(10_000_000)))


def test_spreading_follows_the_published_example() -> None:
    """Migacz (GTC 2017): eight bins in two levels; each level's sum goes to its bins in use."""
    counts = np.array([1, 0, 2, 3, 5, 3, 1, 7], np.float64)
    np.testing.assert_array_equal(evenly_spread(counts, counts > 0, 2), [2, 0, 2, 2, 4, 4, 4, 4])


def test_divergence_by_hand() -> None:
    """Of (3, 1) / 4 from (1, 1) / 2: 3/4 ln 3/2 + 1/4 ln 1/2."""
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert divergence(np.array([3.0, 1.0]), np.array([5.0, 5.0])) == pytest.approx(expected)
    assert divergence(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == np.inf
    assert divergence(np.zeros(2), np.ones(2)) == 0


def test_entropy_keeps_even_values_whole(histogram_of: HistogramOf) -> None:
    """Nothing is lost by levels where every bin holds the same; cutting would pile up at an end."""
    assert entropy(histogram_of(np.linspace(0, 4, 1_000_001)))[1] == pytest.approx(4, rel=0.05)


def test_entropy_cuts_a_far_outlier(histogram_of: HistogramOf) -> None:
    """One value in a million, ten times as far out as the rest, is not worth levels as coarse as that."""
    values = np.random.default_rng(4).normal(size=1_000_000)
    assert 2 < entropy(histogram_of(values, np.array([50.0])))[1] < 10


@pytest.mark.parametrize("method", [mse, entropy])
def test_forty_tensors_take_less_than_a_second(method: object, histogram_of: HistogramOf) -> None:
    """All tensors of a student's graph."""
    histogram = histogram_of(np.random.default_rng(0).laplace(size=100_000))
    assert callable(method)
    start = time.process_time()
    for _ in range(40):
        method(histogram)
    assert time.process_time() - start < 1

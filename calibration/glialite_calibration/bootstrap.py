"""Intervals for means over cases: percentile bootstrap that draws patients, so that their scans stay together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import ConfigError

__all__ = ["Bootstrap", "Interval", "mean_interval", "means", "ratio_interval"]

Values = npt.NDArray[np.float64]
"""A score a case and region (cases, regions); NaN where it is not defined."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and what it may be: NaN where nothing was counted."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made.

    Attributes
    ----------
    patients : tuple of str
        Patient of every case.
    rate : float
        Share of the resamples that an interval holds, in (0, 1).
    resamples : int
        How many.
    seed : int
        The same seed draws the same patients, so two models are compared on the same draws.
    """

    patients: tuple[str, ...]
    rate: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.patients or not 0 < self.rate < 1 or self.resamples < 1:
            raise ConfigError(
                f"bootstrap: {len(self.patients)} cases, rate {self.rate}, {self.resamples} resamples; at least one "
                "case and one resample and a rate between 0 and 1 are needed"
            )

    def weights(self) -> npt.NDArray[np.float64]:
        """Return how often each case is in each resample (resamples, cases): as often as its patient was drawn."""
        names, member = np.unique(np.array(self.patients), return_inverse=True)
        rng = np.random.default_rng(self.seed)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), self.resamples)
        return drawn[:, member].astype(np.float64)


def means(values: Values, weights: Values | None = None) -> Values:
    """Return the mean over regions of the mean over cases, a resample each (resamples,); (1,) without weights.

    What is NaN is not counted; a region without a counted case is left out of the mean of the regions, and with none
    left the result is NaN.
    """
    counted = ~np.isnan(values)
    drawn = np.ones((1, len(values))) if weights is None else weights
    with np.errstate(invalid="ignore"):
        regions = (drawn @ np.nan_to_num(values)) / (drawn @ counted)
    known = ~np.isnan(regions)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(regions).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def mean_interval(values: Values, how: Bootstrap) -> Interval:
    """Return the mean (see `means`) with its percentile interval over resamples of patients.

    Resamples in which nothing is defined are left out. With few patients the interval is somewhat too narrow, as any
    bootstrap's.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    return _interval(means(values)[0], means(values, how.weights()), how.rate)


def ratio_interval(own: Values, reference: Values, how: Bootstrap) -> Interval:
    """Return the ratio of two models' means (see `means`) on the same cases, every resample drawing both alike.

    NaN where the reference's mean is 0 or not defined.

    Raises
    ------
    ConfigError
        The two do not have the same cases and regions.
    """
    if own.shape != reference.shape or len(own) != len(how.patients):
        raise ConfigError(f"a ratio needs the same cases: {own.shape}, {reference.shape}, {len(how.patients)} patients")
    weights = how.weights()
    with np.errstate(divide="ignore", invalid="ignore"):
        whole, drawn = means(own) / means(reference), means(own, weights) / means(reference, weights)
    return _interval(float(whole[0]) if np.isfinite(whole[0]) else math.nan, drawn[np.isfinite(drawn)], how.rate)


def _interval(value: float, drawn: Values, rate: float) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return Interval(float(value), math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - rate) / 2, (1 + rate) / 2])
    return Interval(float(value), float(low), float(high))

"""Do probabilities mean what they say: calibration error, Brier score and the curve behind them, a region at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from glialite_calibration.logit_counts import LogitCounts
from glialite_calibration.temperature import UNCHANGED, Temperatures, mean_nll, sigmoid

__all__ = ["BINS", "Reliability", "reliability"]

BINS: Final = 15
"""Bins of one width between the probabilities 0 and 1."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How the probabilities of one region compare with how often it was there.

    Every voxel is one statement, "this voxel belongs to the region, with probability p"; both answers count.

    Attributes
    ----------
    voxels : int
        That were counted.
    ece : float
        Expected calibration error: mean over the voxels of |mean probability − frequency| of their bin.
    brier : float
        Mean squared difference of probability and truth.
    nll : float
        Mean negative log-likelihood in nats. All three are NaN without a voxel.
    probability, frequency : tuple of float
        A bin's mean probability, and the share of its voxels that the region holds; NaN in an empty bin.
    counted : tuple of int
        Voxels of a bin.
    """

    voxels: int
    ece: float
    brier: float
    nll: float
    probability: tuple[float, ...]
    frequency: tuple[float, ...]
    counted: tuple[int, ...]


def reliability(
    counts: LogitCounts, temperatures: Temperatures = UNCHANGED
) -> tuple[Reliability, Reliability, Reliability]:
    """Return the reliability of WT, TC and ET, their logits divided by `temperatures`.

    Logits that lie within 1/32 of each other are in one bin together, also where an edge runs between them.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599), section 2, one class at a time.
    """
    nll = mean_nll(counts, temperatures)
    wt, tc, et = (_reliability(counts, i, t, nll[i]) for i, t in enumerate(temperatures))
    return wt, tc, et


def _reliability(counts: LogitCounts, region: int, temperature: float, nll: float) -> Reliability:
    voxels, positives = counts.voxels[region], counts.positives[region]
    said = sigmoid(counts.means()[region] / temperature)
    bins = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    counted = np.bincount(bins, voxels, BINS)
    total = float(counted.sum())
    if not total:
        return Reliability(0, math.nan, math.nan, nll, (math.nan,) * BINS, (math.nan,) * BINS, (0,) * BINS)
    with np.errstate(invalid="ignore"):
        probability, frequency = (np.bincount(bins, part, BINS) / counted for part in (voxels * said, positives))
    brier = float((positives * (1 - said) ** 2 + (voxels - positives) * said**2).sum()) / total
    return Reliability(
        voxels=int(total),
        ece=float(np.nansum(counted * np.abs(probability - frequency))) / total,
        brier=brier,
        nll=nll,
        probability=tuple(float(p) for p in probability),
        frequency=tuple(float(f) for f in frequency),
        counted=tuple(int(n) for n in counted),
    )

"""One temperature a region: probabilities that mean what they say, and labels that stay as they were."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import CalibrationError
from glialite_runtime.sequences import REGIONS

from glialite_calibration.logit_counts import LogitCounts

__all__ = ["UNCHANGED", "Temperatures", "fit_temperatures", "mean_nll", "sigmoid", "thresholds_after"]

Temperatures = tuple[float, float, float]
"""What the logits of WT, TC and ET are divided by before they are read as probabilities."""

UNCHANGED: Final[Temperatures] = (1.0, 1.0, 1.0)
_HIGHEST: Final = 20.0
_HALVINGS: Final = 60  # of ln(20²): to 1e-17


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return probabilities, without overflow at any finite logit."""
    return np.exp(-np.logaddexp(0.0, -logits))


def mean_nll(counts: LogitCounts, temperatures: Temperatures = UNCHANGED) -> tuple[float, float, float]:
    """Return each region's mean negative log-likelihood in nats a voxel; NaN without a voxel."""
    wt, tc, et = (_nll(counts, i, t) for i, t in enumerate(temperatures))
    return wt, tc, et


def _nll(counts: LogitCounts, region: int, temperature: float) -> float:
    voxels, scaled = counts.voxels[region], counts.means()[region] / temperature
    if not voxels.any():
        return math.nan
    return float((voxels * np.logaddexp(0.0, scaled) - counts.positives[region] * scaled).sum() / voxels.sum())


def fit_temperatures(counts: LogitCounts) -> Temperatures:
    """Return the temperatures with the smallest negative log-likelihood.

    The likelihood is convex in 1/T, so its slope changes sign once: bisection finds the place whatever the start.
    The caller must see to it that the network was not trained on the cases.

    Parameters
    ----------
    counts : LogitCounts
        Of held-out cases.

    Raises
    ------
    CalibrationError
        A region never occurs or fills everything, or its best temperature is not within 1/20 to 20 (its logits
        separate the cases without a single error, or say less than nothing); the message names every such region.

    Notes
    -----
    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599), section 4.2, one class at a time.
    """
    found, problems = [], []
    for i, region in enumerate(REGIONS):
        positives, voxels = int(counts.positives[i].sum()), int(counts.voxels[i].sum())
        if not 0 < positives < voxels:
            problems.append(f"{region} fills {positives} of {voxels} voxels")
        elif _slope(counts, i, 1 / _HIGHEST) < 0 < _slope(counts, i, _HIGHEST):
            found.append(_bisect(counts, i))
        else:
            problems.append(f"{region} has no best temperature between {1 / _HIGHEST:g} and {_HIGHEST:g}")
    if problems:
        raise CalibrationError(f"no temperature can be fitted: {'; '.join(problems)}; give more held-out cases")
    wt, tc, et = found
    return wt, tc, et


def _slope(counts: LogitCounts, region: int, beta: float) -> float:
    """Return the derivative of the likelihood's negative logarithm with respect to beta = 1/T."""
    means = counts.means()[region]
    return float((means * (counts.voxels[region] * sigmoid(beta * means) - counts.positives[region])).sum())


def _bisect(counts: LogitCounts, region: int) -> float:
    low, high = -math.log(_HIGHEST), math.log(_HIGHEST)  # of beta
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(counts, region, math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def thresholds_after(rule: DecisionRule, temperatures: Temperatures) -> tuple[float, float, float]:
    """Return the probabilities, after temperature, that a rule's thresholds stand for: 0.5 stays 0.5, others move.

    Labels are decided by logits (`DecisionRule.logit_thresholds`), which no temperature touches; this says what those
    limits mean.
    """
    limits = np.array(rule.logit_thresholds) / np.array(temperatures)
    wt, tc, et = (float(p) for p in sigmoid(limits))
    return wt, tc, et

"""Logits counted against the truth: all that temperature and reliability need, whatever the number of cases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import CalibrationError
from glialite_runtime.metrics import region_masks
from glialite_runtime.sequences import REGIONS

__all__ = ["LogitCounts", "count_logits", "total"]

_PER_UNIT: Final = 32
"""Bins a unit of logit: inside one, probabilities differ by less than 0.008."""
_REACH: Final = 32
"""Logits beyond ± this count in the outermost bins; their sums are kept."""
_BINS: Final = 2 * _REACH * _PER_UNIT


@dataclass(frozen=True, slots=True)
class LogitCounts:
    """How often a logit was met, and how often the region was there.

    Attributes
    ----------
    voxels, positives : int64 arrays (3, bins)
        All voxels, and those that the truth counts to the region; regions as in `REGIONS`, logits rising.
    sums : float64 array (3, bins)
        Sum of the logits in a bin, so that its mean is exact also in the outermost ones.
    """

    voxels: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]

    def means(self) -> npt.NDArray[np.float64]:
        """Return the mean logit of every bin (3, bins); 0 where a bin is empty."""
        return self.sums / np.maximum(self.voxels, 1)


def count_logits(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.integer], inside: npt.NDArray[np.bool_]
) -> LogitCounts:
    """Count the voxels of one case.

    Parameters
    ----------
    logits : float32 array (3, z, y, x)
        Regions as in `REGIONS`.
    labels : integer array (z, y, x)
        The truth, BraTS-2023 values.
    inside : bool array (z, y, x)
        Voxels that count; none at all gives zeros.

    Raises
    ------
    CalibrationError
        A logit that counts is not finite.
    """
    truth = region_masks(labels[inside])
    rows = [_count(logits[i][inside].astype(np.float64), truth[i]) for i in range(len(REGIONS))]
    voxels, positives, sums = (np.stack(parts) for parts in zip(*rows, strict=True))
    return LogitCounts(voxels.astype(np.int64), positives.astype(np.int64), sums.astype(np.float64))


def _count(values: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.generic], ...]:
    if not np.isfinite(values).all():
        raise CalibrationError("a logit is NaN or infinite; the network that gave it cannot be calibrated")
    at = np.clip(np.floor(values * _PER_UNIT).astype(np.int64) + _BINS // 2, 0, _BINS - 1)
    return (
        np.bincount(at, minlength=_BINS),
        np.bincount(at[positive], minlength=_BINS),
        np.bincount(at, weights=values, minlength=_BINS),
    )


def total(parts: Iterable[LogitCounts]) -> LogitCounts:
    """Return the counts of several cases as one; zeros without a case."""
    zeros = np.zeros((len(REGIONS), _BINS), np.int64)
    voxels, positives, sums = zeros, zeros, zeros.astype(np.float64)
    for part in parts:
        voxels, positives, sums = voxels + part.voxels, positives + part.positives, sums + part.sums
    return LogitCounts(voxels, positives, sums)

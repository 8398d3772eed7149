"""Whether grey values are spread as in the scans that a model learnt from: quantiles of the z-score, by sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import ConfigError
from glialite_runtime.sample import Sample
from glialite_runtime.sequences import SEQUENCES

__all__ = ["PERCENT", "IntensityRange", "parse_ranges", "quantiles", "unlike_training"]

PERCENT: Final = (1, 5, 25, 50, 75, 95, 99)
"""Which quantiles are compared."""

_MIN_VOXELS: Final = 2000
_FAR: Final = 0.1
"""Mean distance beyond the range, in widths of the range; chosen on the cases of docs/reliability.md, none of which
reaches it unchanged."""


@dataclass(frozen=True, slots=True)
class IntensityRange:
    """Lowest and highest quantile of one sequence's z-scores among training cases, in the order of `PERCENT`."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = list(zip(self.low, self.high, strict=False))
        if not len(self.low) == len(self.high) == len(PERCENT) or not all(-100 < a < b < 100 for a, b in pairs):
            raise ConfigError(f"intensity: {self} is not {len(PERCENT)} ranges of z-scores")


def quantiles(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64] | None:
    """Return the quantiles of the z-scores of one sequence.

    Parameters
    ----------
    values : floating array (voxel,)
        Of the brain, at any scale.

    Returns
    -------
    float64 array (quantile,) or None
        In the order of `PERCENT`; None for fewer than two voxels, or one value only.
    """
    values = values.astype(np.float64)
    sd = float(values.std()) if values.size > 1 else 0.0
    if not sd:
        return None
    return np.asarray((np.percentile(values, PERCENT) - values.mean()) / sd)


def unlike_training(sample: Sample, learnt: Mapping[str, IntensityRange]) -> list[str]:
    """Return the sequences whose z-scores are spread far from those of all training cases.

    Shape alone is judged: scale and offset are the scanner's, and normalisation takes them away. Of a sequence that
    `learnt` does not know, and of fewer than 2000 voxels, nothing is said.
    """
    brain = sample.brain
    if np.count_nonzero(brain) < _MIN_VOXELS:
        return []
    found = []
    for sequence, channel in zip(sample.sequences, sample.channels, strict=True):
        here = quantiles(channel[brain])
        if here is None or sequence not in learnt:
            continue
        low, high = np.array(learnt[sequence].low), np.array(learnt[sequence].high)
        beyond = np.maximum(np.maximum(low - here, here - high), 0) / (high - low)
        if beyond.mean() > _FAR:
            found.append(sequence)
    return found


def parse_ranges(found: Any) -> dict[str, IntensityRange] | None:
    """Return the ranges that ``bundle.json`` states; None in bundles that were made without them.

    Raises
    ------
    ConfigError, KeyError, TypeError, ValueError, AttributeError
        They are garbled; the reader of the bundle says so.
    """
    if found is None:
        return None
    if unknown := sorted(set(found) - set(SEQUENCES)):
        raise ConfigError(f"intensity: unknown sequences {unknown}")
    return {
        str(sequence): IntensityRange(tuple(float(v) for v in one["low"]), tuple(float(v) for v in one["high"]))
        for sequence, one in found.items()
    }

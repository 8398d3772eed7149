"""How grey values are spread in training cases: what the clinic's gate compares a scan with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.intensity import IntensityRange, quantiles
from glialite_runtime.sequences import SEQUENCES

__all__ = ["MIN_CASES", "intensity_ranges"]

MIN_CASES: Final = 80
"""Ranges over fewer are too narrow: over random 50 of a wide world's cases one unchanged scan in fifty lay beyond the
limit, over random 80 none."""

_SPACING_MM: Final = 4.0
"""Voxels are thinned to about this: the gate's own sample (`glialite_runtime.sample`)."""


def intensity_ranges(
    images: Iterable[npt.NDArray[np.floating[Any]]], spacing_mm: tuple[float, float, float]
) -> dict[str, IntensityRange] | None:
    """Return the range of each sequence's quantiles over cases.

    Parameters
    ----------
    images : iterable of floating arrays (4, z, y, x)
        Normalised cases: 0 outside the brain; a sequence that is all 0 is missing there. One is held at a time.
    spacing_mm : tuple of float
        Their voxel size (z, y, x).

    Returns
    -------
    dict of str to IntensityRange, or None
        Only the sequences that at least `MIN_CASES` cases have; None when there is none.
    """
    z, y, x = (max(1, round(_SPACING_MM / mm)) for mm in spacing_mm)
    seen: dict[str, list[npt.NDArray[np.float64]]] = {sequence: [] for sequence in SEQUENCES}
    for image in images:
        thin = np.asarray(image[:, ::z, ::y, ::x], np.float32)
        brain = (thin != 0).any(axis=0)
        for sequence, channel in zip(SEQUENCES, thin, strict=True):
            if (found := quantiles(channel[brain])) is not None:
                seen[sequence].append(found)
    ranges = {
        sequence: IntensityRange(_rounded(np.min(found, axis=0)), _rounded(np.max(found, axis=0)))
        for sequence, found in seen.items()
        if len(found) >= MIN_CASES
    }
    return ranges or None


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)

"""Volumes in millilitres and the list of lesions of a label map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.decode import components
from glialite_runtime.sequences import REGION_LABELS, REGIONS

__all__ = ["OFFSET_ML", "Lesion", "VolumeInterval", "lesions", "tumour_box", "volumes_ml"]


@dataclass(frozen=True, slots=True)
class Lesion:
    """One 26-connected component of the whole tumour.

    Attributes
    ----------
    volumes_ml : dict of str to float
        Region -> mL inside this component.
    centre_zyx : tuple of float
        Centre of mass, in voxels of the image in LPS.
    left_share : float
        Share of its voxels on the patient's left of the midline.
    """

    volumes_ml: dict[str, float | None]
    centre_zyx: tuple[float, float, float]
    left_share: float


OFFSET_ML: Final = 1.0
"""Added to both volumes before their ratio is taken: below it errors are millilitres, above it shares of the volume."""


@dataclass(frozen=True, slots=True)
class VolumeInterval:
    """How far the true volume of a region lies from the predicted one.

    Attributes
    ----------
    rate : float
        Share of new cases whose true volume the interval holds, at least, when they are like those it was learnt on.
    cases : int
        Cases that it was learnt on.
    low, high : float
        Limits of ln((true + 1 mL) / (predicted + 1 mL)).
    """

    rate: float
    cases: int
    low: float
    high: float

    def around(self, predicted_ml: float) -> tuple[float, float]:
        """Return the limits in mL around a predicted volume; never below 0."""
        low, high = ((predicted_ml + OFFSET_ML) * math.exp(limit) - OFFSET_ML for limit in (self.low, self.high))
        return max(low, 0.0), max(high, 0.0)

    def holds(self, predicted_ml: float, true_ml: float) -> bool:
        """Return whether the true volume lies in the interval around the predicted one, limits included."""
        return self.low <= _log_ratio(true_ml, predicted_ml) <= self.high


def _log_ratio(true_ml: float, predicted_ml: float) -> float:
    return math.log((true_ml + OFFSET_ML) / (predicted_ml + OFFSET_ML))


def _millilitres(voxels: int, voxel_mm3: float) -> float:
    return round(voxels * voxel_mm3 / 1000, 6)


def _regions(counts: npt.NDArray[np.integer], voxel_mm3: float, has_t1c: bool) -> dict[str, float | None]:
    return {
        region: _millilitres(sum(int(counts[v]) for v in REGION_LABELS[region]), voxel_mm3)
        if has_t1c or region == "WT"
        else None
        for region in REGIONS
    }


def tumour_box(labels: npt.NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """Return the smallest box (z, y, x) that holds every voxel that is not 0; an empty one when there is none."""
    planes = np.flatnonzero(labels.any(axis=(1, 2)))
    if not planes.size:
        return slice(0), slice(0), slice(0)
    z = slice(int(planes[0]), int(planes[-1]) + 1)  # most planes are empty, and the other axes need not look at those
    y, x = (np.flatnonzero(labels[z].any(axis=(0, axis))) for axis in (2, 1))
    return z, slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


def volumes_ml(labels: npt.NDArray[np.uint8], voxel_mm3: float, *, has_t1c: bool = True) -> dict[str, float | None]:
    """Return mL by region of a label map of any shape: voxels counted × voxel volume.

    TC and ET are None without a contrast-enhanced T1, which they cannot be told apart without.
    """
    counts = np.array([np.count_nonzero(labels == value) for value in range(4)])
    return _regions(counts, voxel_mm3, has_t1c)


def lesions(
    labels: npt.NDArray[np.uint8], voxel_mm3: float, *, has_t1c: bool = True, midline_x: float | None = None
) -> tuple[Lesion, ...]:
    """Return the components of the whole tumour of a label map (z, y, x), largest first; empty when there is none.

    `midline_x` is the voxel index that divides right from left, by default the middle of the array.
    """
    midline = (labels.shape[2] - 1) / 2 if midline_x is None else midline_x
    box = tumour_box(labels)
    cropped, start = labels[box], [axis.start or 0 for axis in box]
    if not cropped.size:
        return ()
    labelled, count = components(cropped > 0)
    at = np.nonzero(labelled)
    which, values = labelled[at].astype(np.int64), cropped[at].astype(np.int64)
    table = np.bincount(which * 4 + values, minlength=4 * (count + 1)).reshape(count + 1, 4)
    sizes = table.sum(axis=1)
    centres = [np.bincount(which, weights=i, minlength=count + 1) for i in at]
    left = np.bincount(which[at[2] + start[2] > midline], minlength=count + 1)
    found = [
        Lesion(
            _regions(table[n], voxel_mm3, has_t1c),
            tuple(round(float(c[n]) / int(sizes[n]) + s, 1) for c, s in zip(centres, start, strict=True)),  # type: ignore[arg-type]  # three axes
            round(int(left[n]) / int(sizes[n]), 4),
        )
        for n in range(1, count + 1)
    ]
    return tuple(sorted(found, key=lambda lesion: -(lesion.volumes_ml["WT"] or 0)))

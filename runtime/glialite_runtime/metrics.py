"""Overlap of two segmentations: the one implementation that training, export and the clinic share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glialite_runtime.sequences import REGION_LABELS, REGIONS

__all__ = ["dice", "dice_per_region", "region_masks"]


def region_masks(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return the region masks of a label map.

    Parameters
    ----------
    labels : integer array (z, y, x)
        BraTS-2023 values.

    Returns
    -------
    bool array (3, z, y, x)
        Regions as in `REGIONS`.
    """
    return np.stack([np.isin(labels, REGION_LABELS[region]) for region in REGIONS])


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Return the Dice coefficient of two masks of one shape; NaN when both are empty, 0 when only one is.

    Source: Dice, Ecology 26 (1945) 297-302.
    """
    if first.shape != second.shape:
        raise ValueError(f"masks of different shapes: {first.shape} and {second.shape}")
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2 * np.count_nonzero(first & second) / total) if total else float("nan")


def dice_per_region(
    prediction: npt.NDArray[np.integer], reference: npt.NDArray[np.integer]
) -> tuple[float, float, float]:
    """Return the Dice coefficient of WT, TC and ET of two label maps (z, y, x); see `dice` for empty regions."""
    pairs = zip(region_masks(prediction), region_masks(reference), strict=True)
    wt, tc, et = (dice(a, b) for a, b in pairs)
    return wt, tc, et

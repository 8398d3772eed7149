"""How much of an outline could as well lie elsewhere: voxels whose probability is close to the threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.metrics import region_masks
from glialite_runtime.sequences import REGIONS

__all__ = ["UNCERTAIN_LOGIT", "bands_of", "uncertainty"]

UNCERTAIN_LOGIT: Final = math.log(3)
"""Distance of a logit from its threshold under which a voxel is uncertain: odds within a factor of 3 of those at the
threshold, which for a threshold of 0.5 are probabilities from 0.25 to 0.75."""

_REVIEW_SHARE: Final = 0.2
_REVIEW_ML: Final = 0.1


def bands_of(logits: npt.NDArray[np.float32], thresholds: Sequence[float], margin: float) -> npt.NDArray[np.uint8]:
    """Return how logits lie to their thresholds, uint8 (3, z, y, x).

    0 below by the margin or more, 1 below, 2 above, 3 above by more than the margin.

    Parameters
    ----------
    logits : float32 array (3, z, y, x)
        Regions as in `REGIONS`.
    thresholds : sequence of float
        One a region.
    margin : float
        At least 0.
    """
    limits = np.array(thresholds, np.float32).reshape(-1, 1, 1, 1)
    bands = np.zeros(logits.shape, np.uint8)
    for shift in (-margin, 0.0, margin):
        bands += logits > limits + np.float32(shift)
    return bands


def uncertainty(
    bands: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], voxel_mm3: float, *, has_t1c: bool = True
) -> dict[str, dict[str, float | bool]]:
    """Return region -> `ml` uncertain, their `share` of all that may be the region, and whether to `review` it.

    Parameters
    ----------
    bands : uint8 array (3, z, y, x)
        See `bands_of`, for a margin of `UNCERTAIN_LOGIT`.
    labels : uint8 array (z, y, x)
        What was decided: a voxel above its threshold that did not become the region (a speck, core outside its rim)
        is not in doubt.
    voxel_mm3 : float
        Volume of a voxel.
    has_t1c : bool
        Without it only the whole tumour is told of.
    """
    found: dict[str, dict[str, float | bool]] = {}
    for region, band, mask in zip(REGIONS, bands, region_masks(labels), strict=True):
        if not has_t1c and region != "WT":
            continue
        below, sure = np.count_nonzero(band == 1), int(np.count_nonzero(mask & (band == 3)))
        possible = int(below + np.count_nonzero(mask & (band >= 2)))
        share = (possible - sure) / possible if possible else 0.0
        ml = (possible - sure) * voxel_mm3 / 1000
        review = share > _REVIEW_SHARE and ml > _REVIEW_ML
        found[region] = {"ml": round(ml, 3), "share": round(share, 4), "review": review}
    return found

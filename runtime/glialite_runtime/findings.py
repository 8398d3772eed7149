"""What a label map shows, as a report says it: volumes, side, diameters, lesions and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.diameters import largest_diameters
from glialite_runtime.measure import Lesion, lesions, tumour_box, volumes_ml
from glialite_runtime.metrics import region_masks
from glialite_runtime.nifti import Image
from glialite_runtime.sequences import REGIONS
from glialite_runtime.volume import Orientation

__all__ = ["Frame", "describe", "findings_of"]

_LISTED_ML: Final = 0.05  # smaller components are counted, not listed
_ONE_SIDE: Final = 0.9  # share of its voxels that makes an area one of the left or of the right
_MEASURED: Final = ("WT", "ET")  # regions whose diameters RANO asks for


@dataclass(frozen=True, slots=True)
class Frame:
    """The grid that a label map lies on, in LPS.

    Attributes
    ----------
    spacing_mm : tuple of float
        Voxel size along z, y, x.
    voxel_mm3 : float
        Volume of a voxel.
    brain_box : tuple of two tuples of int
        First voxel (z, y, x) of the brain, and the one behind its last: what positions refer to.
    """

    spacing_mm: tuple[float, float, float]
    voxel_mm3: float
    brain_box: tuple[tuple[int, int, int], tuple[int, int, int]]

    @classmethod
    def of(cls, image: Image, brain_box: tuple[tuple[int, int, int], tuple[int, int, int]]) -> Frame:
        """Return the frame of an image that is turned to LPS."""
        return cls(Orientation.of(image.affine).spacing_mm(image), image.voxel_mm3, brain_box)

    @property
    def midline_x(self) -> float:
        """Index along x of the middle of the brain's box."""
        return (self.brain_box[0][2] + self.brain_box[1][2] - 1) / 2


def findings_of(labels: npt.NDArray[np.uint8], frame: Frame, *, has_t1c: bool) -> dict[str, Any]:
    """Measure a label map (z, y, x) in LPS; see `describe` for what comes back."""
    found = lesions(labels, frame.voxel_mm3, has_t1c=has_t1c, midline_x=frame.midline_x)
    return describe(labels, frame, volumes_ml(labels, frame.voxel_mm3, has_t1c=has_t1c), found)


def describe(
    labels: npt.NDArray[np.uint8], frame: Frame, volumes: dict[str, float | None], found: Sequence[Lesion]
) -> dict[str, Any]:
    """Return what a report says of a label map that has been measured.

    Parameters
    ----------
    labels : uint8 array (z, y, x)
        BraTS-2023 values, in LPS.
    frame : Frame
        Its grid.
    volumes : dict
        Region -> mL, None where it cannot be reported.
    found : sequence of Lesion
        Its components, largest first.

    Returns
    -------
    dict
        `volumes_ml`; `hemisphere` ("left", "right", "both" or "none") and `left_share`; `diameters` of WT and ET, None
        where there is nothing to measure; `lesions` with number, side and position, and `lesions_not_listed`.
    """
    sizes = [lesion.volumes_ml["WT"] or 0.0 for lesion in found]
    total = sum(sizes)
    left = sum(size * lesion.left_share for size, lesion in zip(sizes, found, strict=True)) / total if total else 0.5
    listed = [lesion for lesion, size in zip(found, sizes, strict=True) if size >= _LISTED_ML]
    return {
        "volumes_ml": volumes,
        "hemisphere": _side(left) if total else "none",
        "left_share": round(left, 4) if total else None,
        "diameters": _diameters(labels, frame, volumes),
        "lesions": [
            {"number": number, "side": _side(lesion.left_share), **_position(lesion, frame), **asdict(lesion)}
            for number, lesion in enumerate(listed, 1)
        ],
        "lesions_not_listed": len(found) - len(listed),
    }


def _side(left_share: float) -> str:
    if left_share >= _ONE_SIDE:
        return "left"
    return "right" if left_share <= 1 - _ONE_SIDE else "both"


def _position(lesion: Lesion, frame: Frame) -> dict[str, str]:
    """Return which third of the brain's box the centre of a lesion lies in, along z and along y (the back is +)."""
    z, y = (
        min(max(int(3 * (at - start) / max(stop - start, 1)), 0), 2)
        for at, start, stop in zip(lesion.centre_zyx[:2], *(corner[:2] for corner in frame.brain_box), strict=True)
    )
    return {"depth": ("front", "middle", "back")[y], "height": ("lower", "middle", "upper")[z]}


def _diameters(
    labels: npt.NDArray[np.uint8], frame: Frame, volumes: dict[str, float | None]
) -> dict[str, dict[str, Any] | None]:
    at = tumour_box(labels)
    box = labels[at]
    if not box.size:
        return dict.fromkeys(_MEASURED)
    masks = dict(zip(REGIONS, region_masks(box), strict=True))
    found: dict[str, dict[str, Any] | None] = {}
    for region in _MEASURED:
        measured = largest_diameters(masks[region], frame.spacing_mm) if volumes[region] is not None else None
        found[region] = asdict(measured) | {"slice_z": measured.slice_z + at[0].start} if measured else None
    return found

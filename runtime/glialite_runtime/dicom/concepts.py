"""What the label map holds, in the words and codes of DICOM.

Source: DICOM PS3.16, CID 7159 "Lesion Segmentation Type" (neoplasm, edema, enhancing and non-enhancing lesion).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from glialite_runtime.dicom.instances import SCHEME
from glialite_runtime.picture import COLOURS
from glialite_runtime.sequences import ET, NETC, REGION_LABELS, SNFH

__all__ = ["REGION_CODES", "Segment", "segments"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a DICOM SEG; segments never overlap.

    Attributes
    ----------
    name : str
        What a viewer lists: BraTS' short name and what it means.
    labels : tuple of int
        Label values that it holds.
    code : Code
        Segmented property type.
    colour : tuple of int
        Recommended display colour: red, green, blue.
    """

    name: str
    labels: tuple[int, ...]
    code: Code
    colour: tuple[int, int, int]


_WITH_CONTRAST: Final = (
    Segment("NETC: non-enhancing or necrotic core", (NETC,), codes.NCIt.NonEnhancingLesion, COLOURS["TC"]),
    Segment("SNFH: surrounding FLAIR hyperintensity", (SNFH,), codes.SCT.Edema, COLOURS["WT"]),
    Segment("ET: enhancing tumour", (ET,), codes.NCIt.EnhancingLesion, COLOURS["ET"]),
)
_WITHOUT: Final = (Segment("WT: whole tumour", REGION_LABELS["WT"], codes.SCT.Neoplasm, COLOURS["WT"]),)

REGION_CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        "WT": codes.SCT.Neoplasm,
        "TC": Code("TC", SCHEME, "Tumour core: enhancing, non-enhancing or necrotic"),
        "ET": codes.NCIt.EnhancingLesion,
    }
)


def segments(labels: npt.NDArray[np.uint8], document: dict[str, Any]) -> tuple[Segment, ...]:
    """Return the segments that have voxels, in the order of their labels; none for an empty map.

    BraTS' three labels; without a contrast-enhanced T1, which they cannot be told apart without, the whole tumour.
    A segment without voxels is left out: viewers list it and cannot show it.
    """
    possible = _WITH_CONTRAST if document["volumes_ml"]["TC"] is not None else _WITHOUT
    present = {value for value in (NETC, SNFH, ET) if (labels == value).any()}
    return tuple(segment for segment in possible if present & set(segment.labels))

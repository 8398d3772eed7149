"""An enhanced multi-frame image as the source of DICOM outputs: its frames one by one, and a stand-in for all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage
from pydicom.valuerep import format_number_as_ds

from glialite_runtime.dicom.elements import numbers
from glialite_runtime.dicom.functional_groups import frame_values
from glialite_runtime.errors import GeometryError, InputError

__all__ = ["MULTIFRAME", "frame_images", "multiframe_stand_in"]

MULTIFRAME: Final = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
"""Kinds of image that hold all frames of a series in one file."""

_GEOMETRY: Final = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")


def frame_images(image: Dataset) -> tuple[list[Dataset], tuple[int, ...]]:
    """Return the frames of a file, sorted along their normal as those of a series are.

    Parameters
    ----------
    image : Dataset
        Of a kind in `MULTIFRAME`; pixels are not needed. Not changed.

    Returns
    -------
    list of Dataset
        Size and geometry of each frame, as a classic image states them.
    tuple of int
        Place in the list of each frame of the file.

    Raises
    ------
    InputError
        The file is damaged, or describes more frames than are accepted.
    GeometryError
        A frame has no position or no orientation.
    """
    try:
        found = [_classic(image, values) for values in frame_values(image)]
    except InputError:
        raise
    except Exception as error:  # pydicom parses on access, and raises many kinds on damaged elements
        raise InputError("the frames of a DICOM image cannot be read; copy the study again") from error
    places = [numbers(frame.get("ImagePositionPatient"), 3) for frame in found]
    turn = numbers(found[0].get("ImageOrientationPatient"), 6) if found else None
    if turn is None or any(place is None for place in places):
        raise GeometryError("a frame of the image has no position or orientation in the patient; export it again")
    order = np.argsort(np.array(places) @ np.cross(turn[:3], turn[3:]), kind="stable")
    return [found[int(n)] for n in order], tuple(int(n) for n in np.argsort(order))


def _classic(image: Dataset, values: Mapping[str, Any]) -> Dataset:
    frame = Dataset()
    frame.Rows, frame.Columns = image.get("Rows"), image.get("Columns")
    for keyword in _GEOMETRY:
        if (value := values.get(keyword, image.get(keyword))) is not None:
            setattr(frame, keyword, value)
    return frame


def multiframe_stand_in(
    shared: Dataset, instance: str, positions: npt.NDArray[np.float64], order: Sequence[int]
) -> Dataset:
    """Return a file of many frames with nothing in it but identifiers and geometry.

    Parameters
    ----------
    shared : Dataset
        The stand-in of a classic image, without what tells one slice from another; its SOP class is the file's.
    instance : str
        SOP Instance UID of the file.
    positions : float64 array (slice, xyz)
        In mm, sorted along the normal.
    order : sequence of int
        Slice of each frame of the file.
    """
    image = Dataset({element.tag: element for element in shared})
    measures, orientation, groups = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = shared.PixelSpacing, shared.SliceThickness
    orientation.ImageOrientationPatient = shared.ImageOrientationPatient
    groups.PixelMeasuresSequence, groups.PlaneOrientationSequence = [measures], [orientation]
    del image.PixelSpacing, image.SliceThickness, image.ImageOrientationPatient
    image.SOPInstanceUID, image.NumberOfFrames = instance, len(order)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [groups], []
    for slice_ in order:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [format_number_as_ds(float(v)) for v in positions[slice_]]
        frame.PlanePositionSequence = [place]
        image.PerFrameFunctionalGroupsSequence.append(frame)
    return image

"""The series that a label map lies on, checked, and reduced to what an output may take over from it.

Headers come from scanners, archives and USB sticks: values are missing, malformed or longer than the standard allows.
What the outputs are computed from (geometry, UIDs) is checked here once; whom they belong to (`CARRIED`) is taken over
letter by letter, right or wrong, because an archive files an object under exactly these letters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import numpy.typing as npt
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from glialite_runtime.dicom.multiframe import MULTIFRAME, frame_images, multiframe_stand_in
from glialite_runtime.errors import GeometryError, InputError

__all__ = ["CARRIED", "SourceSeries", "source_series"]

TYPE_2: Final = {
    "PatientName": "PN",
    "PatientID": "LO",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "StudyID": "SH",
    "AccessionNumber": "SH",
    "ReferringPhysicianName": "PN",
}
"""Keyword -> value representation of what every DICOM object has to have, empty where it is not known."""

CARRIED: Final = TYPE_2 | {
    "IssuerOfPatientID": "LO",
    "OtherPatientIDs": "LO",
    "PatientIdentityRemoved": "CS",
    "DeidentificationMethod": "LO",
    "StudyDescription": "LO",
    "TimezoneOffsetFromUTC": "SH",
}
"""Keyword -> value representation of the patient and the study, taken over unchanged."""

_ONE_PATIENT: Final = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
_ONE_STUDY: Final = ("StudyInstanceUID", "AccessionNumber", "StudyID", "StudyDate")
_SAME_DIRECTION: Final = 1e-3  # cosines: what vendors round away between slices of one series
_SAME_PLACE_MM: Final = 1e-3
_UNDECODED: Final = "\N{REPLACEMENT CHARACTER}"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """A series as the outputs need it.

    Attributes
    ----------
    images : tuple of Dataset
        Stand-ins with UIDs and geometry, without pixels, with nothing about the patient: one a slice, in the order
        given, or one alone for a multi-frame file.
    carried : dict of str to DataElement
        Keyword -> element of `CARRIED` as it stands in the source; elements that it lacks are empty.
    thickness_mm : float
        Slice thickness; where the header has none, the distance between slices.
    order : tuple of int
        Slice of the label map that each image, or each frame of the multi-frame file, shows.
    """

    images: tuple[Dataset, ...]
    carried: dict[str, DataElement]
    thickness_mm: float
    order: tuple[int, ...]

    def text(self, keyword: str) -> str:
        """Return an element of `carried` as text; empty when it is not known."""
        return str(self.carried[keyword].value or "") if keyword in self.carried else ""


def source_series(datasets: Sequence[Dataset], shape: tuple[int, ...]) -> SourceSeries:
    """Check the images of one series against each other and against a label map.

    Parameters
    ----------
    datasets : sequence of Dataset
        The classic MR images of one series, sorted by slice in either direction, or one enhanced multi-frame image;
        pixels are not needed. Not changed.
    shape : tuple of int
        Slices, rows and columns of the label map; the slices of a multi-frame image are sorted along their normal.

    Returns
    -------
    SourceSeries
        Stand-ins and the identity that they share.

    Raises
    ------
    InputError
        Not one patient, one study or one series; not MR images; an identifier cannot be read.
    GeometryError
        Not one frame of reference, or size, spacing, directions and positions are missing, differ or are not sorted.
    """
    with config.disable_value_validation():  # its remarks would put patients' names into the log
        return _source_series(datasets, shape)


def _source_series(datasets: Sequence[Dataset], shape: tuple[int, ...]) -> SourceSeries:
    if not datasets:
        raise InputError("no DICOM images were given: the outputs need the series that was segmented")
    multiframe = _is_multiframe(datasets)
    for keyword in (*_ONE_PATIENT, *_ONE_STUDY):
        what = "patients" if keyword in _ONE_PATIENT else "studies"
        _one(datasets, keyword, f"the images belong to different {what}")
    series = _one(datasets, "SeriesInstanceUID", "the images belong to different series")
    frame = _one(datasets, "FrameOfReferenceUID", "the images lie in different frames of reference", GeometryError)
    study = _one(datasets, "StudyInstanceUID", "the images belong to different studies")
    instances = [_text(image, "SOPInstanceUID") for image in datasets]
    if not frame:
        _log.info("FrameOfReferenceUID is missing in the source series: the outputs have one that is this series' own")
        frame = f"2.25.{uuid5(NAMESPACE_OID, f'GliaLite frame of reference {series}').int}"
    for uid in {series, frame, study, *instances}:
        _refuse_bad_uid(uid)
    if len(set(instances)) != len(instances):
        raise InputError("two images of the series have the same SOP Instance UID; copy the study again")
    slices, order = frame_images(datasets[0]) if multiframe else (datasets, tuple(range(len(datasets))))
    positions, orientation, spacing_mm = _geometry(slices, shape)
    thickness_mm = _thickness_mm(slices[0], positions, orientation)
    shared = Dataset()
    shared.SOPClassUID = UID(_text(datasets[0], "SOPClassUID"))
    shared.Modality, shared.PositionReferenceIndicator = "MR", ""
    shared.StudyInstanceUID, shared.SeriesInstanceUID, shared.FrameOfReferenceUID = study, series, frame
    shared.Rows, shared.Columns = shape[1:]
    shared.PixelSpacing = [format_number_as_ds(v) for v in spacing_mm]
    shared.SliceThickness = format_number_as_ds(thickness_mm)
    shared.ImageOrientationPatient = [format_number_as_ds(v) for v in orientation]
    for keyword, representation in TYPE_2.items():
        shared[keyword] = DataElement(keyword, representation, "")
    if multiframe:
        stand_ins: tuple[Dataset, ...] = (multiframe_stand_in(shared, instances[0], positions, order),)
    else:
        stand_ins = tuple(_stand_in(shared, *slice_) for slice_ in zip(instances, positions, strict=True))
    return SourceSeries(stand_ins, _carried(datasets[0]), thickness_mm, order)


def _stand_in(shared: Dataset, instance: str, position: npt.NDArray[np.float64]) -> Dataset:
    image = Dataset({element.tag: element for element in shared})
    image.SOPInstanceUID = instance
    image.ImagePositionPatient = [format_number_as_ds(v) for v in position]
    return image


def _is_multiframe(datasets: Sequence[Dataset]) -> bool:
    """Return whether this is one enhanced image of many frames; raise unless it is that or classic images."""
    if len(datasets) == 1 and _text(datasets[0], "SOPClassUID") in MULTIFRAME:
        return True
    for image in datasets:
        kind = UID(_text(image, "SOPClassUID"))
        if kind != MRImageStorage or _text(image, "NumberOfFrames") not in ("", "1"):
            raise InputError(
                "DICOM results can be made for classic MR images (one file a slice) and for one enhanced multi-frame "
                f"MR image, not for {kind.name or 'these'}; export the study again as classic MR, or use the NIfTI "
                "label map"
            )
    return False


def _text(image: Dataset, keyword: str) -> str:
    """Return an element as text; absent and empty are the same."""
    try:
        return str(image[keyword].value or "") if keyword in image else ""
    except Exception as error:  # pydicom parses on access, and raises many kinds on damaged elements
        raise InputError(f"{keyword} of a DICOM image cannot be read; copy the study again") from error


def _one(datasets: Sequence[Dataset], keyword: str, what: str, error: type[InputError] = InputError) -> str:
    """Return the value that all images share; the message of the error names no value, a log is not a patient file."""
    found = {_text(image, keyword) for image in datasets}
    if len(found) != 1:
        raise error(f"{what} ({keyword} has {len(found)} values in {len(datasets)} images); give one series")
    return found.pop()


def _refuse_bad_uid(uid: str) -> None:
    """Raise for what is not digits and dots; a component with a leading zero, which some vendors write, is let in."""
    if not uid or len(uid) > 64 or not all(part.isascii() and part.isdigit() for part in uid.split(".")):
        raise InputError("a UID of the study, series or an image is missing or is not one; copy the study again")


def _numbers(image: Dataset, keyword: str, count: int) -> npt.NDArray[np.float64]:
    try:
        value: Any = image[keyword].value
        numbers = np.atleast_1d(np.array(value, np.float64))
    except Exception as error:
        raise GeometryError(f"{keyword} of a DICOM image is missing or not a number; copy the study again") from error
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise GeometryError(f"{keyword} of a DICOM image is {numbers.size} values, not {count} finite ones")
    return numbers


def _geometry(
    datasets: Sequence[Dataset], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positions (slice, xyz) in mm, the orientation's six cosines, and the spacing of rows and columns in mm."""
    if len(shape) != 3 or len(datasets) != shape[0]:
        raise GeometryError(
            f"{len(datasets)} images were given for a label map of shape {shape} (slices, rows, columns)"
        )
    for image in datasets:
        size = (int(_numbers(image, "Rows", 1)[0]), int(_numbers(image, "Columns", 1)[0]))
        if size != tuple(shape[1:]):
            raise GeometryError(f"an image has {size[0]} × {size[1]} pixels, the label map {shape[1]} × {shape[2]}")
    orientations = np.stack([_numbers(image, "ImageOrientationPatient", 6) for image in datasets])
    spacings = np.stack([_numbers(image, "PixelSpacing", 2) for image in datasets])
    positions = np.stack([_numbers(image, "ImagePositionPatient", 3) for image in datasets])
    row, column = orientations[0, :3], orientations[0, 3:]
    cosines = np.array([row @ row - 1, column @ column - 1, row @ column])
    if np.abs(cosines).max() > _SAME_DIRECTION or (spacings <= 0).any():
        raise GeometryError(
            "rows and columns of the images are not perpendicular, or the pixel spacing is not positive"
        )
    if np.ptp(orientations, axis=0).max() > _SAME_DIRECTION or np.ptp(spacings, axis=0).max() > _SAME_PLACE_MM:
        raise GeometryError("the images of the series differ in direction or pixel spacing: it is not one stack")
    steps = np.diff(positions @ np.cross(row, column))
    if not ((steps > _SAME_PLACE_MM).all() or (steps < -_SAME_PLACE_MM).all()):
        raise GeometryError("two images of the series lie at the same place, or they are not sorted by slice")
    return positions, orientations[0], spacings[0]


def _thickness_mm(image: Dataset, positions: npt.NDArray[np.float64], orientation: npt.NDArray[np.float64]) -> float:
    try:
        stated = float(_numbers(image, "SliceThickness", 1)[0])
    except GeometryError:
        stated = 0.0
    if stated > 0:
        return stated
    steps = np.abs(np.diff(positions @ np.cross(orientation[:3], orientation[3:])))
    if not steps.size:
        raise GeometryError("a series of one image has no SliceThickness: its volume is not known")
    _log.info("SliceThickness is missing in the source series: the outputs state the distance between slices")
    return float(np.median(steps))


def _carried(image: Dataset) -> dict[str, DataElement]:
    """Return the elements of `CARRIED` with their value as it stands, empty where type 2 is missing."""
    found, missing = {}, []
    for keyword, representation in CARRIED.items():
        text = _text(image, keyword)
        if keyword in image and representation != image[keyword].VR:
            raise InputError(f"{keyword} of a DICOM image is not text; copy the study again")
        if _UNDECODED in text:
            if keyword not in TYPE_2:
                continue
            raise InputError(
                f"{keyword} of the series has letters that its character set lacks; export the study again"
            )
        if text:
            found[keyword] = DataElement(keyword, representation, image[keyword].value, validation_mode=config.IGNORE)
        elif keyword in TYPE_2:
            found[keyword] = DataElement(keyword, representation, "")
            missing.append(keyword)
    if missing:
        _log.info("empty in the source series, and left empty in the DICOM outputs: %s", ", ".join(missing))
    return found

"""A synthetic MR series as an archive sends it, and a report about it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

SHAPE = (9, 24, 20)


def mr_series(
    shape: tuple[int, int, int] = SHAPE,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    step: tuple[float, float, float] = (0, 0, 4.0),
) -> list[Dataset]:
    """Return the images of a series; `step` is the way from one to the next in mm, sheared where it is no normal."""
    return [_read_again(_image(n, shape, orientation, step)) for n in range(shape[0])]


def _image(n: int, shape: tuple[int, int, int], orientation: tuple[float, ...], step: tuple[float, ...]) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, f"1.2.3.4.{n + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    image.PatientName, image.PatientID = "Kipchoge^Zoë", "KNH-00017"
    image.PatientBirthDate, image.PatientSex, image.PatientAge = "19800229", "F", "044Y"
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240301", "101500", "S1", "ACC-5"
    image.ReferringPhysicianName, image.StudyDescription = "Otieno^A", "MR head"
    image.Modality, image.Manufacturer, image.SeriesNumber, image.InstanceNumber = "MR", "Maker", 4, n + 1
    image.PixelSpacing, image.SliceThickness = [0.9, 1.1], 3.5
    image.ImageOrientationPatient = list(orientation)
    image.ImagePositionPatient = [-80.0 + n * step[0], -90.0 + n * step[1], 12.0 + n * step[2]]
    image.Rows, image.Columns = shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelData = np.full(shape[1:], n, np.uint16).tobytes()
    return image


def _read_again(image: Dataset) -> Dataset:
    """Return the image as it comes out of a file: elements are raw until somebody looks at them."""
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    dcmwrite(stream, image, enforce_file_format=True)
    return dcmread(BytesIO(stream.getvalue()))


def tumour(shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.uint8]:
    """Return a label map (slice, row, column): oedema around a rim around a core; differs along every axis."""
    labels = np.zeros(shape, np.uint8)
    labels[1:6, 3:15, 4:13] = 2
    labels[2:5, 5:12, 6:11] = 3
    labels[3, 6:9, 7:9] = 1
    labels[7, 20, 2] = 2
    return labels


def report(labels: npt.NDArray[np.uint8], *, has_t1c: bool = True) -> dict[str, Any]:
    """Return the JSON report of a label map on `mr_series` (3.96 mm³ a voxel)."""
    voxels = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    volumes: dict[str, float | None] = {
        region: round(float(np.isin(labels, values).sum()) * 3.96e-3, 6) for region, values in voxels.items()
    }
    reason = "cannot be told apart without a contrast-enhanced T1 (t1c)"
    if not has_t1c:
        volumes |= {"TC": None, "ET": None}
    intervals = {
        region: {"rate": 0.9, "low": round(0.8 * ml, 3), "high": round(1.3 * ml, 3)}
        for region, ml in volumes.items()
        if ml is not None
    }
    return {
        "case": "P17",
        "created": "2024-03-02T08:15:30+00:00",
        "software": "GliaLite 0.1.0",
        "volumes_ml": volumes,
        "volume_intervals_ml": intervals,
        "not_reported": {} if has_t1c else {"TC": reason, "ET": reason},
        "quality": {"verdict": "good", "notes": [], "findings": []},
        "bundle": {
            "name": "glioma-s",
            "sha256": "ab" * 32,
            "trained_on": "synthetic patients only",
            "intended_use": "Research.",
            "precision": "int8",
            "golden_crop": "matches",
        },
        "timings_s": {"network": 0.4},
    }

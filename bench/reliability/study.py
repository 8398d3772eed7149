"""A phantom as a DICOM study, four series of classic slices as a scanner writes them, for proofs that damage one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["written_study"]

_ROOT: Final = "2.25.3141592653589793"
_HOW: Final[dict[str, dict[str, Any]]] = {
    "t1n": {"SeriesDescription": "t1 se", "RepetitionTime": 500, "EchoTime": 10, "ScanningSequence": "SE",
            "AcquisitionTime": "100000"},
    "t1c": {"SeriesDescription": "t1 se gd", "RepetitionTime": 500, "EchoTime": 10, "ScanningSequence": "SE",
            "AcquisitionTime": "103000", "ContrastBolusAgent": "Gadovist"},
    "t2w": {"SeriesDescription": "t2 tse", "RepetitionTime": 4000, "EchoTime": 100, "ScanningSequence": "SE",
            "AcquisitionTime": "101000"},
    "t2f": {"SeriesDescription": "flair", "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500,
            "ScanningSequence": ["SE", "IR"], "AcquisitionTime": "102000"},
}  # fmt: skip
"""Sequence -> what tells it from the others."""


def written_study(cases: Path, folder: Path, step: int = 2) -> Path:
    """Return a folder ``study`` with every `step`-th voxel of a phantom of 2 mm, at its true size, made once."""
    import nibabel as nib
    from glialite_runtime.cases import find_cases

    made, begun = folder / "study", folder / ".study.part"
    if made.is_dir():
        return made
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    for number, (sequence, path) in enumerate(find_cases(cases)[0].paths.items(), 1):
        image = nib.as_closest_canonical(nib.load(path))
        voxels = np.asarray(image.dataobj)[::-step, ::-step, ::step].transpose(2, 1, 0)  # RAS to slices of LPS
        size_mm = step * np.array(image.header.get_zooms()[:3], float)[::-1]
        for index, plane in enumerate(voxels.clip(0).astype(np.uint16)):
            slice_ = _slice(number, index, plane, size_mm)
            for keyword, value in _HOW[sequence].items():
                setattr(slice_, keyword, value)
            slice_.save_as(begun / f"{sequence}-{index:03}.dcm", enforce_file_format=True)
    return begun.rename(made)


def _slice(number: int, index: int, plane: npt.NDArray[np.uint16], size_mm: npt.NDArray[np.float64]) -> Any:
    """Return a slice (row, column) of a series; `size_mm` is a voxel's in z, y, x."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"{_ROOT}.{number}.{index + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{_ROOT}.9", f"{_ROOT}.{number}"
    image.FrameOfReferenceUID, image.StudyID, image.AccessionNumber = f"{_ROOT}.8", "1", "A1"
    image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "P-1", "Phantom", "19700101", "O"
    image.StudyDate, image.StudyTime, image.AcquisitionDate = "20260301", "095500", "20260301"
    image.ReferringPhysicianName, image.Manufacturer, image.Modality = "", "GliaLite", "MR"
    image.ImageType, image.SequenceVariant, image.MRAcquisitionType = ["ORIGINAL", "PRIMARY", "OTHER"], "SK", "2D"
    image.SeriesNumber, image.InstanceNumber = number, index + 1
    image.SliceThickness, image.PixelSpacing = float(size_mm[0]), [float(size_mm[1]), float(size_mm[2])]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.ImagePositionPatient = [-100.0, -100.0, float(index * size_mm[0])]
    image.Rows, image.Columns, image.SamplesPerPixel = *plane.shape, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelData = np.ascontiguousarray(plane).tobytes()
    return image

"""DICOM studies written from arrays, as scanners write them: the truth about every voxel is known."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra: dicom)")

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
SHAPE = (24, 48, 64)
"""Slices, rows, columns: 120 × 168 × 224 mm."""


def tilted(degrees: float, orientation: tuple[Any, Any] = AXIAL) -> tuple[Any, Any]:
    """Return directions of row and column index turned about left-right, then a third of that about feet-head."""
    a, b = np.radians([degrees, degrees / 3])
    turn = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    )
    return tuple(turn @ orientation[0]), tuple(turn @ orientation[1])


@dataclass(frozen=True)
class Written:
    """A series to write: how it was acquired, where it lies (LPS, mm), and any tag to add or to overwrite."""

    number: int
    description: str = ""
    tr: float | None = 500
    te: float | None = 10
    ti: float | None = None
    scanning: tuple[str, ...] = ("SE",)
    time: str = "100000"
    shape: tuple[int, int, int] = SHAPE
    orientation: tuple[Any, Any] = AXIAL
    origin: tuple[float, float, float] = (-110.0, -80.0, -60.0)
    pixel_mm: tuple[float, float] = (3.5, 3.5)
    spacing_mm: float = 5.0
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        return np.cross(*self.orientation)

    def place(self, slice_: int, row: int, column: int) -> npt.NDArray[np.float64]:
        """Return where a pixel lies in the patient (LPS, mm), from the definition in DICOM PS3.3 C.7.6.2.1.1."""
        along_row, along_column = np.array(self.orientation)
        start = np.array(self.origin) + slice_ * self.spacing_mm * self.normal
        return start + column * self.pixel_mm[1] * along_row + row * self.pixel_mm[0] * along_column


T1N = Written(3, "t1 se tra", time="100000")
T1C = Written(6, "t1 se tra gd", time="103000", tags={"ContrastBolusAgent": "Gadovist"})
T2W = Written(4, "t2 tse tra", tr=4000, te=100, time="101000")
T2F = Written(5, "flair tra", tr=9000, te=120, ti=2500, scanning=("SE", "IR"), time="102000")
STUDY = (T1N, T2W, T2F, T1C)


def pixels(series: Written) -> npt.NDArray[np.int16]:
    """Return values (slice, row, column) that differ between any two neighbours, and between series."""
    rng = np.random.default_rng(series.number)
    return rng.integers(1, 900, series.shape, np.int16)


def images(series: Written, data: npt.NDArray[np.int16] | None = None) -> list[Any]:
    """Return the slices of a series as data sets, the first at its origin."""
    data = pixels(series) if data is None else data
    made = []
    for index, plane in enumerate(data):
        image = pydicom.dataset.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = pydicom.uid.MRImageStorage
        uid = f"1.2.826.0.1.3680043.10.543.{series.number}.{index + 1}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid
        image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.826.0.1.3680043.10.543.1", f"{uid.rsplit('.', 1)[0]}.0"
        image.FrameOfReferenceUID = "1.2.826.0.1.3680043.10.543.2"
        image.PatientID, image.PatientName, image.PatientBirthDate = "P-0017", "Mwangi^A", "19700102"
        image.AccessionNumber, image.StudyDate, image.AcquisitionDate = "A4711", "20260301", "20260301"
        image.StudyID, image.PatientSex, image.StudyTime, image.ReferringPhysicianName = "1", "F", "095500", ""
        image.Modality, image.Manufacturer, image.ImageType = "MR", "Hitachi", ["ORIGINAL", "PRIMARY", "OTHER"]
        image.MagneticFieldStrength, image.MRAcquisitionType = 0.3, "2D"
        image.SeriesNumber, image.InstanceNumber, image.SeriesDescription = series.number, index + 1, series.description
        image.AcquisitionTime, image.ScanningSequence, image.SequenceVariant = series.time, list(series.scanning), "SK"
        image.RepetitionTime, image.EchoTime, image.InversionTime = series.tr, series.te, series.ti
        image.SliceThickness, image.PixelSpacing = series.spacing_mm, list(series.pixel_mm)
        image.ImageOrientationPatient = [f"{v:.9f}" for v in (*series.orientation[0], *series.orientation[1])]
        image.ImagePositionPatient = [f"{v:.6f}" for v in series.place(index, 0, 0)]
        image.Rows, image.Columns, image.SamplesPerPixel = *plane.shape, 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
        image.PixelData = plane.tobytes()
        for keyword, value in series.tags.items():
            setattr(image, keyword, value)
        made.append(image)
    return made


def write(folder: Path, series: Written, made: list[Any] | None = None) -> Path:
    """Write a series into a folder, its files named so that their names tell nothing; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images(series) if made is None else made:
        image.save_as(folder / f"{image.SOPInstanceUID[::-1].replace('.', '')}", enforce_file_format=True)
    return folder


def write_study(folder: Path, *series: Written) -> Path:
    """Write several series into one folder, all mixed; return the folder."""
    for one in series or STUDY:
        write(folder, one)
    return folder


@pytest.fixture(scope="session")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the four sequences, not to be changed."""
    return write_study(tmp_path_factory.mktemp("written") / "study")


@pytest.fixture
def study_folder(tmp_path: Path, written_once: Path) -> Path:
    """Return a fresh folder with the four sequences, all files in one heap."""
    return Path(shutil.copytree(written_once, tmp_path / "study"))


@pytest.fixture
def raw_header(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes a file of explicit little-endian elements behind a valid beginning."""

    def make(elements: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> Path:
        meta = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
        path = tmp_path / "raw.dcm"
        path.write_bytes(bytes(128) + b"DICM" + meta + elements)
        return path

    return make

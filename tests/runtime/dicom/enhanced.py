"""An enhanced MR file: all slices of a series in one file, with what belongs to a frame in functional groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from tests.runtime.dicom.conftest import Written, images, pixels

_GONE = (
    "AcquisitionDate", "AcquisitionTime", "ScanningSequence", "SequenceVariant", "RepetitionTime", "EchoTime",
    "InversionTime", "SliceThickness", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "MRAcquisitionType", "ContrastBolusAgent",
)  # fmt: skip


def _item(**values: Any) -> list[Dataset]:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return [item]


def _code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def enhanced(
    series: Written,
    data: npt.NDArray[np.int16] | None = None,
    order: Sequence[int] | None = None,
    head: Mapping[str, Any] | None = None,
) -> Dataset:
    """Return a series as one file.

    Parameters
    ----------
    series : Written
        How it was acquired; what classic files say at their head goes into functional groups.
    data : int16 array (slice, row, column), optional
        Its pixels.
    order : sequence of int, optional
        Slice that each frame of the file shows; None: as they lie.
    head : mapping, optional
        Further values at the head of the file.
    """
    data = pixels(series) if data is None else data
    order = range(series.shape[0]) if order is None else order
    image = images(series, data[:1])[0]
    agent = image.get("ContrastBolusAgent")
    for keyword in _GONE:
        if keyword in image:
            delattr(image, keyword)
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = EnhancedMRImageStorage
    image.ImageType, image.AcquisitionDateTime = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"], f"20260301{series.time}.000"
    image.EchoPulseSequence = "GRADIENT" if "GR" in series.scanning else "SPIN"
    image.EchoPlanarPulseSequence = "YES" if "EP" in series.scanning else "NO"
    image.TimeOfFlightContrast, image.PhaseContrast, image.SteadyStatePulseSequence = "NO", "NO", "NONE"
    image.ComplexImageComponent, image.AcquisitionContrast = "MAGNITUDE", "UNKNOWN"
    image.NumberOfFrames = len(order)
    image.SharedFunctionalGroupsSequence = [_shared(series)]
    image.PerFrameFunctionalGroupsSequence = [_frame(series, slice_) for slice_ in order]
    if agent:
        image.ContrastBolusAgentSequence = _code("C-B0322", "SRT", str(agent))
        profile = _item(ContrastBolusVolume=15.0, ContrastBolusStartTime="102800")
        image.ContrastBolusAgentSequence[0].ContrastAdministrationProfileSequence = profile
    image.DimensionOrganizationSequence = _item(DimensionOrganizationUID="1.2.826.0.1.3680043.10.543.7")
    image.DimensionIndexSequence = [
        _item(
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
            DimensionOrganizationUID="1.2.826.0.1.3680043.10.543.7",
        )[0]
        for pointer in (0x00209056, 0x00209057)
    ]
    image.PixelData = np.ascontiguousarray(data[list(order)]).tobytes()
    for keyword, value in (head or {}).items():
        setattr(image, keyword, value)
    return image


def _shared(series: Written) -> Dataset:
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=list(series.pixel_mm), SliceThickness=series.spacing_mm)
    turn = [f"{v:.9f}" for v in (*series.orientation[0], *series.orientation[1])]
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=turn)
    shared.MRTimingAndRelatedParametersSequence = _item(RepetitionTime=series.tr, FlipAngle=90.0)
    shared.MREchoSequence = _item(EffectiveEchoTime=float(series.te or 0))
    modifier = _item(InversionRecovery="YES" if series.ti else "NO", Spoiling="NONE")
    if series.ti:
        modifier[0].InversionTimes = [float(series.ti)]
    shared.MRModifierSequence = modifier
    shared.MRImageFrameTypeSequence = _item(
        FrameType=["ORIGINAL", "PRIMARY", "OTHER", "NONE"], ComplexImageComponent="MAGNITUDE"
    )
    shared.FrameAnatomySequence = _item(FrameLaterality="U", AnatomicRegionSequence=_code("12738006", "SCT", "Brain"))
    return shared


def _frame(series: Written, slice_: int) -> Dataset:
    frame = Dataset()
    frame.FrameContentSequence = _item(
        StackID="1", InStackPositionNumber=slice_ + 1, DimensionIndexValues=[1, slice_ + 1]
    )
    position = [f"{v:.6f}" for v in series.place(slice_, 0, 0)]
    frame.PlanePositionSequence = _item(ImagePositionPatient=position)
    return frame


def write_enhanced(folder: Path, *made: Dataset) -> Path:
    """Write files under names that tell nothing; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(made):
        image.save_as(folder / f"{number:03}", enforce_file_format=True)
    return folder

"""What one DICOM file says about itself, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

__all__ = ["Grid", "Header", "Identity", "Plane", "Protocol"]

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose study this is; every field is empty (age: None) when the file does not say.

    `study_date` and `birth_date` are YYYYMMDD, `study_uid` is the StudyInstanceUID.
    """

    patient_id: str
    patient_name: str
    birth_date: str
    accession_number: str
    study_date: str
    study_uid: str
    age_years: int | None
    study_description: str = ""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a series was acquired.

    Attributes
    ----------
    modality, sop_class_uid, description, body_part : str
        As they stand in the file.
    image_type, scanning, variant : tuple of str
        Upper-case words of ImageType, ScanningSequence (SE, GR, IR, EP, RM) and SequenceVariant.
    tr_ms, te_ms, ti_ms, flip_deg, thickness_mm : float or None
        Repetition, echo and inversion time, flip angle, slice thickness.
    agent : str
        Contrast agent, empty when none is named.
    injected : datetime or None
        When the contrast agent was given.
    diffusion, angiography, colour : bool
        Diffusion-weighted; marked as a vessel image; not one value a pixel.
    """

    modality: str
    sop_class_uid: str
    description: str
    body_part: str
    image_type: tuple[str, ...]
    scanning: tuple[str, ...]
    variant: tuple[str, ...]
    tr_ms: float | None
    te_ms: float | None
    ti_ms: float | None
    flip_deg: float | None
    thickness_mm: float | None
    agent: str
    injected: datetime | None
    diffusion: bool
    angiography: bool
    colour: bool


@dataclass(frozen=True, slots=True)
class Plane:
    """Where a frame lies: position of its first pixel, directions of its columns' and rows' index (LPS, mm)."""

    position_mm: Vector
    along_row: Vector
    along_column: Vector


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels of a frame: `row_mm` is the distance between rows, `column_mm` between columns."""

    rows: int
    columns: int
    row_mm: float
    column_mm: float


@dataclass(frozen=True, slots=True)
class Header:
    """One file.

    Attributes
    ----------
    path : Path
        The file.
    sop_instance_uid, series_uid, series_number, frame_of_reference_uid : str
        Its identifiers.
    identity, protocol
        Whose and how.
    acquired : datetime or None
        Start of the acquisition.
    grid : Grid or None
        None for what is no image in space.
    planes : tuple of Plane
        One a frame.
    problem : str or None
        Why its pixels cannot be used.
    """

    path: Path
    sop_instance_uid: str
    series_uid: str
    series_number: str
    frame_of_reference_uid: str
    identity: Identity
    protocol: Protocol
    acquired: datetime | None
    grid: Grid | None
    planes: tuple[Plane, ...]
    problem: str | None

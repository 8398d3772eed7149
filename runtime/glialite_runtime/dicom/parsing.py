"""Read what one DICOM file says about itself, without its pixels and without trusting it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glialite_runtime.dicom.elements import moment, number, numbers, text, whole, words
from glialite_runtime.dicom.functional_groups import TAGS, classic_values, frame_values, mixture
from glialite_runtime.dicom.headers import Grid, Header, Identity, Plane, Protocol
from glialite_runtime.errors import BackendUnavailableError, InputError
from glialite_runtime.nifti import MAX_VOXELS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["read_header", "study_of"]

_MAX_HEADER_BYTES: Final = 4 << 20  # that of several hundred frames takes 2 MB
_MAX_ITEMS: Final = 50_000  # of sequences; each costs 30 µs and 0.8 kB in pydicom, and a hostile file half a million
_STUDY_BYTES: Final = 64 << 10  # the identifier of the study stands before that of the series, at the beginning
_ITEM_TAGS: Final = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_MAX_SIDE: Final = 2048
_MAX_SURPLUS_BYTES: Final = 16 << 20
_FIRST_PIXEL_TAG: Final = 0x7FE00008
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_UNCOMPRESSED: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_TAGS: Final = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "PatientName", "PatientBirthDate", "PatientAge", "AccessionNumber", "StudyDate", "StudyDescription", "SeriesNumber",
    "SeriesDescription", "BodyPartExamined", "Modality", "ImageType", "RepetitionTime", "EchoTime", "InversionTime",
    "FlipAngle", "ScanningSequence", "SequenceVariant", "AngioFlag", "DiffusionBValue", "ContrastBolusAgent",
    "ContrastBolusVolume", "ContrastBolusStartTime", "ContrastBolusAgentSequence", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "SamplesPerPixel", "BitsAllocated", "Rows", "Columns", "PixelSpacing", "SliceThickness",
    "ImagePositionPatient", "ImageOrientationPatient", *TAGS,
)  # fmt: skip


@contextmanager
def _quiet_pydicom() -> Iterator[Any]:
    """Yield pydicom with its remarks on non-conformant values turned off; they are judged here, by what is needed."""
    try:
        import pydicom  # noqa: PLC0415 - of the extra `dicom`
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "reading DICOM needs pydicom, which is not installed: pip install 'glialite[dicom]'"
        ) from error
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pydicom


def read_header(path: Path) -> Header | None:
    """Read the header of a file.

    Returns
    -------
    Header or None
        None for a file that is not DICOM (no ``DICM`` at byte 128) and for a DICOMDIR, whose references are never
        followed.

    Raises
    ------
    InputError
        The header is damaged, truncated, deflated, or longer than 4 MiB.
    BackendUnavailableError
        pydicom is not installed.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return None
        stream.seek(0)
        content = stream.read(_MAX_HEADER_BYTES)
    if max(content.count(tag) for tag in _ITEM_TAGS) > _MAX_ITEMS:
        raise InputError(f"{path.name} has a header of more than {_MAX_ITEMS:,} items; it is damaged or no image")
    head = io.BytesIO(content)
    with _quiet_pydicom() as pydicom:
        try:
            head.seek(132)
            meta = pydicom.filereader.read_dataset(head, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            syntax = str(meta.get("TransferSyntaxUID", ""))
            if str(meta.get("MediaStorageSOPClassUID", "")) == pydicom.uid.MediaStorageDirectoryStorage:
                return None
            if syntax == _DEFLATED:
                raise InputError("it is deflated as a whole; export it uncompressed")
            head.seek(0)
            dataset = pydicom.filereader.read_partial(
                head,
                stop_when=lambda tag, *_: tag >= _FIRST_PIXEL_TAG,
                specific_tags=[pydicom.tag.Tag(keyword) for keyword in _TAGS],
            )
            if size > _MAX_HEADER_BYTES and head.tell() >= _MAX_HEADER_BYTES:
                raise InputError(f"its header is longer than {_MAX_HEADER_BYTES >> 20} MiB")
            tag_bytes = 8 if syntax == _UNCOMPRESSED[0] else 12
            pixel_bytes = max(size - head.tell() - tag_bytes, 0)
            return _header(path, dataset, pixel_bytes, compressed=syntax not in _UNCOMPRESSED)
        except InputError as error:
            raise InputError(f"{path.name} is not read: {error}") from error
        except Exception as error:  # pydicom raises many kinds on damaged files
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise InputError(f"{path.name} is damaged ({reason}); copy it again from its source") from error


def study_of(path: Path) -> tuple[str, str] | None:
    """Return UID and date of the study that a file belongs to, by its first 64 KiB; None for one that does not say.

    Raises
    ------
    BackendUnavailableError
        pydicom is not installed.
    """
    with path.open("rb") as stream:
        content = stream.read(_STUDY_BYTES)
    if content[128:132] != b"DICM" or _DEFLATED.encode() in content:
        return None
    with _quiet_pydicom() as pydicom:
        wanted = [pydicom.tag.Tag(keyword) for keyword in ("StudyDate", "StudyInstanceUID")]
        try:
            dataset = pydicom.filereader.read_partial(
                io.BytesIO(content), stop_when=lambda tag, *_: tag > max(wanted), specific_tags=wanted
            )
            uid, date = text(dataset.get("StudyInstanceUID")), text(dataset.get("StudyDate"))
        except Exception:  # noqa: BLE001 - pydicom raises many kinds on damaged files; they are judged when they are read
            return None
    return (uid, date) if uid else None


def _header(path: Path, dataset: Dataset, pixel_bytes: int, *, compressed: bool) -> Header:
    groups = frame_values(dataset)
    first = groups[0] if groups else {}
    values = {keyword: dataset.get(keyword, first.get(keyword)) for keyword in _TAGS}
    values |= classic_values(values, groups)
    spacing = numbers(values["PixelSpacing"], 2)
    rows, columns = whole(values["Rows"]), whole(values["Columns"])
    grid = Grid(rows, columns, spacing[0], spacing[1]) if spacing and rows and columns else None
    planes = tuple(plane for group in groups or [values] if (plane := _plane(group, values)))
    bits = whole(values["BitsAllocated"]) * max(whole(values["SamplesPerPixel"]), 1)
    frames = max(whole(values["NumberOfFrames"]), 1)
    return Header(
        path=path,
        sop_instance_uid=text(values["SOPInstanceUID"]),
        series_uid=text(values["SeriesInstanceUID"]),
        series_number=text(values["SeriesNumber"]),
        frame_of_reference_uid=text(values["FrameOfReferenceUID"]),
        identity=_identity(values),
        protocol=_protocol(values),
        acquired=moment(values["AcquisitionDateTime"])
        or moment(values["AcquisitionDate"] or values["StudyDate"], values["AcquisitionTime"] or ""),
        grid=grid,
        planes=planes,
        problem=_pixel_problem(grid, (frames, len(planes)), bits, pixel_bytes, compressed=compressed)
        or mixture(groups),
    )


def _plane(group: dict[str, Any], values: dict[str, Any]) -> Plane | None:
    position = numbers(group.get("ImagePositionPatient"), 3)
    turn = numbers(group.get("ImageOrientationPatient") or values["ImageOrientationPatient"], 6)
    if position is None or turn is None:
        return None
    row, column = turn[:3], turn[3:]
    lengths = [sum(v * v for v in direction) for direction in (row, column)]
    if any(abs(length - 1) > 0.01 for length in lengths) or abs(sum(map(float.__mul__, row, column))) > 0.01:
        return None
    return Plane((position[0], position[1], position[2]), (row[0], row[1], row[2]), (column[0], column[1], column[2]))


def _pixel_problem(
    grid: Grid | None, frames_planes: tuple[int, int], bits: int, pixel_bytes: int, *, compressed: bool
) -> str | None:
    """Return what is wrong with a file's pixels: numbers of frames and of their places, bits a pixel, bytes there."""
    frames, planes = frames_planes
    if grid is None:
        return "has no rows, columns and pixel spacing"
    needed = grid.rows * grid.columns * frames * bits // 8
    rules = (
        (planes == 0, "says no position and no right-angled orientation in the patient"),
        (planes != frames, f"says the position of {planes} of its {frames} frames"),
        (
            max(grid.rows, grid.columns) > _MAX_SIDE or grid.rows * grid.columns * frames > MAX_VOXELS,
            f"claims {frames} frames of {grid.rows} × {grid.columns} pixels, more than is accepted",
        ),
        (
            not (0.1 <= grid.row_mm <= 20 and 0.1 <= grid.column_mm <= 20),
            f"claims pixels of {grid.row_mm:g} × {grid.column_mm:g} mm; 0.1 to 20 mm is accepted",
        ),
        (
            not compressed and (not bits or pixel_bytes < needed),
            f"is truncated: {grid.rows} × {grid.columns} pixels need {needed:,} bytes, {pixel_bytes:,} are there",
        ),
        (
            pixel_bytes > 2 * needed + _MAX_SURPLUS_BYTES,
            f"is too long: {grid.rows} × {grid.columns} pixels need {needed:,} bytes, {pixel_bytes:,} are there",
        ),
    )
    return next((reason for broken, reason in rules if broken), None)


def _identity(values: dict[str, Any]) -> Identity:
    age = re.fullmatch(r"(\d{3})([DWMY])", text(values["PatientAge"]))
    born, studied = moment(values["PatientBirthDate"]), moment(values["StudyDate"])
    years = None
    if born and studied and studied >= born:
        years = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    elif age:
        years = int(int(age[1]) / {"D": 365, "W": 52, "M": 12, "Y": 1}[age[2]])
    names = ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyDate", "StudyInstanceUID")
    patient_id, name, birth_date, accession, date, study_uid = (text(values[key]) for key in names)
    description = text(values["StudyDescription"])
    return Identity(patient_id, name, birth_date, accession, date, study_uid, years, description)


def _protocol(values: dict[str, Any]) -> Protocol:
    agent = text(values["ContrastBolusAgent"])
    if not agent and (values["ContrastBolusAgentSequence"] or (number(values["ContrastBolusVolume"]) or 0) > 0):
        agent = "unnamed"
    return Protocol(
        modality=text(values["Modality"]),
        sop_class_uid=text(values["SOPClassUID"]),
        description=text(values["SeriesDescription"]),
        body_part=text(values["BodyPartExamined"]).upper(),
        image_type=words(values["ImageType"]),
        scanning=words(values["ScanningSequence"]),
        variant=words(values["SequenceVariant"]),
        tr_ms=number(values["RepetitionTime"]),
        te_ms=number(values["EchoTime"]),
        ti_ms=number(values["InversionTime"]) or None,  # 0 stands for none
        flip_deg=number(values["FlipAngle"]),
        thickness_mm=number(values["SliceThickness"]),
        agent=agent if agent.upper() not in {"NO", "NONE", "N", "NATIVE", "WITHOUT", "WITHOUT CONTRAST"} else "",
        injected=moment(values["AcquisitionDate"] or values["StudyDate"], values["ContrastBolusStartTime"] or ""),
        diffusion=(number(values["DiffusionBValue"]) or 0) > 0,
        angiography=text(values["AngioFlag"]).upper() == "Y",
        colour=whole(values["SamplesPerPixel"]) > 1,
    )

"""Write what goes back to the archive: the label map, the pictures and the volumes of one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glialite_runtime.dicom.elements import text
from glialite_runtime.errors import BackendUnavailableError, InputError
from glialite_runtime.files import remove, write_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from glialite_runtime.dicom.source_series import SourceSeries

__all__ = ["Picture", "lacking", "write_dicom"]

_IDENTITY: Final = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
}


_KINDS: Final = ("seg", "pictures", "report")


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the report: a PNG with left and right burned in (`picture.draw`), and what it shows."""

    caption: str
    png: bytes


def write_dicom(
    stem: Path,
    datasets: Sequence[Dataset],
    labels: npt.NDArray[np.uint8],
    document: dict[str, Any],
    pictures: Sequence[Picture],
) -> tuple[Path, ...]:
    """Write ``<stem>-seg.dcm``, ``<stem>-pictures.dcm`` and ``<stem>-report.dcm``, each in one step.

    Parameters
    ----------
    stem : Path
        ``<out>/<case>/<case>``.
    datasets : sequence of Dataset
        The series that `labels` lies on, see `source_series.source_series`; pixels are not needed.
    labels : uint8 array (slice, row, column)
        BraTS-2023 label values on that series.
    document : dict
        The JSON report. The same report gives the same bytes; its `timings_s` do not count.
    pictures : sequence of Picture
        The pictures of the HTML page.

    Returns
    -------
    tuple of Path
        The files written. No SEG when nothing was outlined; an earlier one is deleted.

    Raises
    ------
    BackendUnavailableError
        pydicom or highdicom is not installed.
    InputError
        See `source_series.source_series`, or the report is of another patient or study; nothing was written.
    OutputError
        The folder cannot be written.
    """
    made = _encoded(datasets, labels, document, pictures)
    paths = {kind: stem.with_name(f"{stem.name}-{kind}.dcm") for kind in _KINDS}
    for kind in paths.keys() - made.keys():
        remove(paths[kind])
    for kind, content in made.items():
        write_bytes(paths[kind], content)
    return tuple(paths[kind] for kind in made)


def lacking() -> str | None:
    """Return what DICOM results cannot be written for want of, None when they can be."""
    try:
        import highdicom  # noqa: F401, PLC0415
        import pydicom  # noqa: F401, PLC0415
    except ImportError as error:
        return str(error)
    return None


def _encoded(
    datasets: Sequence[Dataset], labels: npt.NDArray[np.uint8], document: dict[str, Any], pictures: Sequence[Picture]
) -> dict[str, bytes]:
    """Return kind -> content of its file."""
    if error := lacking():
        raise BackendUnavailableError(
            f"DICOM results need pydicom and highdicom ({error}); install them with: pip install 'glialite[dicom]'"
        )
    from glialite_runtime.dicom.concepts import segments  # noqa: PLC0415 - highdicom is an extra
    from glialite_runtime.dicom.instances import encoded  # noqa: PLC0415
    from glialite_runtime.dicom.secondary_capture import secondary_capture  # noqa: PLC0415
    from glialite_runtime.dicom.segmentation import segmentation  # noqa: PLC0415
    from glialite_runtime.dicom.source_series import source_series  # noqa: PLC0415
    from glialite_runtime.dicom.structured_report import structured_report  # noqa: PLC0415

    source = source_series(datasets, labels.shape)
    _refuse_another_patient(source, document)
    found = segments(labels, document)
    outlines = segmentation(source, labels, found, document) if found else None
    made = {
        "seg": outlines,
        "pictures": secondary_capture(source, document, pictures),
        "report": structured_report(source, found, document, outlines),
    }
    return {kind: encoded(instance) for kind, instance in made.items() if instance is not None}


def _refuse_another_patient(source: SourceSeries, document: dict[str, Any]) -> None:
    """Raise where the report says whose it is, and it is not whose series this is; no value stands in the message."""
    identity = document.get("identity") or {}
    for field, keyword in _IDENTITY.items():
        if identity.get(field) and text(identity[field]) != text(source.text(keyword)):
            raise InputError(f"the report and the DICOM series differ in {keyword}: nothing was written; run it again")
    study = source.images[0].StudyInstanceUID
    if identity.get("study_uid") and identity["study_uid"] != study:
        raise InputError("the report and the DICOM series are of different studies: nothing was written; run it again")

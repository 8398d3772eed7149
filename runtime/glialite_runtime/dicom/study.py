"""A DICOM study: which series becomes which sequence, and the case that they become."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glialite_runtime.cases import Case, case_from_files
from glialite_runtime.dicom.conversion import convert_series
from glialite_runtime.dicom.frames import frame_axes
from glialite_runtime.dicom.recognition import Recognition, recognise
from glialite_runtime.dicom.series import Series, scan_folder
from glialite_runtime.errors import GeometryError, MissingSequenceError, OutputError
from glialite_runtime.page.warnings import ADULT_YEARS
from glialite_runtime.sequences import SEQUENCES

__all__ = ["Study", "convert_study", "converted_study", "facts_of", "read_study", "source_of"]


@dataclass(frozen=True, slots=True)
class Study:
    """A study of one patient, with its sequences chosen.

    Attributes
    ----------
    chosen : mapping of str to Recognition
        Sequence -> the series that stands for it, in the order of `SEQUENCES`; only what is there.
    left_out : tuple of Recognition
        The others, each with its reason.
    notes : tuple of str
        What the operator should know, one sentence each.
    label : str
        Tells it from the other studies of its folder; empty for the only one.
    """

    chosen: Mapping[str, Recognition]
    left_out: tuple[Recognition, ...]
    notes: tuple[str, ...]
    label: str = ""

    @property
    def doubtful(self) -> bool:
        """Whether a choice does not follow from the headers alone."""
        return any(found.doubtful for found in self.chosen.values())


def read_study(folder: Path, wanted: str | None = None) -> Study:
    """Read the headers of a study and choose a series for each sequence.

    Parameters
    ----------
    folder : Path
        Of one study, or of several.
    wanted : str, optional
        Which of several: its number, or the beginning of its UID (see `select_study`).

    Raises
    ------
    InputError
        The folder is not one study of one patient, and none is chosen (see `scan_folder`).
    ConfigError
        The wanted study is not there.
    MissingSequenceError
        No series is recognised; the message says why for each.
    """
    scan = scan_folder(folder, wanted)
    chosen: dict[str, Recognition] = {}
    left_out = []
    recognised = recognise(scan.series)
    for sequence in SEQUENCES:
        candidates = sorted((found for found in recognised if found.sequence == sequence), key=_rank)
        if candidates:
            chosen[sequence] = candidates[0]
            left_out += [replace(other, reason=_why_not(other, candidates[0])) for other in candidates[1:]]
    left_out += [found for found in recognised if found.sequence is None]
    if not chosen:
        reasons = "\n  ".join(f"series {found.series.number} {found.reason}" for found in left_out[:20])
        raise MissingSequenceError(f"no series of {folder} is a T1, T2 or FLAIR of a whole brain:\n  {reasons}")
    order = {id(series): number for number, series in enumerate(scan.series)}
    left_out.sort(key=lambda found: order[id(found.series)])
    return Study(chosen, tuple(left_out), _notes(scan.notes, chosen, scan.series), scan.label)


def _rank(found: Recognition) -> tuple[float, ...]:
    """Sort the better candidate first: certain, finer, covering more, acquired later (a repetition has its reason)."""
    series = found.series
    when = series.acquired.timestamp() if series.acquired else 0.0
    return (found.doubtful, round(series.coarsest_mm, 1), -round(series.coverage_mm, -1), -when)


def _why_not(other: Recognition, best: Recognition) -> str:
    first, second = best.series, other.series
    if other.doubtful and not best.doubtful:
        return f"is also {other.sequence}, but less certain than series {first.number} ({other.reason})"
    if round(second.coarsest_mm, 1) != round(first.coarsest_mm, 1):
        return (
            f"is also {other.sequence}, coarser than series {first.number} "
            f"({second.coarsest_mm:.1f} against {first.coarsest_mm:.1f} mm)"
        )
    if round(second.coverage_mm, -1) != round(first.coverage_mm, -1):
        return (
            f"is also {other.sequence}, covering less than series {first.number} "
            f"({second.coverage_mm:.0f} against {first.coverage_mm:.0f} mm)"
        )
    return f"is also {other.sequence}, as good as series {first.number}, which was acquired later or is the same"


def _notes(scanned: tuple[str, ...], chosen: Mapping[str, Recognition], series: Sequence[Series]) -> tuple[str, ...]:
    notes = list(scanned)
    who = series[0].identity
    if not who.patient_id:
        notes.append("The study names no patient ID; check whose it is before the report is filed.")
    if who.age_years is not None and who.age_years < ADULT_YEARS:
        notes.append(f"The patient is {who.age_years} years old; the model was made for adults.")
    if lacking := [sequence for sequence in SEQUENCES if sequence not in chosen]:
        notes.append(f"No series was found for {', '.join(lacking)}.")
    frames = Counter(found.series.frame_of_reference_uid for found in chosen.values())
    if len(frames) > 1:
        notes.append("The sequences have different frames of reference: the patient was moved or scanned twice.")
    return tuple(notes)


def convert_study(study: Study, folder: Path, name: str) -> Case:
    """Convert the chosen series into `folder` and return the case that they make (see `convert_series`).

    Raises
    ------
    InputError, GeometryError, BackendUnavailableError, OutputError
        See `convert_series`; a `name` that cannot be a file name.
    """
    case_from_files({}, name)
    paths = {}
    for sequence, found in study.chosen.items():
        converted = convert_series(found.series, folder / sequence)
        paths[sequence] = converted.replace(folder / f"{name}-{sequence}.nii")
        shutil.rmtree(folder / sequence)
    return replace(case_from_files(paths, name), study=study)


@contextmanager
def converted_study(
    folder: Path, out: Path, name: str | None, confirm: Callable[[Study], Study], wanted: str | None = None
) -> Iterator[Case]:
    """Read, confirm and convert a study; yield its case, whose files lie in a hidden folder of `out` until the end.

    Parameters
    ----------
    folder : Path
        Of the study.
    out : Path
        Made when it is absent.
    name : str or None
        Of the case; None: the folder's, and with several studies in it their date.
    confirm : callable
        Returns the study as it is to be used, or raises.
    wanted : str, optional
        Which study of several (see `select_study`).

    Raises
    ------
    GliaLiteError
        See `read_study` and `convert_study`.
    """
    study = confirm(read_study(folder, wanted))
    try:
        out.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".dicom-", dir=out, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write in {out}: {error.strerror or error}; choose another folder") from error
    with place as temporary:
        # a drive has no name
        named = name or "-".join(part for part in (folder.resolve().name, study.label) if part)
        yield convert_study(study, Path(temporary), named)


def source_of(study: Study, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> Series:
    """Return the chosen series whose pixels a label map's voxels are (see `frames.to_frames`).

    Raises
    ------
    GeometryError
        The label map lies on none of them.
    """
    for found in study.chosen.values():
        with suppress(GeometryError):
            frame_axes(shape, affine, found.series)
            return found.series
    raise GeometryError(f"the label map of shape {shape} lies on none of the study's series; it was resampled")


def facts_of(study: Study) -> dict[str, Any]:
    """Return what a report prints (`ReportOptions.identity`) and refers to, ready for JSON; no path is among it."""
    who = next(iter(study.chosen.values())).series.identity
    return {
        "patient_id": who.patient_id,
        "patient_name": who.patient_name,
        "birth_date": who.birth_date,
        "age_years": who.age_years,
        "accession_number": who.accession_number,
        "study_date": who.study_date,
        "study_uid": who.study_uid,
        "series": {
            sequence: {
                "series_uid": found.series.series_uid,
                "number": found.series.number,
                "description": found.series.protocol.description,
                "frame_of_reference_uid": found.series.frame_of_reference_uid,
                "slices": len(found.series.frames),
                "spacing_mm": round(found.series.spacing_mm, 4),
                "reason": found.reason,
                "doubtful": found.doubtful,
            }
            for sequence, found in study.chosen.items()
        },
        "notes": list(study.notes),
    }

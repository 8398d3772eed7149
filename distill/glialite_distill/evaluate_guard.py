"""Whom a model has met: accuracy is judged, and probabilities are calibrated, on patients that it never saw."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glialite_calibration.volume_interval import cases_needed, independent_cases
from glialite_runtime.bundle import Bundle
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.errors import CalibrationError, ConfigError

from glialite_distill.cohort import patient_of
from glialite_distill.patches import TrainingData
from glialite_distill.student_file import StudentFile, record_is_complete, seen_cases

__all__ = ["Record", "fitting_cases", "record_of", "record_of_folder", "record_of_workspace", "refuse_seen"]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of the patients that made a model.

    Attributes
    ----------
    patients : frozenset of str
        Those that it was trained or validated on, those of the students before it in its chain included.
    complete : bool
        Whether these are all of them; only then can anybody else be called unseen.
    """

    patients: frozenset[str]
    complete: bool


def record_of(model: StudentFile | Bundle) -> Record:
    """Return the record that a student or a bundle carries."""
    if isinstance(model, StudentFile):
        return Record(_patients(seen_cases(model.provenance)), record_is_complete(model.provenance))
    made = model.manifest.provenance.get("training", {})
    own = made.get("cases", ())
    if "seen" in made:
        return Record(_patients(made["seen"] or own), made["seen"] is not None)
    return Record(_patients(own), bool(own) and made.get("initial") is None)


def record_of_workspace(data: TrainingData | None) -> Record:
    """Return the record of a workspace's teachers: all cases of a fold, whichever part trained or validated."""
    if data is None:
        return Record(frozenset(), complete=False)
    return Record(_patients((*data.splits[0].train, *data.splits[0].validation)), complete=True)


def record_of_folder(folder: Path, data: TrainingData | None) -> Record:
    """Return the record of predictions in a folder: the workspace's, when teachers of that workspace made them."""
    try:
        made_by = json.loads((folder / "teachers.json").read_bytes())["cohort_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        made_by = None
    known = data is not None and made_by == data.cohort_hash
    return record_of_workspace(data) if known else Record(frozenset(), complete=False)


def _patients(cases: Iterable[str]) -> frozenset[str]:
    return frozenset(patient_of(case) for case in cases)


def refuse_seen(cases: Sequence[Case], records: Mapping[str, Record]) -> None:
    """Refuse to judge on patients that a model has met.

    Raises
    ------
    ConfigError
        Some were met; the message names each model with its first few cases.
    """
    problems = []
    for name, record in records.items():
        if seen := [case.name for case in cases if patient_of(case.name) in record.patients]:
            more = f" and {len(seen) - 3} more" if len(seen) > 3 else ""
            problems.append(f"{name} has met the patients of {', '.join(seen[:3])}{more}")
    if problems:
        raise ConfigError(
            f"{'; '.join(problems)}: figures there say nothing about new patients. Take these cases out of the cohort"
        )


def fitting_cases(folder: Path, scored: Sequence[Case], records: Mapping[str, Record], rate: float) -> list[Case]:
    """Return the cases to calibrate on, one a patient.

    Parameters
    ----------
    folder : Path
        Of case folders.
    scored : sequence of Case
        What accuracy is measured on.
    records : mapping of str to Record
        Of every model that is calibrated, and of whatever else chose something on cases.
    rate : float
        Of the volume intervals; says how many patients there must be.

    Raises
    ------
    CalibrationError
        A record is not complete, a model has met a patient, one is scored too, a case lacks t1c, or there are too few.
    """
    if unknown := [name for name, record in records.items() if not record.complete]:
        raise CalibrationError(
            f"{', '.join(unknown)}: no record of the training cases, or not of those of what it started from, so none "
            "can be called unseen; train again with this version"
        )
    found = {case.name: case for case in find_cases(folder)}
    met = frozenset().union(*(record.patients for record in records.values()))
    names = independent_cases({name: patient_of(name) for name in found}, met)
    if shared := sorted(_patients(names) & _patients(case.name for case in scored)):
        raise CalibrationError(f"{', '.join(shared)} would be fitted on and scored; keep the two cohorts apart")
    if lacking := [name for name in names if "t1c" not in found[name].paths]:
        raise CalibrationError(f"{', '.join(lacking)} lack t1c, so TC and ET cannot be fitted; leave them out")
    if len(names) < (needed := cases_needed(rate)):
        raise CalibrationError(
            f"{folder} holds {len(names)} patients; volume intervals that hold at {rate:.0%} need {needed}"
        )
    return [found[name] for name in names]

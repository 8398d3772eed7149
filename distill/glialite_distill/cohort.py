"""A cohort: labelled case folders, checked all at once; folds and hold-outs by patient."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime import nifti
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.errors import ConfigError, GeometryError, InputError, MissingSequenceError
from glialite_runtime.files import sha256_bytes, sha256_file
from glialite_runtime.intake import inspect_volume
from glialite_runtime.sequences import LABEL_CONVENTIONS, SEQUENCES, to_brats2023
from glialite_runtime.volume import Orientation, Volume, load_volume

__all__ = [
    "CohortCase",
    "Split",
    "check_splits",
    "cohort_hash",
    "find_cohort",
    "hold_out",
    "make_folds",
    "patient_of",
    "read_labelled",
    "read_labels",
    "site_of",
    "validate",
]

_TIME_POINT: Final = re.compile(r"^(?P<patient>.*\d)-\d{3}$")
_SITE: Final = re.compile(r"^BraTS-(?P<site>[A-Za-z]+)-")
_NAME: Final = re.compile(r"^[A-Za-z0-9][\w.\-]*$", re.ASCII)
_MAX_AXIS_MM: Final = 0.001


@dataclass(frozen=True, slots=True)
class CohortCase:
    """One labelled case.

    Attributes
    ----------
    name, patient : str
        Names; all time points of a patient stay in one fold.
    site : str or None
        Cohort code of a BraTS name ("SSA"), None for other names.
    source : Case
        Its files.
    sha256 : mapping of str to str
        Sequence or "seg" -> SHA-256 of the file.
    """

    name: str
    patient: str
    site: str | None
    source: Case
    sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Split:
    """One fold: names of the training and of the validation cases, sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def patient_of(case: str) -> str:
    """Return the patient of a case name: `BraTS-SSA-00002-000` is `BraTS-SSA-00002`; other names are patients."""
    found = _TIME_POINT.match(case)
    return found["patient"] if found else case


def site_of(case: str) -> str | None:
    """Return the cohort code of a BraTS case name (`SSA` of `BraTS-SSA-00002-000`), else None."""
    found = _SITE.match(case)
    return found["site"].upper() if found else None


def find_cohort(folders: Sequence[Path]) -> list[Case]:
    """Return the cases of several folders by name.

    Raises
    ------
    InputError
        A folder holds no case, two folders hold the same case, or a name cannot be a file name everywhere.
    """
    cases: dict[str, Case] = {}
    problems: list[str] = []
    for folder in folders:
        for case in find_cases(folder):
            if case.name in cases:
                problems.append(f"{case.name}: is in two cohort folders")
            if not _NAME.match(case.name) or case.name.endswith("_seg"):
                problems.append(f"{case.name}: rename the folder (letters, digits, '-', '_', '.'; not ending in _seg)")
            cases[case.name] = case
    _raise_all(problems)
    return [cases[name] for name in sorted(cases)]


def read_labels(path: Path, convention: str) -> tuple[nifti.Image, npt.NDArray[np.uint8]]:
    """Read a label map; returns the stored image and its BraTS-2023 labels as a (z, y, x) view in LPS."""
    image = nifti.read(path)
    return image, Orientation.of(image.affine).to_lps(to_brats2023(image.data, convention))


def read_labelled(case: Case, convention: str) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """Read and check a training case.

    Returns
    -------
    Volume
        The four sequences.
    uint8 array (z, y, x)
        BraTS-2023 labels in LPS. Shape, axes and voxel size must match the sequences; the origin in the header need not
        (published label maps often carry a foreign one, and their voxels agree).

    Raises
    ------
    InputError
        A sequence or the label map is missing or unreadable, intensities or label values are not as declared, or the
        files do not lie on one grid.
    """
    missing = [s for s in SEQUENCES if s not in case.paths] + ([] if case.label else ["seg"])
    if missing or case.label is None:
        raise MissingSequenceError(f"lacks {', '.join(missing)}")
    volume = load_volume(case)
    inspect_volume(volume, [SEQUENCES])
    image, labels = read_labels(case.label, convention)
    if labels.shape != volume.channels[0].shape:
        raise GeometryError(f"{case.label.name} has the shape {image.data.shape}, the sequences have another one")
    own = Orientation.of(image.affine).lps_affine(image)[:3, :3]
    other = volume.orientation.lps_affine(volume.reference)[:3, :3]
    if not np.allclose(own, other, atol=_MAX_AXIS_MM):
        raise GeometryError(f"{case.label.name} has other axes or voxel sizes than {volume.reference.path.name}")
    return volume, labels


def validate(cases: Iterable[Case], convention: str) -> tuple[CohortCase, ...]:
    """Read every file of a cohort once and return what is known about it.

    Parameters
    ----------
    cases : iterable of Case
        As from `find_cohort`; wrap it to show progress.
    convention : str
        Label convention of every label map, declared by the user.

    Raises
    ------
    ConfigError
        The convention is unknown.
    InputError
        Anything is wrong with any case; the message lists every problem.
    """
    if convention not in LABEL_CONVENTIONS:
        raise ConfigError(f"unknown label convention {convention!r}; known: {', '.join(LABEL_CONVENTIONS)}")
    found: list[CohortCase] = []
    problems: list[str] = []
    tumours = 0
    for case in cases:
        try:
            _, labels = read_labelled(case, convention)
        except InputError as error:
            problems.append(f"{case.name}: {error}")
            continue
        tumours += bool(labels.any())
        files = {**case.paths, "seg": case.label}
        hashes = {key: sha256_file(path) for key, path in files.items() if path is not None}
        found.append(CohortCase(case.name, patient_of(case.name), site_of(case.name), case, hashes))
    if not problems and not tumours:
        problems.append("no case of the cohort has a tumour label")
    _raise_all(problems)
    return tuple(found)


def _raise_all(problems: list[str]) -> None:
    if problems:
        listed = "\n  ".join(problems)
        raise InputError(f"the cohort cannot be used; {len(problems)} problem(s):\n  {listed}")


def cohort_hash(cases: Iterable[CohortCase], convention: str) -> str:
    """Return the SHA-256 over the convention and every case's name and file hashes."""
    lines = [convention]
    lines += [f"{c.name} {key} {c.sha256[key]}" for c in sorted(cases, key=_name) for key in sorted(c.sha256)]
    return sha256_bytes("\n".join(lines).encode())


def _name(case: CohortCase) -> str:
    return case.name


def _by_patient(cases: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for case in sorted(cases):
        groups.setdefault(patient_of(case), []).append(case)
    return groups


def hold_out(cases: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """Choose `count` cases, whole patients only, that no training sees.

    Raises
    ------
    ConfigError
        Whole patients cannot make exactly `count` cases with at least one patient left.
    """
    groups = _by_patient(cases)
    patients = sorted(groups)
    random.Random(seed).shuffle(patients)  # noqa: S311 - a reproducible split, not a secret
    chosen: list[str] = []
    for patient in patients:
        if len(chosen) + len(groups[patient]) <= count:
            chosen += groups[patient]
    if len(chosen) != count or len(chosen) == len(cases):
        raise ConfigError(
            f"cannot hold out {count} of {len(cases)} cases of {len(groups)} patients (a patient is never divided); "
            "choose another --holdout"
        )
    return tuple(sorted(chosen))


def make_folds(cases: Sequence[str], folds: int, seed: int) -> tuple[Split, ...]:
    """Divide cases into folds by patient, sites spread evenly, sizes as equal as patients allow.

    Raises
    ------
    ConfigError
        Fewer than two folds, or fewer patients than folds.
    """
    groups = _by_patient(cases)
    if folds < 2 or len(groups) < folds:
        raise ConfigError(
            f"{len(groups)} patients cannot fill {folds} folds (each needs a patient of its own, two folds at least); "
            f"use --folds {max(2, min(len(groups), 5))}" + (" and more patients" if len(groups) < 2 else "")
        )
    patients = sorted(groups)
    random.Random(seed).shuffle(patients)  # noqa: S311 - a reproducible split, not a secret
    patients.sort(key=lambda p: (site_of(p) or "", -len(groups[p])))  # stable: shuffled within a site
    validation: list[list[str]] = [[] for _ in range(folds)]
    for patient in patients:
        site = site_of(patient)
        loads = [(len(v), sum(site_of(case) == site for case in v)) for v in validation]
        validation[loads.index(min(loads))] += groups[patient]
    return tuple(Split(tuple(sorted(set(cases) - set(v))), tuple(sorted(v))) for v in validation)


def check_splits(splits: Any, cases: Sequence[str]) -> tuple[Split, ...]:
    """Check splits that the user brought (nnU-Net's `splits_final.json`, parsed) and return them.

    Raises
    ------
    ConfigError
        Not a list of {"train": [...], "val": [...]}, an empty side, an unknown case, or a patient on both sides.
    """
    if not isinstance(splits, list) or not all(isinstance(s, dict) and {"train", "val"} <= set(s) for s in splits):
        raise ConfigError('the splits file must hold a list of {"train": [case, …], "val": [case, …]}')
    known, problems, found = set(cases), [], []
    for number, split in enumerate(splits):
        train, validation = set(split["train"]), set(split["val"])
        if not train or not validation:
            problems.append(f"fold {number} has an empty side")
        if unknown := sorted((train | validation) - known):
            problems.append(f"fold {number} names cases that are not in training: {', '.join(unknown)}")
        if shared := sorted({patient_of(c) for c in train} & {patient_of(c) for c in validation}):
            problems.append(f"fold {number} trains and validates on the same patient: {', '.join(shared)}")
        found.append(Split(tuple(sorted(train)), tuple(sorted(validation))))
    if not found:
        problems.append("there is no fold in it")
    if problems:
        raise ConfigError("the splits file cannot be used:\n  " + "\n  ".join(problems))
    return tuple(found)

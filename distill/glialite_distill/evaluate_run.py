"""One evaluation from start to end: students, bundles, other predictions and the trivial rule, kept as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from glialite_calibration.temperature import fit_temperatures, thresholds_after
from glialite_calibration.volume_interval import cases_needed, fit_volume_interval, independent_cases
from glialite_runtime import __version__
from glialite_runtime.bundle import read_bundle
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.errors import CalibrationError, ConfigError
from glialite_runtime.files import sha256_bytes, sha256_file, write_bytes, write_json

from glialite_distill.baseline import DEFAULT_FLAIR_SD, fit_flair_threshold, flair_source
from glialite_distill.cohort import patient_of
from glialite_distill.evaluate import (
    SCOPES,
    NetworkSource,
    Source,
    bundle_source,
    evaluate,
    folder_source,
    student_source,
)
from glialite_distill.evaluate_summary import (
    HeldOutFit,
    cases_json,
    csv_text,
    reliability_json,
    subset_rows,
    summarise,
)
from glialite_distill.evaluate_tables import markdown, write_reliability
from glialite_distill.modality_dropout import SUBSETS
from glialite_distill.patches import TrainingData
from glialite_distill.student_file import load_student

__all__ = ["EvaluationRequest", "run_evaluation"]

_FITTED_ON: Final = 10
"""Training cases, at most, that the FLAIR threshold is chosen on."""
_INTERVAL_RATE: Final = 0.9
"""Of the volume intervals."""

Progress = Callable[..., Iterable[Any]]


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What is to be compared.

    Attributes
    ----------
    cohort : Path
        Folder of case folders with label maps.
    students, bundles : mapping of str to Path
        Name -> student.pt, name -> clinic bundle.
    compare : mapping of str to Path
        Name -> folder of label maps that somebody else made.
    fit_on : Path, optional
        Folder of case folders that training never saw: there temperatures and volume intervals of students and bundles
        are fitted.
    reference : str, optional
        Name of the source whose mean Dice the others are given as a share of.
    subsets : bool
        Students and bundles also segment with each smaller set of sequences.
    labels : str
        Convention of the truth.
    csv : Path, optional
        Gets a line a case, source and set of sequences; files beside it that end in .json, .md and .png get the rest.
    """

    cohort: Path
    students: Mapping[str, Path]
    compare: Mapping[str, Path]
    bundles: Mapping[str, Path] = field(default_factory=dict)
    fit_on: Path | None = None
    reference: str | None = None
    subsets: bool = False
    labels: str = "brats2023"
    csv: Path | None = None

    def __post_init__(self) -> None:
        names = [*self.students, *self.bundles, *self.compare]
        problems = [f"two sources are called {n}; name them apart in --compare NAME=DIR" for n in _twice(names)]
        if self.reference is not None and self.reference not in names:
            problems.append(f"the reference {self.reference!r} is none of {', '.join(names)}")
        if not (self.students or self.bundles):
            problems += [f"{o} needs a student or a bundle" for o in ("subsets", "fit_on") if getattr(self, o)]
        if problems:
            raise ConfigError("; ".join(problems))


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def run_evaluation(
    request: EvaluationRequest,
    data: TrainingData | None,
    device: torch.device,
    progress: Progress = lambda items, **_: items,
) -> tuple[dict[str, Any], bool]:
    """Score everything, or return what the files already say about exactly these inputs.

    Parameters
    ----------
    request : EvaluationRequest
        What is to be compared.
    data : TrainingData, optional
        Its training cases choose the threshold of the trivial rule, which is 2 SD without them.
    device : torch.device
        Where students run.
    progress : function
        Shows the cases as they are done.

    Returns
    -------
    dict
        JSON-able: `summary`, `subsets`, `fitted`, `reliability`, `cases`, `table` (Markdown), `key`.
    bool
        Whether it was all there already.

    Raises
    ------
    InputError
        A case has no label map, or a source has no prediction for it.
    CalibrationError
        The cases to fit on show patients of the training or of the cohort that is scored, or are too few.
    """
    cases = find_cases(request.cohort)
    folder = request.fit_on
    fitting = [] if folder is None else _fitting_cases(folder, request, cases, data)
    key = _key(request, {"cohort": cases, "fitting": fitting}, data)
    if request.csv is not None and (kept := _kept(request.csv, key)) is not None:
        return kept, True
    networks = {name: student_source(load_student(path), device) for name, path in request.students.items()}
    networks |= {name: bundle_source(path) for name, path in request.bundles.items()}
    fitted = _fit(networks, fitting, request.labels, progress) if fitting else {}
    others: dict[str, Source] = {name: folder_source(path) for name, path in request.compare.items()}
    threshold = DEFAULT_FLAIR_SD
    if data is not None:
        threshold = fit_flair_threshold(data.load(name) for name in data.splits[0].train[:_FITTED_ON])
    others[f"FLAIR > {threshold:g} SD"] = flair_source(threshold)
    found = evaluate(cases, {**networks, **others}, request.labels, SUBSETS if request.subsets else (), progress)
    result: dict[str, Any] = {
        "key": key,
        "summary": summarise(found, fitted, request.reference),
        "subsets": subset_rows(found.scores),
        "fitted": {name: fit.to_json() for name, fit in fitted.items()},
        "reliability": reliability_json(found.counts, fitted),
        "cases": cases_json(found.scores),
    }
    result["table"] = markdown(result)
    if request.csv is not None:
        _write(request.csv, result, csv_text(found.scores))
    return result, False


def _fitting_cases(
    folder: Path, request: EvaluationRequest, scored: Sequence[Case], data: TrainingData | None
) -> list[Case]:
    """Return the cases to fit on, one a patient, all unseen; a `CalibrationError` says what stands against it."""
    found = {case.name: case for case in find_cases(folder)}
    names = independent_cases({name: patient_of(name) for name in found}, _trained_on(request, data))
    if shared := sorted({patient_of(name) for name in names} & {patient_of(case.name) for case in scored}):
        raise CalibrationError(f"{', '.join(shared)} would be fitted on and scored; keep the two cohorts apart")
    if lacking := [name for name in names if "t1c" not in found[name].paths]:
        raise CalibrationError(f"{', '.join(lacking)} lack t1c, so TC and ET cannot be fitted; leave them out")
    if len(names) < (needed := cases_needed(_INTERVAL_RATE)):
        raise CalibrationError(
            f"{folder} holds {len(names)} patients; volume intervals that hold at {_INTERVAL_RATE:.0%} need {needed}"
        )
    return [found[name] for name in names]


def _trained_on(request: EvaluationRequest, data: TrainingData | None) -> set[str]:
    """Return the patients that the networks, or the workspace's teachers, were trained on."""
    records = {n: load_student(path).provenance.get("train_cases") for n, path in request.students.items()}
    for name, path in request.bundles.items():
        records[name] = read_bundle(path).manifest.provenance.get("training", {}).get("cases")
    if unknown := [name for name, cases in records.items() if not cases]:
        raise CalibrationError(f"{', '.join(unknown)}: no record of the training cases, so none can be called unseen")
    seen = {patient_of(case) for cases in records.values() for case in cases or ()}
    if data is not None:
        seen |= {patient_of(case) for case in (*data.splits[0].train, *data.splits[0].validation)}
    return seen


def _fit(
    networks: Mapping[str, NetworkSource], cases: Sequence[Case], convention: str, progress: Progress
) -> dict[str, HeldOutFit]:
    """Return each network's temperatures, from all of the brain, and its volume intervals."""
    found = evaluate(cases, networks, convention, progress=progress)
    fitted = {}
    for name in networks:
        own = [s for s in found.scores if s.source == name]
        true, predicted = np.array([s.true_ml for s in own]), np.array([s.predicted_ml for s in own])
        wt, tc, et = (fit_volume_interval(true[:, i], predicted[:, i], _INTERVAL_RATE) for i in range(true.shape[1]))
        try:
            temperatures = fit_temperatures(found.counts[name][SCOPES[0]])
        except CalibrationError as error:
            raise CalibrationError(f"{name}: {error}") from error
        thresholds = thresholds_after(networks[name].decision, temperatures)
        fitted[name] = HeldOutFit(tuple(s.case for s in own), temperatures, thresholds, (wt, tc, et))
    return fitted


def _write(csv: Path, result: Mapping[str, Any], lines: str) -> None:
    """Write the CSV, the Markdown, the picture where there are probabilities, and last the JSON with their hashes."""
    page, picture = csv.with_suffix(".md"), csv.with_suffix(".png")
    write_bytes(csv, lines.encode())
    write_bytes(page, result["table"].encode())
    written = [csv, page]
    if result["reliability"]:
        write_reliability(picture, result["reliability"])
        written.append(picture)
    hashes = {path.name: sha256_file(path) for path in written}
    write_json(csv.with_suffix(".json"), {**result, "files": hashes})


def _key(request: EvaluationRequest, cohorts: Mapping[str, Sequence[Case]], data: TrainingData | None) -> str:
    """Return a hash of everything that decides the result."""
    files = {
        f"{cohort} {case.name} {path.name}": path
        for cohort, cases in cohorts.items()
        for case in cases
        for path in (*case.paths.values(), case.label)
        if path
    }
    files |= {f"student {name}": path for name, path in request.students.items() if path.is_file()}
    for name, folder in request.compare.items():
        files |= {
            f"{name} {p.relative_to(folder)}": p
            for case in cohorts["cohort"]
            for p in sorted(folder.rglob(f"{case.name}*.nii.gz"))
        }
    hashes: dict[str, Any] = {name: sha256_file(path) for name, path in files.items()}
    hashes |= {f"bundle {name}": read_bundle(path).identity for name, path in request.bundles.items()}
    hashes |= {"version": __version__, "labels": request.labels, "data": data.cohort_hash if data else None}
    hashes |= {"reference": request.reference, "subsets": request.subsets}
    return sha256_bytes(json.dumps(hashes, sort_keys=True).encode())


def _kept(csv: Path, key: str) -> dict[str, Any] | None:
    """Return the earlier result when all files are there, unchanged, and made from the same inputs."""
    try:
        result: dict[str, Any] = json.loads(csv.with_suffix(".json").read_bytes())
        hashes = result.pop("files")
        same = result["key"] == key and csv.name in hashes
        same = same and hashes == {name: sha256_file(csv.with_name(name)) for name in hashes}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same else None

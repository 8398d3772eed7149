"""One evaluation from start to end: students, bundles, other predictions and the trivial rule, kept as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from glialite_calibration.temperature import fit_temperatures, thresholds_after
from glialite_calibration.volume_interval import fit_volume_interval
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.errors import CalibrationError, ConfigError
from glialite_runtime.files import sha256_bytes, sha256_file, write_bytes, write_json

from glialite_distill.baseline import DEFAULT_FLAIR_SD, fit_flair_threshold, flair_source
from glialite_distill.evaluate import AnySource, NetworkSource, evaluate, outlined
from glialite_distill.evaluate_folder import FolderSource
from glialite_distill.evaluate_guard import fitting_cases, record_of, record_of_folder, record_of_workspace, refuse_seen
from glialite_distill.evaluate_models import Model, open_models
from glialite_distill.evaluate_pictures import Look, write_pictures
from glialite_distill.evaluate_scores import SCOPES, Evaluation
from glialite_distill.evaluate_store import Identity, StoredResults, hashes, result_keys
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

__all__ = ["EvaluationRequest", "run_evaluation"]

_FITTED_ON: Final = 10
"""Training cases, at most, that the FLAIR threshold is chosen on."""
_INTERVAL_RATE: Final = 0.9
"""Of the volume intervals."""

_DRAWING: Final = 1
"""Raised when pictures look otherwise: those of an earlier evaluation are drawn again then."""

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
        Name -> folder of label maps that somebody else made; with probabilities in it, these are judged too.
    fit_on : Path, optional
        Folder of case folders that training never saw: there temperatures and volume intervals are fitted, of students,
        bundles, and teachers of the workspace whose probabilities of these cases are there.
    reference : str, optional
        Name of the source whose mean Dice the others are given as a share of.
    subsets : bool
        Students and bundles also segment with each smaller set of sequences.
    labels : str
        Convention of the truth.
    csv : Path, optional
        Gets a line a case, source and set of sequences; files beside it that end in .json, .md and .png get the rest,
        -worst.png and -subgroups.png show one source: the first bundle, else student, else what is compared.
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
        JSON-able: `summary`, `subsets`, `fitted`, `reliability`, `without_probabilities`, `cases`, `pictured` (the
        source in the pictures), `table` (Markdown), `key`.
    bool
        Whether it was all there already.

    Raises
    ------
    InputError
        A case has no label map, or a source has no prediction for it.
    ConfigError
        A model has met patients of the cohort.
    CalibrationError
        The cases to fit on show patients of the training or of the cohort that is scored, or are too few.
    """
    models = open_models(request.students, request.bundles)
    records = {name: record_of(model.content) for name, model in models.items()}
    records |= {"the workspace": record_of_workspace(data)} if data else {}
    cases = find_cases(request.cohort)
    refuse_seen(cases, records)
    fitting = [] if request.fit_on is None else fitting_cases(request.fit_on, cases, records, _INTERVAL_RATE)
    known = [name for name, path in request.compare.items() if record_of_folder(path, data).complete]
    key = _key(request, models, (cases, fitting), {"data": data.cohort_hash if data else None, "known": known})
    if request.csv is not None and (kept := _kept(request.csv, key)) is not None:
        return kept, True
    sources = _sources(request, models, data, device)
    fittable = {n: s for n, s in sources.items() if n in models or (n in known and _tells(s, fitting))}
    fitted = _fit(fittable, _measure(request, models, fittable, fitting, progress)) if fitting else {}
    found = _measure(request, models, sources, cases, progress, SUBSETS if request.subsets else ())
    result: dict[str, Any] = {
        "key": key,
        "summary": summarise(found, fitted, request.reference),
        "subsets": subset_rows(found.scores),
        "fitted": {
            name: {**(models[name].origin if name in models else {}), **fit.to_json()} for name, fit in fitted.items()
        },
        "reliability": reliability_json(found.counts, fitted),
        "without_probabilities": [name for name in sources if name not in found.counts],
        "cases": cases_json(found.scores),
        "pictured": next(iter([*request.bundles, *request.students, *sources])),
    }
    result["table"] = markdown(result)
    if request.csv is not None:
        shown, by_name = sources[result["pictured"]], {case.name: case for case in cases}
        _write(request.csv, result, csv_text(found.scores), lambda case: outlined(shown, by_name[case], request.labels))
    return result, False


def _sources(
    request: EvaluationRequest, models: Mapping[str, Model], data: TrainingData | None, device: torch.device
) -> dict[str, AnySource]:
    """Return everything that is compared, the trivial rule last."""
    sources: dict[str, AnySource] = {name: model.source(device) for name, model in models.items()}
    sources |= {name: FolderSource(path) for name, path in request.compare.items()}
    threshold = DEFAULT_FLAIR_SD
    if data is not None:
        threshold = fit_flair_threshold(data.load(name) for name in data.splits[0].train[:_FITTED_ON])
    return {**sources, f"FLAIR > {threshold:g} SD": flair_source(threshold)}


def _tells(source: AnySource, cases: Sequence[Case]) -> bool:
    return isinstance(source, FolderSource) and source.has_probabilities(cases)


def _measure(
    request: EvaluationRequest,
    models: Mapping[str, Model],
    sources: Mapping[str, AnySource],
    cases: Sequence[Case],
    progress: Progress,
    subsets: Sequence[tuple[str, ...]] = (),
) -> Evaluation:
    """Evaluate the sources; with a CSV, what is done is kept beside it at once."""
    store = None
    if request.csv is not None:
        keys = result_keys(cases, _identities(request, models, sources, cases), request.labels)
        store = StoredResults(request.csv.with_name(f"{request.csv.stem}-cases"), keys)
    return evaluate(cases, sources, request.labels, subsets, progress, store)


def _identities(
    request: EvaluationRequest, models: Mapping[str, Model], names: Iterable[str], cases: Sequence[Case]
) -> dict[str, Identity]:
    """Return what decides the results of each source: weights, files, or for the trivial rule its name."""
    found: dict[str, Identity] = {}
    for name in names:
        if name in models:
            found[name] = partial(_always, {"model": models[name].sha256})
        elif name in request.compare:
            source = FolderSource(request.compare[name])
            found[name] = partial(_files_of, source, source.has_probabilities(cases))
        else:
            found[name] = partial(_always, {"rule": name})
    return found


def _always(value: Mapping[str, Any], case: Case) -> Mapping[str, Any]:
    del case
    return value


def _files_of(source: FolderSource, probabilities: bool, case: Case) -> dict[str, Any]:
    return {"probabilities": probabilities, "files": hashes(source.files_of(case))}


def _fit(sources: Mapping[str, AnySource], found: Evaluation) -> dict[str, HeldOutFit]:
    """Return each source's temperatures, from all of the brain, and its volume intervals."""
    fitted = {}
    for name, source in sources.items():
        own = [s for s in found.scores if s.source == name]
        true, predicted = np.array([s.true_ml for s in own]), np.array([s.predicted_ml for s in own])
        wt, tc, et = (fit_volume_interval(true[:, i], predicted[:, i], _INTERVAL_RATE) for i in range(true.shape[1]))
        try:
            temperatures = fit_temperatures(found.counts[name][SCOPES[0]])
        except CalibrationError as error:
            raise CalibrationError(f"{name}: {error}") from error
        thresholds = thresholds_after(source.decision, temperatures) if isinstance(source, NetworkSource) else None
        fitted[name] = HeldOutFit(tuple(s.case for s in own), temperatures, thresholds, (wt, tc, et))
    return fitted


def _write(csv: Path, result: Mapping[str, Any], lines: str, look: Look) -> None:
    """Write the CSV, the Markdown, the pictures, and last the JSON with their hashes."""
    page, picture = csv.with_suffix(".md"), csv.with_suffix(".png")
    write_bytes(csv, lines.encode())
    write_bytes(page, result["table"].encode())
    written = [csv, page]
    if result["reliability"]:
        write_reliability(picture, result["reliability"])
        written.append(picture)
    pictured = [row for row in result["cases"] if row["source"] == result["pictured"]]
    written += write_pictures(csv, result["pictured"], pictured, look)
    digests = {path.name: sha256_file(path) for path in written}
    write_json(csv.with_suffix(".json"), {**result, "files": digests})


def _key(
    request: EvaluationRequest,
    models: Mapping[str, Model],
    cohorts: Sequence[Sequence[Case]],
    also: Mapping[str, Any],
) -> str:
    """Return a hash of everything that decides the result."""
    names = [*models, *request.compare]
    decides: dict[str, Any] = {
        **also,
        "sources": names,
        "results": [
            [*result_keys(cases, _identities(request, models, names, cases), request.labels).values()]
            for cases in cohorts
        ],
        "cases": [[case.name for case in cases] for cases in cohorts],
        "reference": request.reference,
        "subsets": request.subsets,
        "pictures": _DRAWING,
    }
    return sha256_bytes(json.dumps(decides, sort_keys=True).encode())


def _kept(csv: Path, key: str) -> dict[str, Any] | None:
    """Return the earlier result when all files are there, unchanged, and made from the same inputs."""
    try:
        result: dict[str, Any] = json.loads(csv.with_suffix(".json").read_bytes())
        digests = result.pop("files")
        same = result["key"] == key and csv.name in digests
        same = same and digests == {name: sha256_file(csv.with_name(name)) for name in digests}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same else None

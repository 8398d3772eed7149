"""One evaluation from start to end: students, other predictions and the trivial rule on one cohort, kept as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from glialite_runtime import __version__
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import sha256_bytes, sha256_file, write_bytes, write_json

from glialite_distill.baseline import DEFAULT_FLAIR_SD, fit_flair_threshold, flair_source
from glialite_distill.evaluate import Source, csv_text, evaluate, folder_source, scores_json, student_source, table
from glialite_distill.patches import TrainingData
from glialite_distill.student_file import load_student

__all__ = ["EvaluationRequest", "run_evaluation"]

_FITTED_ON: Final = 10
"""Training cases, at most, that the FLAIR threshold is chosen on."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What is to be compared.

    Attributes
    ----------
    cohort : Path
        Folder of case folders with label maps.
    students : mapping of str to Path
        Name -> student.pt.
    compare : mapping of str to Path
        Name -> folder of label maps that somebody else made.
    labels : str
        Convention of the truth.
    csv : Path, optional
        Gets a line a case and source; a file beside it that ends in .json gets everything.
    """

    cohort: Path
    students: Mapping[str, Path]
    compare: Mapping[str, Path]
    labels: str = "brats2023"
    csv: Path | None = None


def run_evaluation(
    request: EvaluationRequest, data: TrainingData | None, device: torch.device
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

    Returns
    -------
    dict
        JSON-able: `summary`, `cases`, `table` (text), `key`.
    bool
        Whether it was all there already.

    Raises
    ------
    ConfigError
        Two sources have one name, or there is nothing to evaluate.
    InputError
        A case has no label map, or a source has no prediction for it.
    """
    if clash := sorted(set(request.students) & set(request.compare)):
        raise ConfigError(f"two sources are called {', '.join(clash)}; name them apart in --compare NAME=DIR")
    cases = find_cases(request.cohort)
    key = _key(request, cases, data)
    if request.csv is not None and (kept := _kept(request.csv, key)) is not None:
        return kept, True
    sources: dict[str, Source] = {
        name: student_source(load_student(path), device) for name, path in request.students.items()
    }
    sources |= {name: folder_source(path) for name, path in request.compare.items()}
    threshold = DEFAULT_FLAIR_SD
    if data is not None:
        names = data.splits[0].train[:_FITTED_ON]
        threshold = fit_flair_threshold(data.load(name) for name in names)
    sources[f"FLAIR > {threshold:g} SD"] = flair_source(threshold)
    scores = evaluate(cases, sources, request.labels)
    result = {"key": key, "table": table(scores), **scores_json(scores)}
    if request.csv is not None:
        text = csv_text(scores)
        write_bytes(request.csv, text.encode())
        write_json(request.csv.with_suffix(".json"), result | {"csv_sha256": sha256_bytes(text.encode())})
    return result, False


def _key(request: EvaluationRequest, cases: list[Case], data: TrainingData | None) -> str:
    """Return a hash of everything that decides the result."""
    files = {
        str(path.relative_to(request.cohort)): path for c in cases for path in (*c.paths.values(), c.label) if path
    }
    files |= {f"student {name}": path for name, path in request.students.items() if path.is_file()}
    for name, folder in request.compare.items():
        files |= {
            f"{name} {p.relative_to(folder)}": p for c in cases for p in sorted(folder.rglob(f"{c.name}*.nii.gz"))
        }
    hashes: dict[str, Any] = {name: sha256_file(path) for name, path in files.items()}
    hashes |= {"version": __version__, "labels": request.labels, "data": data.cohort_hash if data else None}
    return sha256_bytes(json.dumps(hashes, sort_keys=True).encode())


def _kept(csv: Path, key: str) -> dict[str, Any] | None:
    """Return the earlier result when both files are there, unchanged, and made from the same inputs."""
    try:
        result: dict[str, Any] = json.loads(csv.with_suffix(".json").read_bytes())
        same = result["key"] == key and result.pop("csv_sha256") == sha256_file(csv)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same else None

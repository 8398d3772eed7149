"""Before anything is built: are the inputs whole, do they belong together, and which cases are used for what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import onnxruntime
from glialite_calibration.cases import guard_cases, spread
from glialite_calibration.ranges import METHODS
from glialite_distill.student_file import StudentFile, load_student
from glialite_distill.workspace import Workspace
from glialite_runtime import __version__
from glialite_runtime.bundle import Bundle, read_bundle
from glialite_runtime.errors import BundleError, ConfigError
from glialite_runtime.files import sha256_bytes, sha256_file

from glialite_export import parity
from glialite_export.int8_choice import AUTO
from glialite_export.pack import CARD_FILE, PICTURE_SUFFIX
from glialite_export.reliability import Fitted, load_fitted

__all__ = ["Plan", "Request", "Track", "finished", "plan_build", "same_graph"]

_VERSION: Final = 9
"""Raised when the same inputs would give another bundle."""

_INTENSITY_CASES: Final = 100
"""More cases than the others need: a range over cases is as wide as they are many."""

Track = Callable[[Iterable[str], str], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be built.

    Attributes
    ----------
    student, workspace, out : Path
        Trained student, the workspace that it was trained in, and the bundle (a folder, or a zip by its suffix).
    method : str
        How activation ranges are chosen: a key of `METHODS`, or `AUTO`: the one that does best on selection cases.
    range_cases, selection_cases, parity_cases : int
        At most so many training-side cases for activation ranges, for choosing among methods, and for the gate.
    reliability : Path, optional
        What `distill evaluate --fit-on` fitted, see `load_fitted`; without it reports have volumes without intervals.
    """

    student: Path
    workspace: Path
    out: Path
    method: str = AUTO
    range_cases: int = 8
    selection_cases: int = 3
    parity_cases: int = 6
    reliability: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A build whose inputs were read and checked.

    Attributes
    ----------
    request : Request
        What was asked for.
    file : StudentFile
        The student.
    workspace : Workspace
        The cases.
    range_cases, selection_cases, parity_cases : tuple of str
        Cases for activation ranges, for choosing among methods, and for the gate.
    intensity_cases : tuple of str
        Cases whose grey values the clinic's gate compares a scan with.
    key : str
        SHA-256 over all that decides the graph.
    fitted : Fitted, optional
        Temperatures and volume intervals to carry.
    """

    request: Request
    file: StudentFile
    workspace: Workspace
    range_cases: tuple[str, ...]
    selection_cases: tuple[str, ...]
    parity_cases: tuple[str, ...]
    intensity_cases: tuple[str, ...]
    key: str
    fitted: Fitted | None = None


def plan_build(request: Request) -> Plan:
    """Read the inputs, choose the cases and check that all of it belongs together.

    Methods for activation ranges are judged on training cases of other patients than the ones that give the ranges,
    so that a range which fits only those does not look good. The gate is measured on the student's validation cases
    when there are any, else on training cases that have no part in the choice, else on the same ones.

    Raises
    ------
    ConfigError
        Student, workspace or what was fitted cannot be read, or the student was trained elsewhere.
    CalibrationError
        A case is held out, or none is left.
    """
    file, workspace = load_student(request.student), Workspace.open(request.workspace).for_students()
    problems = []
    if request.method not in (AUTO, *METHODS):
        problems.append(f"method {request.method!r} is unknown; known: {AUTO}, {', '.join(METHODS)}")
    if min(request.range_cases, request.selection_cases, request.parity_cases) < 1:
        problems.append("at least one case is needed for the ranges, one for choosing, and one for the gate")
    if file.provenance.get("cohort_hash") != workspace.cohort_hash:
        problems.append(
            f"{request.student} was trained on another cohort than {request.workspace} holds; give its own workspace"
        )
    if any(abs(a - b) > 1e-3 for a, b in zip(file.spacing_mm, workspace.spacing_mm, strict=True)):
        problems.append(f"the student works at {file.spacing_mm} mm, the workspace at {workspace.spacing_mm} mm")
    if problems:
        raise ConfigError("cannot build: " + "; ".join(problems))
    trained = tuple(file.provenance.get("train_cases", ())) or workspace.cases
    selection = spread(trained, min(request.selection_cases, -(-len(trained) // 3)))
    seen = {workspace.patients.get(case, case) for case in selection}
    ranges = spread(
        tuple(case for case in trained if workspace.patients.get(case, case) not in seen) or trained,
        request.range_cases,
    )
    others = tuple(case for case in workspace.cases if case not in (*ranges, *selection))
    judged = tuple(file.provenance.get("validation_cases", ())) or others or ranges
    gate = spread(judged, request.parity_cases)
    intensity = spread(trained, _INTENSITY_CASES)
    for cases in (ranges, selection, gate, intensity):
        guard_cases(cases, workspace.cases, workspace.held_out, workspace.patients)
    digest = sha256_file(request.student)
    decides = {
        "version": _VERSION,
        "software": __version__,
        "onnxruntime": onnxruntime.__version__,
        "student": digest,
        "cohort": workspace.cohort_hash,
        "method": request.method,
        "range_cases": ranges,
        "selection_cases": selection,
        "parity_cases": gate,
        "intensity_cases": intensity,
        "limits": [asdict(limit) for limit in parity.LIMITS],
    }
    key = sha256_bytes(json.dumps(decides, sort_keys=True).encode())
    fitted = None if request.reliability is None else load_fitted(request.reliability, digest, key)
    return Plan(request, file, workspace, ranges, selection, gate, intensity, key, fitted)


def finished(plan: Plan) -> Bundle | None:
    """Return the bundle when exactly this build is there already, whole."""
    bundle = same_graph(plan)
    wanted, measured = (None, "") if plan.fitted is None else (plan.fitted.reliability, plan.fitted.measured)
    if bundle is None or bundle.manifest.reliability != wanted or measured.encode() not in bundle.files[CARD_FILE]:
        return None
    pictures = {name: content for name, content in bundle.files.items() if name.endswith(PICTURE_SUFFIX)}
    return bundle if pictures == ({} if plan.fitted is None else dict(plan.fitted.pictures)) else None


def same_graph(plan: Plan) -> Bundle | None:
    """Return the bundle that is there, whole, when it differs from this build at most in what was fitted for it."""
    with suppress(BundleError):
        bundle = read_bundle(plan.request.out)
        if bundle.manifest.provenance.get("build_key") == plan.key:
            return bundle
    return None

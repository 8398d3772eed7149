"""From a trained student to a clinic bundle: export, lower, quantise, and a gate after every hop."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from glialite_calibration.cases import guard_cases, spread
from glialite_calibration.ranges import METHODS, activation_ranges, collect
from glialite_distill.evaluate import network_logits
from glialite_distill.student import Student
from glialite_distill.student_file import StudentFile, build_student, load_student
from glialite_distill.workspace import Workspace
from glialite_runtime import __version__
from glialite_runtime.bundle import Bundle, Graph, read_bundle, write_bundle
from glialite_runtime.decode import decode
from glialite_runtime.engine import OnnxEngine
from glialite_runtime.errors import BundleError, ConfigError
from glialite_runtime.files import sha256_bytes, sha256_file

from glialite_export import parity
from glialite_export.graph import OPSET
from glialite_export.int8 import OutputGrid, observed_tensors, quantize, with_outputs
from glialite_export.lower import lower
from glialite_export.onnx_export import export_student
from glialite_export.pack import GRAPH_FILE, Packing, bundle_files, golden_crop, manifest_of

__all__ = ["Plan", "Request", "build", "finished", "plan_build"]

_VERSION: Final = 1
"""Raised when the same inputs would give another bundle."""

_EXACT_EDGE: Final = 64
"""Edge in voxels of the crops that FP32 graphs are compared on; native 3-D convolution is slow."""

Track = Callable[[Iterable[str], str], Iterable[str]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be built.

    Attributes
    ----------
    student, workspace, out : Path
        Trained student, the workspace that it was trained in, and the bundle (a folder, or a zip by its suffix).
    method : str
        How activation ranges are chosen, a key of `METHODS`.
    range_cases, parity_cases : int
        At most so many training-side cases for activation ranges and for the gate.
    """

    student: Path
    workspace: Path
    out: Path
    method: str = "percentile-99.999"
    range_cases: int = 8
    parity_cases: int = 6


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
    range_cases, parity_cases : tuple of str
        Cases for activation ranges and for the gate.
    key : str
        SHA-256 over all that decides the result.
    """

    request: Request
    file: StudentFile
    workspace: Workspace
    range_cases: tuple[str, ...]
    parity_cases: tuple[str, ...]
    key: str


def plan_build(request: Request) -> Plan:
    """Read the inputs, choose the cases and check that all of it belongs together.

    The gate is measured on the student's validation cases when there are any, else on training cases that did not
    give the activation ranges, else on the same ones.

    Raises
    ------
    ConfigError
        Student or workspace cannot be read, or the student was trained elsewhere.
    CalibrationError
        A case is held out, or none is left.
    """
    file, workspace = load_student(request.student), Workspace.open(request.workspace)
    problems = []
    if request.method not in METHODS:
        problems.append(f"method {request.method!r} is unknown; known: {', '.join(METHODS)}")
    if min(request.range_cases, request.parity_cases) < 1:
        problems.append("at least one case is needed for the ranges, and one for the gate")
    if file.provenance.get("cohort_hash") != workspace.cohort_hash:
        problems.append(
            f"{request.student} was trained on another cohort than {request.workspace} holds; give its own workspace"
        )
    if any(abs(a - b) > 1e-3 for a, b in zip(file.spacing_mm, workspace.spacing_mm, strict=True)):
        problems.append(f"the student works at {file.spacing_mm} mm, the workspace at {workspace.spacing_mm} mm")
    if problems:
        raise ConfigError("cannot build: " + "; ".join(problems))
    trained = tuple(file.provenance.get("train_cases", ())) or workspace.cases
    ranges = spread(trained, request.range_cases)
    others = tuple(case for case in workspace.cases if case not in ranges)
    judged = tuple(file.provenance.get("validation_cases", ())) or others or ranges
    gate = spread(judged, request.parity_cases)
    for cases in (ranges, gate):
        guard_cases(cases, workspace.cases, workspace.held_out, workspace.patients)
    decides = {
        "version": _VERSION,
        "software": __version__,
        "onnxruntime": onnxruntime.__version__,
        "student": sha256_file(request.student),
        "cohort": workspace.cohort_hash,
        "method": request.method,
        "range_cases": ranges,
        "parity_cases": gate,
        "limits": [asdict(limit) for limit in parity.LIMITS],
    }
    return Plan(request, file, workspace, ranges, gate, sha256_bytes(json.dumps(decides, sort_keys=True).encode()))


def finished(plan: Plan) -> Bundle | None:
    """Return the bundle when exactly this build is there already, whole."""
    with suppress(BundleError):
        bundle = read_bundle(plan.request.out)
        if bundle.manifest.provenance.get("build_key") == plan.key:
            return bundle
    return None


def build(plan: Plan, track: Track = lambda items, _: items) -> Bundle:
    """Build the bundle; one that is there already, from the same inputs, is returned as it is.

    Parameters
    ----------
    plan : Plan
        See `plan_build`.
    track : function (items, label), optional
        Wraps each loop over cases, for a progress bar.

    Returns
    -------
    Bundle
        Read back from where it was written.

    Raises
    ------
    ParityError
        A graph does not do what the one before it did; nothing was written.
    UnsupportedOpError, ExportError, CalibrationError
        The student cannot be lowered, quantised or packed.
    OutputError
        The bundle cannot be written.
    """
    ready = finished(plan)
    if ready is not None:
        logger.info("%s is built already from the same inputs", plan.request.out)
        return ready
    student = build_student(plan.file)
    reports = []
    native = export_student(student)
    lowered = lower(native, student.spec.divisor)
    networks = [_torch_network(student), _network(native, plan, "volume"), _network(lowered, plan)]
    for place, hop in enumerate((parity.TO_ONNX, parity.TO_LOWERED)):
        images = (_crop(plan.workspace.load(case)[0]) for case in track(plan.parity_cases[:2], f"parity, {hop}"))
        reports.append(parity.check(hop, parity.difference_figures(networks[place], networks[place + 1], images)))
    tensors = observed_tensors(lowered)
    histograms = collect(
        with_outputs(lowered, tensors).SerializeToString(),
        tensors,
        _lowered_images(plan, track(plan.range_cases, "activation ranges")),
    )
    quantized = quantize(
        lowered,
        activation_ranges(histograms, plan.request.method),
        OutputGrid(plan.file.decision.logit_thresholds),
    )
    candidate = _network(quantized, plan)
    triples = [
        _labels(plan, networks[2], candidate, case) for case in track(plan.parity_cases, f"parity, {parity.TO_INT8}")
    ]
    reports.append(parity.check(parity.TO_INT8, parity.label_figures(triples)))
    packing = _packing(plan, quantized.SerializeToString(), reports)
    files = bundle_files(packing, golden_crop(student.spec.divisor), candidate)
    write_bundle(plan.request.out, manifest_of(packing), files)
    return read_bundle(plan.request.out)


def _torch_network(student: Student) -> parity.Network:
    return lambda image: network_logits(student, image, torch.device("cpu"))


def _network(model: onnx.ModelProto, plan: Plan, layout: str = "depth-as-batch") -> parity.Network:
    """Return a graph as the clinic's own engine runs it."""
    graph = Graph(model.graph.name, "cpu", "fp32", layout, plan.file.spec.divisor, OPSET)
    return OnnxEngine(graph, model.SerializeToString()).logits


def _crop(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the middle of a case, at most `_EXACT_EDGE` voxels wide."""
    starts = [max(0, (n - _EXACT_EDGE) // 2) for n in image.shape[1:]]
    z, y, x = (slice(start, start + _EXACT_EDGE) for start in starts)
    return image[:, z, y, x]


def _lowered_images(plan: Plan, cases: Iterable[str]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield cases as the lowered graph takes them: (z, 4, y, x), padded with zeros to the divisor."""
    divisor = plan.file.spec.divisor
    for case in cases:
        image = plan.workspace.load(case)[0]
        padded = np.pad(image, [(0, 0), *((0, -n % divisor) for n in image.shape[1:])])
        yield np.ascontiguousarray(padded.transpose(1, 0, 2, 3))


def _labels(plan: Plan, reference: parity.Network, candidate: parity.Network, case: str) -> parity.LabelTriple:
    image, truth = plan.workspace.load(case)
    voxel_mm3 = float(np.prod(plan.workspace.spacing_mm))
    rule = plan.file.decision
    return parity.LabelTriple(
        decode(reference(image), rule, voxel_mm3), decode(candidate(image), rule, voxel_mm3), truth
    )


def _packing(plan: Plan, graph: bytes, reports: list[dict[str, Any]]) -> Packing:
    file, made = plan.file, plan.file.provenance
    trained = tuple(made.get("train_cases", ())) or plan.workspace.cases
    provenance = {
        "build_key": plan.key,
        "cohort_hash": plan.workspace.cohort_hash,
        "soft_label_key": made.get("soft_label_key"),
        "members": list(made.get("members", ())),
        "seed": made.get("seed"),
        "iterations": made.get("iterations"),
        "student": {
            "name": file.spec.name,
            "widths": list(file.spec.widths),
            "convolutions": file.spec.convolutions,
            "parameters": sum(tensor.numel() for tensor in build_student(file).parameters()),
            "sha256": sha256_file(plan.request.student),
        },
        "training": {"cases": list(trained), "options": made.get("options")},
        "calibration": {"method": plan.request.method, "cases": list(plan.range_cases)},
        "parity_cases": list(plan.parity_cases),
        "parity": reports,
        "graph_sha256": {GRAPH_FILE: sha256_bytes(graph)},
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }
    return Packing(
        name=f"glialite-{file.spec.name}-{plan.key[:8]}",
        graph=graph,
        divisor=file.spec.divisor,
        opset=OPSET,
        spacing_mm=file.spacing_mm,
        decision=file.decision,
        sites={site for case in trained if (site := plan.workspace.sites.get(case))},
        training_cases=len(trained),
        provenance=provenance,
    )

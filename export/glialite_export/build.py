"""From a trained student to a clinic bundle: export, lower, quantise, and a gate after every hop."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from glialite_calibration.intensity import MIN_CASES, intensity_ranges
from glialite_calibration.ranges import collect
from glialite_distill.cohort import site_of
from glialite_distill.evaluate import network_logits
from glialite_distill.student import Student
from glialite_distill.student_file import build_student, record_is_complete, seen_cases, trained_on
from glialite_runtime.bundle import Bundle, Graph, Manifest, read_bundle, write_bundle
from glialite_runtime.decode import decode
from glialite_runtime.engine import OnnxEngine
from glialite_runtime.errors import ExportError, ParityError
from glialite_runtime.files import sha256_bytes, sha256_file
from glialite_runtime.int8_engine import Int8Engine, kernel_kinds
from glialite_runtime.int8_network import read_network
from glialite_runtime.intensity import IntensityRange
from glialite_runtime.sequences import SEQUENCES

from glialite_export import parity
from glialite_export.graph import OPSET
from glialite_export.int8 import OutputGrid, observed_tensors, with_outputs
from glialite_export.int8_choice import AUTO, Bench, Choice, Material, choose, methods_for
from glialite_export.judge import judge_against
from glialite_export.layers import with_layers
from glialite_export.lower import lower
from glialite_export.measured import with_measured
from glialite_export.onnx_export import export_student
from glialite_export.pack import (
    CARD_FILE,
    GRAPH_FILE,
    PICTURE_SUFFIX,
    Packing,
    bundle_files,
    check_size,
    golden_crop,
    manifest_of,
)
from glialite_export.plan import Plan, Request, Track, finished, plan_build, same_graph
from glialite_export.reliability import Fitted
from glialite_export.sensitivity import centred_crop, compare_on, layer_names

__all__ = ["Request", "build", "finished", "packing_of", "plan_build"]

_EXACT_EDGE: Final = 64
"""Edge in voxels of the crops that FP32 graphs are compared on; native 3-D convolution is slow."""

_LAYER_EDGE: Final = 48
"""Edge in voxels of the crops that single layers are quantised on, dozens of graphs in FP32."""

_FINE_TUNE: Final = (
    "fine-tune the student with rounding in the loop: "
    "distill train --workspace W --init student.pt --quantisation-aware"
)

logger = logging.getLogger(__name__)


def build(plan: Plan, track: Track = lambda items, _: items) -> Bundle:
    """Build the bundle; one that is there already, from the same inputs, is returned as it is.

    Where only what was fitted for it changed, nothing is computed again.

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
        A graph does not do what the one before it did; nothing was written. For INT8, its report also holds
        `calibration`: every method's score and every layer's cost.
    UnsupportedOpError, ExportError, CalibrationError
        The student cannot be lowered, quantised or packed.
    OutputError
        The bundle cannot be written.
    """
    ready = finished(plan)
    if ready is not None:
        logger.info("%s is built already from the same inputs", plan.request.out)
        return ready
    if (same := same_graph(plan)) is not None:
        write_bundle(plan.request.out, _with_fitted(same.manifest, plan.fitted), _with_card(same.files, plan.fitted))
        return read_bundle(plan.request.out)
    student = build_student(plan.file)
    reports = []
    native = export_student(student)
    lowered = lower(native, student.spec.divisor)
    networks = [_torch_network(student), _network(native, plan, "volume"), _network(lowered, plan)]
    for place, hop in enumerate((parity.TO_ONNX, parity.TO_LOWERED)):
        images = (_crop(plan.workspace.load(case)[0]) for case in track(plan.parity_cases[:2], f"parity, {hop}"))
        reports.append(parity.check(hop, parity.difference_figures(networks[place], networks[place + 1], images)))
    choice = _choose(plan, networks[2], lowered, layer_names(native, lowered), track)
    graph = with_layers(choice.graph)
    candidate = _network(graph, plan)
    crop = golden_crop(student.spec.divisor)
    triples = [
        _labels(plan, networks[2], candidate, case) for case in track(plan.parity_cases, f"parity, {parity.TO_INT8}")
    ]
    reports.append(_gate(triples, choice.report))
    _check_kernels(graph, candidate, crop.astype(np.float32), student.spec.divisor)
    packing = packing_of(plan, graph.SerializeToString(), reports, choice.report)
    files = bundle_files(packing, crop, candidate)
    manifest = replace(manifest_of(packing), intensity=_intensity(plan, track))
    write_bundle(plan.request.out, _with_fitted(manifest, plan.fitted), _with_card(files, plan.fitted))
    return read_bundle(plan.request.out)


def _intensity(plan: Plan, track: Track) -> dict[str, IntensityRange] | None:
    """Return how grey values are spread in the training cases; None of too few."""
    if len(plan.intensity_cases) < MIN_CASES:
        logger.info("fewer than %d training cases: the bundle cannot tell unusual grey values", MIN_CASES)
        return None
    images = (plan.workspace.load(case)[0] for case in track(plan.intensity_cases, "grey values"))
    return intensity_ranges(images, plan.workspace.spacing_mm)


def _with_fitted(manifest: Manifest, fitted: Fitted | None) -> Manifest:
    """Return the manifest with what was fitted for the model, or with nothing fitted."""
    provenance = {**manifest.provenance, "reliability": None if fitted is None else dict(fitted.record)}
    return replace(manifest, reliability=None if fitted is None else fitted.reliability, provenance=provenance)


def _with_card(files: Mapping[str, bytes], fitted: Fitted | None) -> dict[str, bytes]:
    """Return a bundle's files, the model card with what was measured, and its pictures in place of those it had."""
    card = with_measured(files[CARD_FILE].decode(), "" if fitted is None else fitted.measured)
    kept = {name: content for name, content in files.items() if not name.endswith(PICTURE_SUFFIX)}
    everything = {**kept, CARD_FILE: card.encode(), **({} if fitted is None else fitted.pictures)}
    check_size(everything)
    return everything


def _choose(
    plan: Plan, fp32: parity.Network, lowered: onnx.ModelProto, names: Mapping[str, str], track: Track
) -> Choice:
    """Observe the activations, then choose the INT8 graph on the selection cases."""
    load, rule = plan.workspace.load, plan.file.decision
    tensors = observed_tensors(lowered)
    histograms = collect(
        with_outputs(lowered, tensors).SerializeToString(),
        tensors,
        _lowered_images(plan, track(plan.range_cases, "activation ranges")),
    )
    cases = track(plan.selection_cases, "selection cases, FP32")
    judge = judge_against(fp32, cases, load, rule, float(np.prod(plan.workspace.spacing_mm)))
    crops = [centred_crop(*load(case), _LAYER_EDGE) for case in plan.selection_cases[:2]]
    compare = compare_on(crops, fp32, lambda model: _network(model, plan), rule)
    bench = Bench(judge, compare, lambda model: _network(model, plan))
    methods = track(methods_for(plan.request.method), "ranges by method")
    choice = choose(Material(lowered, histograms, OutputGrid(rule.logit_thresholds), names), bench, methods)
    used = {
        "asked": plan.request.method,
        "cases": list(plan.range_cases),
        "selection_cases": list(plan.selection_cases),
    }
    return Choice(choice.graph, {**used, **choice.report})


def _gate(triples: list[parity.LabelTriple], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Hold the INT8 graph against its limits; a refusal carries how the graph was chosen."""
    try:
        return parity.check(parity.TO_INT8, parity.label_figures(triples))
    except ParityError as error:
        way_out = _FINE_TUNE if calibration["asked"] == AUTO else f"use --ranges {AUTO}, or {_FINE_TUNE}"
        raise ParityError(f"{error}; {way_out}", {**error.report, "calibration": dict(calibration)}) from error


def _check_kernels(
    graph: onnx.ModelProto, reference: parity.Network, crop: npt.NDArray[np.float32], divisor: int
) -> None:
    """Hold the compiled kernels, each kind that this processor has, to onnxruntime's result bit for bit."""
    model = graph.SerializeToString()
    network = read_network(model)
    if network is None:
        logger.info("the graph has layers that the compiled kernels do not know; onnxruntime will run it")
        return
    expected = reference(crop)
    for kind in kernel_kinds():
        engine = Int8Engine(Graph("int8", "cpu", "int8", "depth-as-batch", divisor, OPSET), network, kind=kind)
        if not np.array_equal(engine.logits(crop), expected):
            raise ExportError(
                f"the compiled kernels ({kind}) and onnxruntime differ on the golden crop: please report it"
            )


def _torch_network(student: Student) -> parity.Network:
    return lambda image: network_logits(student, image, torch.device("cpu"))


def _network(model: onnx.ModelProto, plan: Plan, layout: str = "depth-as-batch") -> parity.Network:
    """Return a graph as the clinic's own engine runs it."""
    spec = plan.file.spec
    graph = Graph(model.graph.name, "cpu", "fp32", layout, spec.divisor, OPSET)
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


def packing_of(
    plan: Plan, graph: bytes, reports: list[dict[str, Any]], calibration: Mapping[str, Any] = MappingProxyType({})
) -> Packing:
    """Return what a bundle of this student is made from; the GPU's bundle begins with the same."""
    file, made = plan.file, plan.file.provenance
    trained = tuple(made.get("train_cases", ())) or plan.workspace.cases
    formed = {*trained, *trained_on(made)}
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
            "convolutions": list(file.spec.blocks),
            "parameters": sum(tensor.numel() for tensor in build_student(file).parameters()),
            "sha256": sha256_file(plan.request.student),
        },
        "training": {
            "cases": list(trained),
            "seen": sorted({*trained, *seen_cases(made)}) if record_is_complete(made) else None,
            "options": made.get("options"),
            "initial": made.get("initial"),
        },
        "calibration": dict(calibration) or {"method": plan.request.method, "cases": list(plan.range_cases)},
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
        accepted_sequences=tuple(tuple(kept) for kept in made.get("accepted_sequences", [SEQUENCES])),
        sites={site for case in formed if (site := plan.workspace.sites.get(case) or site_of(case))},
        training_cases=len(formed),
        provenance=provenance,
    )

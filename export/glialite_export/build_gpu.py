"""From a trained student to a GPU bundle: native 3-D graphs in FP16 and symmetric INT8, and a gate behind each.

Building one needs no GPU and no TensorRT: onnxruntime's CPU provider computes what the graphs mean, and
`tensorrt_rules` says whether TensorRT will take them. The engine itself is built on the computer that runs it
(`glialite_runtime.tensorrt_build`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from glialite_calibration.histogram import Histogram
from glialite_calibration.ranges import Range, activation_ranges, collect
from glialite_distill.evaluate import network_logits
from glialite_distill.student import Student
from glialite_distill.student_file import build_student
from glialite_runtime.bundle import Bundle, Graph, golden_file, read_bundle, write_bundle
from glialite_runtime.decode import decode
from glialite_runtime.engine import OnnxEngine
from glialite_runtime.errors import ExportError, ParityError
from glialite_runtime.files import sha256_bytes
from glialite_runtime.tensorrt_engine import golden_difference

from glialite_export import build as cpu
from glialite_export import parity
from glialite_export import plan as planning
from glialite_export.fp16 import ACTIVATION_LIMIT, observed_tensors, to_fp16
from glialite_export.gpu_int8 import quantize_symmetric
from glialite_export.graph import OPSET
from glialite_export.int8 import with_outputs
from glialite_export.int8_choice import methods_for
from glialite_export.judge import judge_against, pick
from glialite_export.onnx_export import export_student
from glialite_export.pack import CARD_FILE, Packing, golden_crop, manifest_of, model_card, notice
from glialite_export.plan import Plan, Request, Track, finished
from glialite_export.tensorrt_rules import RULES, check

__all__ = ["FP16_FILE", "INT8_FILE", "Request", "build", "finished", "forecast", "plan_build"]

FP16_FILE: Final = "gpu-fp16.onnx"
INT8_FILE: Final = "gpu-int8.onnx"

_VERSION: Final = 1
"""Raised when the same inputs would give another bundle."""

_PARITY_CASES: Final = 4
"""Cases that the gate looks at; native 3-D convolution is slow on a CPU."""

_EDGE: Final = 128
"""Edge in voxels of what ranges and gate see of each case."""

_START_S: Final = 8.0
_RUN_S_PER_MVOXEL: Final = 1.4
_OBSERVE_S_PER_MVOXEL: Final = 3.0

_FLOOR: Final = 0.01
"""Least difference, root mean square over that of FP32, that a GPU's golden crop may have: 1 %."""

_REMEDY: Final = (
    "try --ranges min-max-doubled, or fine-tune the student with rounding in the loop: "
    "distill train --init student.pt --quantisation-aware"
)

_ON_A_GPU: Final = """
## On a GPU

This bundle is for NVIDIA GPUs with TensorRT. `gpu-fp16.onnx` runs unless INT8 is asked for; the engine is built on the
computer that runs it. The golden crop's logits are those of FP32, and an engine may differ from them by the
tolerance in bundle.json: a GPU adds in another order, so its bits are its own. The parity above was measured with
onnxruntime on a CPU.
"""

Array = npt.NDArray[np.float32]
Case = tuple[Array, npt.NDArray[np.uint8]]

logger = logging.getLogger(__name__)


def plan_build(request: Request) -> Plan:
    """Read the inputs and choose the cases as for a clinic bundle, fewer for the gate.

    Raises
    ------
    ConfigError, CalibrationError
        See `glialite_export.build.plan_build`.
    """
    plan = planning.plan_build(request)
    key = sha256_bytes(f"gpu {_VERSION} {plan.key}".encode())
    return replace(plan, parity_cases=plan.parity_cases[:_PARITY_CASES], key=key)


def forecast(plan: Plan) -> dict[str, float]:
    """Return seconds, disk and memory of a build: rates measured for student S on two cores, times voxels."""
    size = {
        case: 1e-6 * float(np.prod(np.minimum(plan.workspace.shape_of(case), _EDGE)))
        for case in (*plan.range_cases, *plan.selection_cases, *plan.parity_cases)
    }
    methods = len(methods_for(plan.request.method))
    runs = sum(size[case] for case in plan.selection_cases) * (1 + methods)
    runs += sum(size[case] for case in plan.parity_cases) * 3 + 2 * size[plan.parity_cases[0]]
    observed = sum(size[case] for case in plan.range_cases)
    parameters = sum(tensor.numel() for tensor in plan.file.state.values())
    return {
        "seconds": round(_START_S + runs * _RUN_S_PER_MVOXEL + observed * _OBSERVE_S_PER_MVOXEL),
        "disk_mb": round(3.2 * parameters / 1e6 + 0.5, 1),
        "memory_mb": round(520 + 300 * max(size.values())),
    }


def build(plan: Plan, track: Track = lambda items, _: items) -> Bundle:
    """Build the GPU bundle; one that is there already, from the same inputs, is returned as it is.

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
        A graph does not do what FP32 did; nothing was written.
    ExportError, CalibrationError
        The student does not fit into FP16, or breaks a rule of TensorRT's.
    OutputError
        The bundle cannot be written.
    """
    ready = finished(plan)
    if ready is not None:
        logger.info("%s is built already from the same inputs", plan.request.out)
        return ready
    student = build_student(plan.file)
    native = export_student(student)
    fp32 = _network(native, plan)
    images = (_loaded(plan, case)[0] for case in track(plan.parity_cases[:1], f"parity, {parity.TO_ONNX}"))
    reports = [parity.check(parity.TO_ONNX, parity.difference_figures(_torch(student), fp32, images))]
    tensors = observed_tensors(native)
    observed = collect(
        with_outputs(native, tensors).SerializeToString(),
        tensors,
        (_padded(plan, case) for case in track(plan.range_cases, "activation ranges")),
    )
    spans = activation_ranges(observed, "min-max")
    int8, calibration = _choose(plan, native, observed, track)
    models = {FP16_FILE: to_fp16(native, spans), INT8_FILE: int8}
    networks = {file: _network(model, plan) for file, model in models.items()}
    for file, model in models.items():
        _refuse_findings(file, model)
    reports += _gates(plan, fp32, networks, track)
    golden = _golden(plan, fp32, networks)
    files = {file: model.SerializeToString() for file, model in models.items()}
    packing = cpu.packing_of(plan, files[INT8_FILE], reports, calibration)
    provenance = {**packing.provenance, **_gpu_record(files, golden, spans)}
    _write(plan, replace(packing, name=f"{packing.name}-gpu", provenance=provenance), files, golden)
    return read_bundle(plan.request.out)


def _choose(
    plan: Plan, native: onnx.ModelProto, observed: Mapping[str, Histogram], track: Track
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the INT8 graph whose ranges do best on the selection cases, and for provenance how it was chosen."""
    voxel_mm3 = float(np.prod(plan.workspace.spacing_mm))
    cases = track(plan.selection_cases, "selection cases, FP32")
    judge = judge_against(
        _network(native, plan), cases, lambda case: _loaded(plan, case), plan.file.decision, voxel_mm3
    )
    graphs, scores = {}, {}
    for method in track(methods_for(plan.request.method), "ranges by method"):
        graphs[method] = quantize_symmetric(native, activation_ranges(observed, method))
        scores[method] = judge.score(_network(graphs[method], plan))
    chosen = pick(scores)
    report = {
        "asked": plan.request.method,
        "method": chosen,
        "cases": list(plan.range_cases),
        "selection_cases": list(plan.selection_cases),
        "methods": {method: score.record() for method, score in scores.items()},
    }
    return graphs[chosen], report


def _torch(student: Student) -> parity.Network:
    return lambda image: network_logits(student, image, torch.device("cpu"))


def _network(model: onnx.ModelProto, plan: Plan) -> parity.Network:
    graph = Graph(model.graph.name, "cpu", "fp32", "volume", plan.file.spec.divisor, OPSET)
    return OnnxEngine(graph, model.SerializeToString()).logits


def _loaded(plan: Plan, case: str) -> Case:
    """Return the middle of a case, at most `_EDGE` voxels wide: image (4, z, y, x) and labels (z, y, x)."""
    image, truth = plan.workspace.load(case)
    starts = [max(0, (n - _EDGE) // 2) for n in truth.shape]
    z, y, x = (slice(start, start + _EDGE) for start in starts)
    return image[:, z, y, x], truth[z, y, x]


def _padded(plan: Plan, case: str) -> Array:
    """Return the middle of a case as the graph takes it: (1, 4, z, y, x), padded with zeros to the divisor."""
    image, _ = _loaded(plan, case)
    return np.pad(image, [(0, 0), *((0, -n % plan.file.spec.divisor) for n in image.shape[1:])])[None]


def _refuse_findings(file: str, model: onnx.ModelProto) -> None:
    findings = check(model)
    if findings:
        places = "; ".join(f"{finding.node}: {finding.remedy} (rule {finding.rule})" for finding in findings[:10])
        raise ExportError(f"{file} breaks {len(findings)} of TensorRT's rules: {places}")


def _gates(
    plan: Plan, fp32: parity.Network, networks: Mapping[str, parity.Network], track: Track
) -> list[dict[str, Any]]:
    """Hold each graph's logits and labels against those of FP32."""
    voxel_mm3, rule = float(np.prod(plan.workspace.spacing_mm)), plan.file.decision
    worst = dict.fromkeys(networks, 0.0)
    triples: dict[str, list[parity.LabelTriple]] = {file: [] for file in networks}
    for case in track(plan.parity_cases, "parity, FP16 and INT8"):
        image, truth = _loaded(plan, case)
        expected = fp32(image)
        labels = decode(expected, rule, voxel_mm3)
        for file, run in networks.items():
            logits = run(image)
            worst[file] = max(worst[file], golden_difference(expected, logits))
            triples[file].append(parity.LabelTriple(labels, decode(logits, rule, voxel_mm3), truth))
    hops = {FP16_FILE: parity.TO_FP16, INT8_FILE: parity.TO_GPU_INT8}
    figures = {file: {**parity.label_figures(triples[file]), "logit_difference": worst[file]} for file in networks}
    try:
        return [parity.check(hops[file], figures[file]) for file in networks]
    except ParityError as error:
        raise ParityError(f"{error}; {_REMEDY}", error.report) from error


@dataclass(frozen=True, slots=True)
class _Golden:
    """The golden crop, FP32's logits of it, and how far each graph is off by onnxruntime (see `golden_difference`)."""

    image: npt.NDArray[np.float16]
    logits: Array
    measured: dict[str, float]


def _golden(plan: Plan, fp32: parity.Network, networks: Mapping[str, parity.Network]) -> _Golden:
    crop = golden_crop(plan.file.spec.divisor)
    image = crop.astype(np.float32)
    logits = fp32(image)
    return _Golden(crop, logits, {file: golden_difference(logits, run(image)) for file, run in networks.items()})


def _gpu_record(files: Mapping[str, bytes], golden: _Golden, spans: Mapping[str, Range]) -> dict[str, Any]:
    """Return what the provenance of a GPU bundle says beyond that of one for CPUs."""
    return {
        "graph_sha256": {file: sha256_bytes(content) for file, content in files.items()},
        "golden": {
            "reference": "fp32",
            "measure": "root mean square of the difference over that of the reference",
            "measured_on_cpu": golden.measured,
            # As far again as the graph itself is from FP32, for a GPU's other order of sums.
            "tolerance": {file: max(_FLOOR, 2 * off) for file, off in golden.measured.items()},
        },
        "fp16": {
            "largest_activation": max(max(-span.low, span.high) for span in spans.values()),
            "limit": ACTIVATION_LIMIT,
        },
        "tensorrt_rules": list(RULES),
    }


def _write(plan: Plan, packing: Packing, graphs: Mapping[str, bytes], golden: _Golden) -> None:
    divisor = plan.file.spec.divisor
    manifest = replace(
        manifest_of(packing),
        graphs=(
            Graph(FP16_FILE, "gpu", "fp16", "volume", divisor, OPSET),
            Graph(INT8_FILE, "gpu", "int8", "volume", divisor, OPSET),
        ),
    )
    golden_name, golden_content = golden_file(golden.image, golden.logits)
    texts = {CARD_FILE: model_card(packing) + _ON_A_GPU, "NOTICE.txt": notice(packing.sites)}
    files = {**graphs, golden_name: golden_content, **{name: text.encode() for name, text in texts.items()}}
    write_bundle(plan.request.out, manifest, files)

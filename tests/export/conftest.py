"""A tiny student that learnt a toy task, a workspace of toy cases, and graphs made of them once a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from glialite_calibration.ranges import activation_ranges, collect
from glialite_distill.recipes import find_plan
from glialite_distill.student import Student, StudentSpec
from glialite_distill.student_file import StudentFile, save_student
from glialite_distill.workspace import cohort_file, plans_name, prepared_folder, splits_file
from glialite_export.int8 import OutputGrid, observed_tensors, quantize, with_outputs
from glialite_export.lower import lower
from glialite_export.onnx_export import export_student
from glialite_runtime.decode import DecisionRule
from torch import nn

Array = npt.NDArray[np.float32]

SPEC = StudentSpec("tiny", (8, 16), 1)
CASES = tuple(f"BraTS-PHA-0000{number}-000" for number in range(1, 7))
HELD_OUT = CASES[-1]


def toy_case(seed: int, shape: tuple[int, int, int] = (30, 34, 36)) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return a normalised image (4, z, y, x) and its labels: bright FLAIR is WT, bright T2 is TC, bright T1c is ET."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-3, 3, 3)
    distance = np.sqrt(((np.indices(shape) - centre[:, None, None, None]) ** 2).sum(0))
    labels = np.select([distance < 4, distance < 7, distance < 10], [1, 3, 2], 0).astype(np.uint8)
    image = rng.normal(0, 0.3, (4, *shape))
    image[3] += 3 * (labels > 0)
    image[2] += 3 * ((labels == 1) | (labels == 3))
    image[1] += 3 * (labels == 3)
    return image.astype(np.float32), labels


def _learn(student: Student) -> None:
    cases = [toy_case(seed) for seed in range(2)]
    images = torch.from_numpy(np.stack([image[:, :28, :32, :36] for image, _ in cases]))
    labels = np.stack([truth[:28, :32, :36] for _, truth in cases])
    regions = np.stack([labels > 0, (labels == 1) | (labels == 3), labels == 3], axis=1)
    targets = torch.from_numpy(regions.astype(np.float32))
    nn.init.constant_(student.head.bias, -3.0)  # type: ignore[arg-type]
    steps = 80
    optimizer = torch.optim.Adam(student.parameters(), 0.03)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    student.train()
    for _ in range(steps):
        optimizer.zero_grad()
        logits = student(images)
        found, axes = torch.sigmoid(logits), (0, 2, 3, 4)
        overlap = (2 * (found * targets).sum(axes) + 1) / ((found + targets).sum(axes) + 1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets) + 1 - overlap.mean()
        loss.backward()
        optimizer.step()
        falling.step()


@pytest.fixture(scope="session")
def student() -> Student:
    """Return a student that outlines toy cases well."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Student(SPEC)
        _learn(network)
    return network.eval()


def run(model: onnx.ModelProto, image: Array, threads: int = 1, optimise: bool = True) -> Array:
    """Return what onnxruntime makes of an input in the graph's own layout."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {session.get_inputs()[0].name: image})[0]
    return result


def run_lowered(model: onnx.ModelProto, volume: Array) -> Array:
    """Return what a lowered graph makes of a native input (1, C, D, H, W), in the native layout."""
    return run(model, np.ascontiguousarray(volume[0].swapaxes(0, 1))).swapaxes(0, 1)[None]


@pytest.fixture(scope="session")
def native(student: Student) -> onnx.ModelProto:
    """Return the student as a 3-D graph."""
    return export_student(student)


@pytest.fixture(scope="session")
def lowered(native: onnx.ModelProto) -> onnx.ModelProto:
    """Return the student as a 2-D graph."""
    return lower(native, SPEC.divisor)


@pytest.fixture(scope="session")
def quantise(lowered: onnx.ModelProto) -> Callable[..., onnx.ModelProto]:
    """Return a function that quantises the student, with ranges from one toy case."""
    tensors = observed_tensors(lowered)
    image = np.ascontiguousarray(toy_case(7)[0][:, :28, :32, :36].swapaxes(0, 1))
    histograms = collect(with_outputs(lowered, tensors).SerializeToString(), tensors, [image])
    ranges = activation_ranges(histograms, "percentile-99.999")
    centred = OutputGrid((0.0, 0.0, 0.0))
    return lambda output=centred, wide=(): quantize(lowered, ranges, output, wide)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a prepared workspace of toy cases, the last one held out."""
    root = tmp_path_factory.mktemp("workspace")
    plan = find_plan("small")
    folder = prepared_folder(root) / f"{plans_name(plan)}_3d_fullres"
    folder.mkdir(parents=True)
    for seed, case in enumerate(CASES[:-1]):
        image, labels = toy_case(seed)
        blosc2.asarray(image, urlpath=str(folder / f"{case}.b2nd"), mode="w")
        blosc2.asarray(labels[None].astype(np.int8), urlpath=str(folder / f"{case}_seg.b2nd"), mode="w")
    record = {
        "cases": {case: {"patient": case[:-4], "site": "PHA"} for case in CASES},
        "held_out": [HELD_OUT],
        "hash": "c0ffee",
        "options": {"plan": "small"},
    }
    cohort_file(root).write_text(json.dumps(record))
    splits_file(root).write_text(json.dumps([{"train": CASES[:3], "val": CASES[3:-1]}]))
    return root


@pytest.fixture(scope="session")
def student_file(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the student's checkpoint, trained in `workspace`."""
    path = tmp_path_factory.mktemp("student") / "student.pt"
    write_student(path, student)
    return path


def write_student(path: Path, student: Student, **provenance: object) -> None:
    """Write a checkpoint whose provenance says it was trained in `workspace`."""
    made = {
        "cohort_hash": "c0ffee",
        "soft_label_key": "5eed",
        "members": ["baseline", "grokking"],
        "train_cases": list(CASES[:3]),
        "validation_cases": list(CASES[3:-1]),
        "seed": 0,
        "iterations": 60,
        **provenance,
    }
    save_student(path, StudentFile(student.spec, student.state_dict(), (2.0, 2.0, 2.0), DecisionRule(), made))

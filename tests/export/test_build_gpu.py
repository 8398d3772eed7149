"""From a student to a GPU bundle: two graphs that pass TensorRT's rules, a gate behind each, no GPU needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from glialite_export import build_gpu as module
from glialite_export import parity
from glialite_export import plan as planning
from glialite_export.build_gpu import FP16_FILE, INT8_FILE, Request, build, finished, forecast, plan_build
from glialite_export.cli import app
from glialite_export.tensorrt_rules import check
from glialite_runtime.bundle import Bundle, read_bundle
from glialite_runtime.command import run
from glialite_runtime.decode import decode
from glialite_runtime.engine import OnnxEngine
from glialite_runtime.errors import CalibrationError, ExportError, ParityError
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.tensorrt_engine import golden_difference, open_tensorrt_engine
from onnx import numpy_helper

from .conftest import CASES, HELD_OUT, toy_case, write_student


@pytest.fixture(scope="module")
def built(student_file: Path, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a GPU bundle that was built from the toy student."""
    out = tmp_path_factory.mktemp("gpu") / "bundle"
    build(plan_build(Request(student_file, workspace, out)))
    return out


@pytest.fixture
def bundle(built: Path) -> Bundle:
    """Return the built bundle, read and checked."""
    return read_bundle(built)


@pytest.mark.parametrize("place", [0, 1])
def test_each_graph_segments_a_case_that_nobody_trained_on(bundle: Bundle, place: int) -> None:
    """FP16 and INT8 both find the toy tumour, by onnxruntime's CPU provider."""
    graph = bundle.manifest.graphs[place]
    image, truth = toy_case(99, (33, 29, 38))
    logits = OnnxEngine(graph, bundle.files[graph.file]).logits(image)
    assert min(dice_per_region(decode(logits, bundle.manifest.decision, 8.0), truth)) > 0.75


def test_manifest_says_what_the_graphs_are(bundle: Bundle) -> None:
    """For GPUs, native 3-D, FP16 first; no graph for CPUs is among them."""
    assert [(graph.file, graph.target, graph.precision, graph.layout) for graph in bundle.manifest.graphs] == [
        (FP16_FILE, "gpu", "fp16", "volume"),
        (INT8_FILE, "gpu", "int8", "volume"),
    ]
    assert bundle.manifest.name.endswith("-gpu")
    assert set(bundle.files) == {FP16_FILE, INT8_FILE, "golden.npz", "MODEL_CARD.md", "NOTICE.txt"}


def test_both_graphs_keep_tensorrts_rules(bundle: Bundle) -> None:
    """What is in the file is what was checked."""
    for file in (FP16_FILE, INT8_FILE):
        assert check(onnx.load_from_string(bundle.files[file])) == ()


def test_golden_crop_comes_out_within_the_tolerance_that_is_stored(bundle: Bundle) -> None:
    """Its logits are FP32's; each graph is off by half the tolerance or less, so a GPU has room for its own order."""
    image, expected = bundle.golden()
    golden = bundle.manifest.provenance["golden"]
    assert golden["reference"] == "fp32"
    for graph in bundle.manifest.graphs:
        off = golden_difference(expected, OnnxEngine(graph, bundle.files[graph.file]).logits(image))
        assert 0 < off <= golden["tolerance"][graph.file] / 2
        assert golden["tolerance"][graph.file] < 0.5


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_real_gpu_gives_the_golden_crop(bundle: Bundle, precision: str, tmp_path: Path) -> None:
    """With TensorRT and a GPU, each graph becomes an engine whose logits lie within the tolerance."""
    pytest.importorskip("tensorrt", reason="TensorRT is not installed: NVIDIA's own index has it")
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="NVIDIA's CUDA bindings are not installed")
    if cuda.cudaGetDeviceCount()[0] != cuda.cudaError_t.cudaSuccess:
        pytest.skip("there is no GPU")
    assert open_tensorrt_engine(bundle, precision, tmp_path).golden_crop.startswith("within")


def test_bundle_tells_what_the_gate_measured(bundle: Bundle) -> None:
    """Each hop from FP32, its figures and limits; cases and calibration as for the CPU."""
    made = bundle.manifest.provenance
    assert [hop["hop"] for hop in made["parity"]] == [parity.TO_ONNX, parity.TO_FP16, parity.TO_GPU_INT8]
    assert all(hop["limits"] and all(row["held"] for row in hop["limits"]) for hop in made["parity"])
    assert set(made["calibration"]["cases"]) <= set(CASES[:3])
    assert made["calibration"]["method"] in made["calibration"]["methods"]
    assert made["parity_cases"] == list(CASES[3:5])
    assert set(made["graph_sha256"]) == {FP16_FILE, INT8_FILE}
    assert 0 < made["fp16"]["largest_activation"] < made["fp16"]["limit"]
    assert "TensorRT" in bundle.files["MODEL_CARD.md"].decode()


def test_same_inputs_are_not_built_twice(
    built: Path, student_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished build is recognised; one for CPUs from the same inputs is another."""
    monkeypatch.setattr(module, "export_student", lambda student: pytest.fail("built again"))
    request = Request(student_file, workspace, built)
    before = (built / "bundle.json").stat().st_mtime_ns
    build(plan_build(request))
    assert (built / "bundle.json").stat().st_mtime_ns == before
    assert finished(planning.plan_build(request)) is None


def _changed(model: onnx.ModelProto, kind: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """Return the model with the first constant of a type changed."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    tensor = next(t for t in broken.graph.initializer if numpy_helper.to_array(t).dtype == kind and len(t.dims) == 5)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    return broken


BROKEN: dict[str, tuple[str, str, str, type[ExportError]]] = {
    "shuffled FP16 weights": ("to_fp16", "float16", "onnx-3d to fp16", ParityError),
    "shuffled INT8 weights": ("quantize_symmetric", "int8", "onnx-3d to gpu-int8", ParityError),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graph_is_refused(
    name: str, student_file: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever graph is wrong, the gate names it, and nothing is written."""
    step, kind, hop, error = BROKEN[name]
    honest = getattr(module, step)
    monkeypatch.setattr(module, step, lambda *args: _changed(honest(*args), kind, lambda a: a[::-1].copy()))
    with pytest.raises(error, match=hop):
        build(plan_build(Request(student_file, workspace, tmp_path / "bundle")))
    assert not list(tmp_path.iterdir())


def test_graph_that_breaks_a_rule_is_refused(
    student_file: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured, with the rule and what to do."""

    def unsigned(*arguments: Any) -> onnx.ModelProto:
        model: onnx.ModelProto = honest(*arguments)
        point = next(t for t in model.graph.initializer if t.name == "zero_point")
        point.CopyFrom(numpy_helper.from_array(np.uint8(0), point.name))
        return model

    honest = module.quantize_symmetric
    monkeypatch.setattr(module, "quantize_symmetric", unsigned)
    with pytest.raises(ExportError, match=r"gpu-int8.onnx breaks .*rule int8"):
        build(plan_build(Request(student_file, workspace, tmp_path / "bundle")))
    assert not list(tmp_path.iterdir())


def test_forecast_grows_with_the_work(student_file: Path, workspace: Path, tmp_path: Path) -> None:
    """Trying every method takes longer than trying one; all figures are there."""
    request = Request(student_file, workspace, tmp_path / "bundle")
    every, one = forecast(plan_build(request)), forecast(plan_build(replace(request, method="min-max")))
    assert set(every) == {"seconds", "disk_mb", "memory_mb"}
    assert every["seconds"] >= one["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_held_out_case_never_calibrates(student: Any, workspace: Path, tmp_path: Path) -> None:
    """The guard of the CPU's build holds here too."""
    write_student(tmp_path / "leaky.pt", student, train_cases=[CASES[0], HELD_OUT])
    with pytest.raises(CalibrationError, match=f"{HELD_OUT} is held out"):
        plan_build(Request(tmp_path / "leaky.pt", workspace, tmp_path / "bundle"))


def test_bundle_is_json_that_holds_no_path(built: Path, workspace: Path) -> None:
    """Where it was made is nobody's business."""
    json.loads((built / "bundle.json").read_text())
    assert not any(str(workspace.parent).encode() in path.read_bytes() for path in built.iterdir())


def arguments(student: Path, workspace: Path, out: Path, *more: str) -> list[str]:
    paths = ["--student", str(student), "--workspace", str(workspace), "--out", str(out)]
    return ["build", *paths, "--target", "gpu", *more]


def test_command_prints_what_the_gate_measured(
    built: Path, student_file: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--target gpu` returns the bundle that is there, for machines and for people."""
    assert run(app, arguments(student_file, workspace, built, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert [hop["hop"] for hop in result["parity"]] == [parity.TO_ONNX, parity.TO_FP16, parity.TO_GPU_INT8]
    assert run(app, arguments(student_file, workspace, built)) == 0
    assert "onnx-3d to fp16: differing_voxels" in capsys.readouterr().out


def test_dry_run_forecasts_and_writes_nothing(
    built: Path, student_file: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Time, disk and memory of the GPU build come out; one that is there costs nothing."""
    assert run(app, arguments(student_file, workspace, tmp_path / "bundle", "--dry-run", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert min(shown["seconds"], shown["disk_mb"], shown["memory_mb"]) > 0
    assert not list(tmp_path.iterdir())
    assert run(app, arguments(student_file, workspace, built, "--dry-run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["already_built"] is True

"""A GPU bundle is checked without a GPU: whole, by TensorRT's rules, golden crop within its tolerance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from glialite_calibration.ranges import Range
from glialite_export.cli import app
from glialite_export.fp16 import observed_tensors, to_fp16
from glialite_export.gpu_int8 import quantize_symmetric
from glialite_export.pack import golden_crop
from glialite_export.verify_gpu import verify_gpu
from glialite_runtime.bundle import Bundle, Graph, golden_file, write_bundle
from glialite_runtime.command import run
from glialite_runtime.errors import CheckFailedError

from ..conftest import threshold_manifest
from .conftest import SPEC
from .conftest import run as run_graph

GRAPHS = tuple(Graph(f"gpu-{kind}.onnx", "gpu", kind, "volume", SPEC.divisor, 17) for kind in ("fp16", "int8"))


@pytest.fixture
def bundle(native: onnx.ModelProto) -> Bundle:
    """Return a GPU bundle of the toy student, with ranges that fit roughly."""
    ranges = dict.fromkeys(observed_tensors(native), Range(-16.0, 16.0))
    models = (to_fp16(native, ranges), quantize_symmetric(native, ranges))
    crop = golden_crop(SPEC.divisor)
    name, content = golden_file(crop, run_graph(native, crop.astype(np.float32)[None])[0])
    tolerance = {"gpu-fp16.onnx": 0.01, "gpu-int8.onnx": 0.2}
    manifest = replace(threshold_manifest(), graphs=GRAPHS, provenance={"golden": {"tolerance": tolerance}})
    graphs = {graph.file: model.SerializeToString() for graph, model in zip(GRAPHS, models, strict=True)}
    return Bundle(manifest, {**graphs, name: content}, "0")


def test_good_bundle_passes(bundle: Bundle) -> None:
    """Both graphs are measured; FP16 is the closer one."""
    off = verify_gpu(bundle, 1)["golden_difference"]
    assert 0 < off["gpu-fp16.onnx"] < off["gpu-int8.onnx"] < 0.2


def test_golden_crop_out_of_tolerance_is_named(bundle: Bundle) -> None:
    """The graph, by how much, and how much was allowed."""
    manifest = replace(bundle.manifest, provenance={"golden": {"tolerance": {g.file: 1e-9 for g in GRAPHS}}})
    with pytest.raises(CheckFailedError, match=r"golden crop of gpu-fp16.onnx is off by .* at most 1e-09"):
        verify_gpu(replace(bundle, manifest=manifest), 1)


def test_graph_that_breaks_a_rule_is_named(bundle: Bundle) -> None:
    """The rules are asked again: they may have grown since the bundle was built."""
    model = onnx.load_from_string(bundle.files["gpu-int8.onnx"])
    model.opset_import[0].version = 22
    files = {**bundle.files, "gpu-int8.onnx": model.SerializeToString()}
    with pytest.raises(CheckFailedError, match=r"gpu-int8.onnx breaks TensorRT's rules opset"):
        verify_gpu(replace(bundle, files=files), 1)


def test_command_verifies_a_gpu_bundle(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`edge-export verify` needs no GPU; one changed byte is exit code 4."""
    write_bundle(tmp_path / "gpu", bundle.manifest, bundle.files)
    assert run(app, ["verify", str(tmp_path / "gpu"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["golden_difference"]) == {graph.file for graph in GRAPHS}
    assert run(app, ["verify", str(tmp_path / "gpu")]) == 0
    assert "TensorRT's rules" in capsys.readouterr().out
    graph = tmp_path / "gpu" / "gpu-fp16.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    assert run(app, ["verify", str(tmp_path / "gpu")]) == 4

"""The cut: three parts of one file, run in slabs of any size, give the same bits as the whole graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from glialite_calibration.ranges import activation_ranges, collect
from glialite_distill.student import Student, StudentSpec
from glialite_export.int8 import OutputGrid, observed_tensors, quantize, with_outputs
from glialite_export.lower import lower
from glialite_export.onnx_export import export_student
from glialite_export.slabs import cut_for_slabs, slab_halo
from glialite_runtime import engine as module
from glialite_runtime.bundle import Graph
from glialite_runtime.engine import OnnxEngine
from glialite_runtime.errors import ExportError


def quantized(spec: StudentSpec) -> onnx.ModelProto:
    torch.manual_seed(0)
    lowered = lower(export_student(Student(spec).eval()), spec.divisor)
    tensors = observed_tensors(lowered)
    noise = np.random.default_rng(0).standard_normal((32, 4, 32, 32)).astype(np.float32)
    histograms = collect(with_outputs(lowered, tensors).SerializeToString(), tensors, [noise])
    return quantize(lowered, activation_ranges(histograms, "min-max"), OutputGrid((0.0, 0.0, 0.0)))


@pytest.mark.parametrize("convolutions", [1, 2, (1, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("voxels", [1, 3e4, 1e9])
def test_slabs_of_any_size_give_the_same_bits(
    convolutions: int | tuple[int, ...], voxels: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also slabs of a single plane; a halo of one plane less would not do."""
    spec = StudentSpec("x", (8, 16, 24), convolutions)
    whole = quantized(spec)
    cut = cut_for_slabs(whole, len(slab_halo(spec))).SerializeToString()
    image = np.random.default_rng(1).standard_normal((4, 48, 40, 32)).astype(np.float32)
    reference = OnnxEngine(Graph("w", "cpu", "int8", "depth-as-batch", 8, 17), whole.SerializeToString(), 1)
    monkeypatch.setattr(module, "_SLAB_VOXELS", voxels)
    expected = reference.logits(image)

    def in_slabs(halo: tuple[int, ...]) -> np.ndarray:
        graph = Graph("c", "cpu", "int8", "depth-slabs", 8, 17, halo)
        return OnnxEngine(graph, cut, 1, low_memory=True).logits(image)

    right = slab_halo(spec)
    assert right == spec.blocks[:2]
    np.testing.assert_array_equal(in_slabs(right), expected)
    if voxels == 1:
        assert not np.array_equal(in_slabs((right[0] - 1, right[1])), expected)
        assert not np.array_equal(in_slabs((right[0], right[1] - 1)), expected)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_slabs_side_by_side_give_the_same_bits(threads: int) -> None:
    """Whatever the number of threads; 6 planes of the second stage are not even shared out evenly."""
    spec = StudentSpec("x", (8, 16, 24), (1, 2, 1))
    cut = cut_for_slabs(quantized(spec), 2).SerializeToString()
    image = np.random.default_rng(1).standard_normal((4, 24, 32, 40)).astype(np.float32)
    graph = Graph("c", "cpu", "int8", "depth-slabs", 8, 17, (1, 2))
    one, more = (OnnxEngine(graph, cut, n) for n in (1, threads))
    np.testing.assert_array_equal(more.logits(image), one.logits(image))
    np.testing.assert_array_equal(more.above(image, (0.0, 0.0, 0.0)), one.logits(image) > 0)


def test_thresholds_on_levels_are_those_on_logits() -> None:
    """At a level's own logit, between two levels, beyond both ends; on an image that must be padded."""
    spec = StudentSpec("x", (8, 16), 1)
    cut = cut_for_slabs(quantized(spec), 1).SerializeToString()
    engine = OnnxEngine(Graph("c", "cpu", "int8", "depth-slabs", 4, 17, (1,)), cut, 1)
    image = np.random.default_rng(1).standard_normal((4, 14, 15, 17)).astype(np.float32)
    logits = engine.logits(image)
    middle = [float(np.median(region)) for region in logits]
    for shift in (-100, -0.01, 0, 0.01, 100):
        thresholds = [value + shift for value in middle]
        expected = logits > np.array(thresholds, np.float32).reshape(3, 1, 1, 1)
        np.testing.assert_array_equal(engine.above(image, thresholds), expected)


def test_the_cut_runs_dequantised_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out for a processor that gives other bits: within a step or two of the output's grid."""
    spec = StudentSpec("x", (8, 16), 1)
    cut = cut_for_slabs(quantized(spec), 1).SerializeToString()
    graph = Graph("c", "cpu", "int8", "depth-slabs", 4, 17, (1,))
    image = np.random.default_rng(1).standard_normal((4, 16, 16, 16)).astype(np.float32)
    one, other = (OnnxEngine(graph, cut, 1, dequantised=d).logits(image) for d in (False, True))
    assert np.abs(one - other).max() < 0.15


def test_too_little_free_memory_means_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being asked for."""
    spec = StudentSpec("x", (8, 16), 1)
    cut = cut_for_slabs(quantized(spec), 1).SerializeToString()
    engine = OnnxEngine(Graph("c", "cpu", "int8", "depth-slabs", 4, 17, (1,)), cut, 1)
    image = np.random.default_rng(1).standard_normal((4, 16, 16, 16)).astype(np.float32)
    planned = []
    plan = module.plan_slabs
    monkeypatch.setattr(module, "plan_slabs", lambda *asked: planned.append(plan(*asked)) or planned[-1])
    monkeypatch.setattr(module, "_SLAB_VOXELS", 1)
    engine.logits(image)
    monkeypatch.setattr(module, "available_bytes", lambda: 1e3)
    engine.logits(image)
    assert [len(slabs) for slabs in planned] == [1, 1, 8, 8]


def test_a_graph_without_a_skip_connection_cannot_be_cut() -> None:
    """There is nothing that could be run apart."""
    network = Student(StudentSpec("x", (8,), 1)).eval()
    lowered = lower(export_student(network), 2)
    with pytest.raises(ExportError, match="0 skip connections"):
        cut_for_slabs(lowered, 1)

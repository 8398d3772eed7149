"""Symmetric INT8 for GPUs: pairs where TensorRT looks for them, one scale along joins, full-range weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from glialite_calibration.ranges import Range, activation_ranges, collect
from glialite_export.fp16 import observed_tensors
from glialite_export.gpu_int8 import quantize_symmetric
from glialite_export.graph import constants
from glialite_export.int8 import with_outputs
from glialite_export.onnx_export import export_network
from glialite_runtime.errors import ExportError
from onnx import numpy_helper
from torch import nn

from .conftest import run, toy_case

IMAGE = toy_case(7)[0][None, :, :28, :32, :36]
Ranges = dict[str, Range]


@pytest.fixture(scope="module")
def ranges(native: onnx.ModelProto) -> Ranges:
    """Return what each tensor of the student reached on a toy case."""
    tensors = observed_tensors(native)
    histograms = collect(with_outputs(native, tensors).SerializeToString(), tensors, [IMAGE])
    return activation_ranges(histograms, "percentile-99.999")


@pytest.fixture(scope="module")
def quantised(native: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Return the student in symmetric INT8."""
    return quantize_symmetric(native, ranges)


def writers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def test_logits_stay_close_to_fp32(native: onnx.ModelProto, quantised: onnx.ModelProto) -> None:
    """Eight bits leave a few percent of the logits' spread."""
    expected, got = run(native, IMAGE), run(quantised, IMAGE)
    assert np.sqrt(np.mean((got - expected) ** 2)) < 0.05 * np.sqrt(np.mean(expected**2))


def test_integer_kernels_and_float_kernels_agree(quantised: onnx.ModelProto) -> None:
    """What onnxruntime fuses into integers means what the graph says in floats."""
    fused, plain = run(quantised, IMAGE), run(quantised, IMAGE, optimise=False)
    assert np.abs(fused - plain).mean() < 0.02 * np.abs(plain).mean()


def test_every_convolution_reads_pairs_and_a_float_bias(quantised: onnx.ModelProto) -> None:
    """Image through Q and DQ, weights through DQ, bias as it was."""
    written, values = writers(quantised), constants(quantised)
    convolutions = [node for node in quantised.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for node in convolutions:
        image, weight = (written[name] for name in node.input[:2])
        assert [image.op_type, written[image.input[0]].op_type] == ["DequantizeLinear", "QuantizeLinear"]
        assert weight.op_type == "DequantizeLinear"
        assert weight.input[0] in values
        assert values[node.input[2]].dtype == np.float32


def test_transposed_convolutions_stay_in_floats(quantised: onnx.ModelProto) -> None:
    """TensorRT has no INT8 kernel for them in 3-D."""
    written = writers(quantised)
    nodes = [node for node in quantised.graph.node if node.op_type == "ConvTranspose"]
    assert len(nodes) == 2
    assert all(written[node.input[0]].op_type == "Relu" and node.input[1] not in written for node in nodes)


def test_joined_tensors_share_one_scale(quantised: onnx.ModelProto) -> None:
    """The pair behind a join repeats the scale of the pairs before it, so that joining moves bytes."""
    written = writers(quantised)
    joins = [node for node in quantised.graph.node if node.op_type == "Concat"]
    assert joins
    for join in joins:
        behind = next(n for n in quantised.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == join.output[0])
        assert {written[name].input[1] for name in join.input} == {behind.input[1]}


def test_weights_use_the_full_range_a_channel(quantised: onnx.ModelProto) -> None:
    """Each output channel reaches ±127, none -128."""
    levels = [array.astype(int) for name, array in constants(quantised).items() if name.startswith("weight_levels")]
    assert levels
    assert all((np.abs(array).reshape(len(array), -1).max(axis=1) == 127).all() for array in levels)


def test_grid_is_symmetric_and_as_wide_as_the_larger_side() -> None:
    """By hand: a range of -2 … 1 has the scale 2 / 127 and saturates 127 steps to either side."""
    torch.manual_seed(0)
    layer = nn.Conv3d(1, 1, 1, bias=False).eval()
    nn.init.constant_(layer.weight, 0.5)
    model = export_network(layer, 1, 1)
    quantised = quantize_symmetric(model, {"image": Range(-2.0, 1.0)})
    image = np.array([-9.0, -2.0, 2 / 127, 0.9 / 127, 9.0], np.float32).reshape(1, 1, 1, 1, 5)
    np.testing.assert_allclose(
        run(quantised, image).ravel(), np.array([-128, -127, 1, 0, 127]) / 127, rtol=1e-6, atol=1e-9
    )


def test_channel_of_zeros_and_dead_tensor_have_a_scale() -> None:
    """A scale of 0 would divide by zero; what is always 0 stays 0."""
    layer = nn.Conv3d(1, 2, 1).eval()
    nn.init.zeros_(layer.weight)
    quantised = quantize_symmetric(export_network(layer, 1, 1), {"image": Range(0.0, 0.0)})
    assert all((array > 0).all() for name, array in constants(quantised).items() if "scale" in name)
    assert np.isfinite(run(quantised, np.ones((1, 1, 2, 2, 2), np.float32))).all()


def test_missing_range_is_refused(native: onnx.ModelProto, ranges: Ranges) -> None:
    """The message names the tensor."""
    with pytest.raises(ExportError, match="'image' has no activation range"):
        quantize_symmetric(native, {name: span for name, span in ranges.items() if name != "image"})


def test_weight_that_is_not_finite_is_refused(native: onnx.ModelProto, ranges: Ranges) -> None:
    """It has no scale."""
    broken = onnx.ModelProto()
    broken.CopyFrom(native)
    convolution = next(node for node in broken.graph.node if node.op_type == "Conv")
    tensor = next(tensor for tensor in broken.graph.initializer if tensor.name == convolution.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    with pytest.raises(ExportError, match="finite"):
        quantize_symmetric(broken, ranges)


def test_same_arguments_give_the_same_bytes(native: onnx.ModelProto, ranges: Ranges) -> None:
    """Quantisation is deterministic."""
    one, other = quantize_symmetric(native, ranges), quantize_symmetric(native, ranges)
    assert one.SerializeToString() == other.SerializeToString()

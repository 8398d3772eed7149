"""FP16 graphs: float16 inside, float32 at the ends, and nothing that would overflow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from glialite_calibration.ranges import Range, activation_ranges, collect
from glialite_export.fp16 import ACTIVATION_LIMIT, observed_tensors, to_fp16
from glialite_export.graph import constants
from glialite_export.int8 import with_outputs
from glialite_runtime.errors import ExportError
from onnx import numpy_helper

from .conftest import run, toy_case

IMAGE = toy_case(7)[0][None, :, :28, :32, :36]


@pytest.fixture(scope="module")
def ranges(native: onnx.ModelProto) -> dict[str, Range]:
    """Return what each tensor of the student reached on a toy case."""
    tensors = observed_tensors(native)
    return activation_ranges(collect(with_outputs(native, tensors).SerializeToString(), tensors, [IMAGE]), "min-max")


@pytest.fixture(scope="module")
def half(native: onnx.ModelProto, ranges: dict[str, Range]) -> onnx.ModelProto:
    """Return the student in FP16."""
    return to_fp16(native, ranges)


def test_logits_are_those_of_fp32_but_for_rounding(native: onnx.ModelProto, half: onnx.ModelProto) -> None:
    """Eleven bits are enough: a few thousandths of the largest logit; but it is not FP32 itself."""
    expected, got = run(native, IMAGE), run(half, IMAGE)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - expected).max() < 5e-3 * np.abs(expected).max()


def test_every_weight_is_float16(half: onnx.ModelProto) -> None:
    """A strongly typed engine computes in the type that the graph holds."""
    assert {array.dtype for array in constants(half).values()} == {np.dtype(np.float16)}
    assert [node.op_type for node in half.graph.node].count("Cast") == 2


def test_any_shape_goes_through(native: onnx.ModelProto, half: onnx.ModelProto) -> None:
    """The edges are free, as in the FP32 graph."""
    image = IMAGE[:, :, :8, :16, :12]
    assert run(half, image).shape == run(native, image).shape == (1, 3, 8, 16, 12)


def test_graph_is_half_as_large(native: onnx.ModelProto, half: onnx.ModelProto) -> None:
    """Weights take two bytes instead of four."""
    assert half.ByteSize() < 0.6 * native.ByteSize()


@pytest.mark.parametrize("value", [7e4, -7e4, np.inf, np.nan])
def test_weight_beyond_float16_is_refused(native: onnx.ModelProto, ranges: dict[str, Range], value: float) -> None:
    """It would be infinite, and the mask black."""
    broken = onnx.ModelProto()
    broken.CopyFrom(native)
    tensor = next(tensor for tensor in broken.graph.initializer if tensor.name == "head.weight")
    array = numpy_helper.to_array(tensor).copy()
    array.flat[3] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(ExportError, match=r"weight 'head.weight' reaches"):
        to_fp16(broken, ranges)


@pytest.mark.parametrize("span", [Range(0.0, 2e4), Range(-2e4, 0.0), Range(0.0, np.inf), Range(0.0, np.nan)])
def test_activation_near_the_end_of_float16_is_refused(
    native: onnx.ModelProto, ranges: dict[str, Range], span: Range
) -> None:
    """A quarter of 65504 is the most that an observed activation may reach; the message names the tensor."""
    with pytest.raises(ExportError, match="activation 'logits' reaches"):
        to_fp16(native, {**ranges, "logits": span})
    to_fp16(native, {**ranges, "logits": Range(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)})


def test_activation_that_nobody_observed_is_refused(native: onnx.ModelProto, ranges: dict[str, Range]) -> None:
    """What was not looked at may overflow."""
    missing = observed_tensors(native)[3]
    with pytest.raises(ExportError, match=f"{missing}' was not observed"):
        to_fp16(native, {name: span for name, span in ranges.items() if name != missing})


def test_student_is_left_as_it_was(native: onnx.ModelProto, ranges: dict[str, Range]) -> None:
    """The pass writes a new graph."""
    before = native.SerializeToString()
    to_fp16(native, ranges)
    assert native.SerializeToString() == before

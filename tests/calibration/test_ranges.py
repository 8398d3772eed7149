"""Activation ranges of a graph, and observation through onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from glialite_calibration.ranges import METHODS, activation_ranges, collect
from glialite_runtime.errors import CalibrationError
from onnx import TensorProto, helper

from .conftest import HistogramOf


def test_min_max_is_exact_over_all_batches(histogram_of: HistogramOf) -> None:
    """The smallest and the largest value of any batch are the range."""
    ranges = activation_ranges({"t": histogram_of(np.array([0.5, 2.0]), np.array([-3.25, 1.0]))}, "min-max")
    assert (ranges["t"].low, ranges["t"].high) == (-3.25, 2.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("values", "low", "high"), [([2.0, 5.0], 0, 5), ([-5.0, -2.0], -5, 0), ([0.0, 0.0], 0, 0)])
def test_a_range_always_holds_zero(
    method: str, values: list[float], low: float, high: float, histogram_of: HistogramOf
) -> None:
    """Padding is 0, so a range reaches 0 even when no value did."""
    factor = 2 if method == "min-max-doubled" else 1
    span = activation_ranges({"t": histogram_of(np.array(values))}, method)["t"]
    assert (span.low, span.high) == pytest.approx((factor * low, factor * high), rel=0.05, abs=0.01)


def test_unknown_method_is_refused() -> None:
    """The message lists the methods that there are."""
    with pytest.raises(CalibrationError, match=r"percentile-99\.99"):
        activation_ranges({}, "guess")


def doubling_graph() -> bytes:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("image", "twice", "fourfold")]
    nodes = [helper.make_node("Add", ["image"] * 2, ["twice"]), helper.make_node("Add", ["twice"] * 2, ["fourfold"])]
    graph = helper.make_graph(nodes, "doubling", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def test_collect_sees_input_and_outputs_of_every_image() -> None:
    """Each tensor is observed over all images; the input is one of them."""
    images = [np.array([1.0, -2.0], np.float32), np.array([3.0, 0.0], np.float32)]
    found = activation_ranges(collect(doubling_graph(), ["image", "fourfold"], images), "min-max")
    assert (found["image"].low, found["image"].high) == (-2, 3)
    assert (found["fourfold"].low, found["fourfold"].high) == (-8, 12)


def test_collect_without_images_is_refused() -> None:
    """No calibration case is an error, not an empty result."""
    with pytest.raises(CalibrationError, match="no calibration case"):
        collect(doubling_graph(), ["image"], [])


def test_collect_names_a_tensor_that_is_not_there() -> None:
    """A tensor that the graph does not give out is named."""
    with pytest.raises(CalibrationError, match="conv7"):
        collect(doubling_graph(), ["twice", "conv7"], [np.zeros(2, np.float32)])

"""Activation ranges: histograms that grow, quantiles, and observation through onnxruntime."""

import numpy as np
import onnx
import pytest
from glialite_calibration.ranges import METHODS, Histogram, activation_ranges, collect, observe
from glialite_runtime.errors import CalibrationError
from onnx import TensorProto, helper


def histogram_of(*batches: np.ndarray) -> Histogram:
    seen = None
    for batch in batches:
        seen = observe(seen, batch.astype(np.float32))
    assert seen is not None
    return seen


def test_min_max_is_exact_over_all_batches() -> None:
    """The smallest and the largest value of any batch are the range."""
    ranges = activation_ranges({"t": histogram_of(np.array([0.5, 2.0]), np.array([-3.25, 1.0]))}, "min-max")
    assert (ranges["t"].low, ranges["t"].high) == (-3.25, 2.0)


def test_growing_keeps_every_count_in_its_place() -> None:
    """A histogram that had to widen equals one that was wide from the start."""
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 0.1, 5000), rng.normal(0, 30, 5000)
    grown, wide = histogram_of(small, large), histogram_of(large, small)
    assert grown.radius == wide.radius >= 64
    assert grown.counts.sum() == 10_000
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(wide.counts)).max() <= 2  # float32 rounding at a bin's edge


@pytest.mark.parametrize("method", [name for name in METHODS if name != "min-max"])
def test_percentile_agrees_with_numpy(method: str) -> None:
    """The quantile of the histogram is numpy's to within a bin."""
    values = np.random.default_rng(1).exponential(1.0, 200_000)
    histogram = histogram_of(values[:1000], values[1000:])
    width = 2 * histogram.radius / len(histogram.counts)
    expected = np.quantile(values.astype(np.float32), METHODS[method])
    assert activation_ranges({"t": histogram}, method)["t"].high == pytest.approx(expected, abs=2 * width)


def test_percentile_cuts_both_tails() -> None:
    """An outlier at either end does not widen the range."""
    values = np.concatenate([np.random.default_rng(2).uniform(-1, 1, 100_000), [-50, 70]])
    span = activation_ranges({"t": histogram_of(values)}, "percentile-99.9")["t"]
    assert -1.1 < span.low < -0.9
    assert 0.9 < span.high < 1.1


@pytest.mark.parametrize(("values", "low", "high"), [([2.0, 5.0], 0, 5), ([-5.0, -2.0], -5, 0), ([0.0, 0.0], 0, 0)])
def test_a_range_always_holds_zero(values: list[float], low: float, high: float) -> None:
    """Padding is 0, so a range reaches 0 even when no value did."""
    for method in METHODS:
        span = activation_ranges({"t": histogram_of(np.array(values))}, method)["t"]
        assert (span.low, span.high) == pytest.approx((low, high), abs=0.01)


@pytest.mark.parametrize("values", [[1.0, np.nan], [np.inf], []])
def test_values_that_cannot_be_counted_are_refused(values: list[float]) -> None:
    """NaN, infinity and an empty tensor are errors, not ranges."""
    with pytest.raises(CalibrationError, match="finite"):
        observe(None, np.array(values, np.float32))


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

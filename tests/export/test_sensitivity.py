"""What one layer costs by itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from glialite_calibration.ranges import Range
from glialite_export.int8 import activation_grids, observed_tensors
from glialite_export.sensitivity import (
    LayerCost,
    centred_crop,
    compare_on,
    layer_costs,
    layer_names,
    over_their_share,
)
from glialite_runtime.decode import DecisionRule

from .conftest import run, toy_case


def network(model: onnx.ModelProto) -> object:
    return lambda image: run(model, np.ascontiguousarray(image.swapaxes(0, 1))).swapaxes(0, 1)


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    """Return a toy case whose edges fit the tiny student."""
    return toy_case(3)[0][:, :28, :32, :36]


def test_every_convolution_has_the_students_name_for_it(native: onnx.ModelProto, lowered: onnx.ModelProto) -> None:
    """Names are those of the student's modules, in the order of the graph."""
    names = layer_names(native, lowered)
    assert list(names) == [node.output[0] for node in lowered.graph.node if node.op_type == "Conv"]
    assert list(names.values())[:2] == ["stem.0", "encoder.0.0.0"]
    assert list(names.values())[-1] == "head"


def costs_of(lowered: onnx.ModelProto, native: onnx.ModelProto, crop: np.ndarray, high: float) -> list[LayerCost]:
    spans = dict.fromkeys(observed_tensors(lowered), Range(-high, high))
    compare = compare_on([crop], network(lowered), network, DecisionRule())  # type: ignore[arg-type]
    return layer_costs(lowered, activation_grids(lowered, spans, None), layer_names(native, lowered), compare)


def test_each_layer_is_measured_once(native: onnx.ModelProto, lowered: onnx.ModelProto, crop: np.ndarray) -> None:
    """The input first, then every layer; each has a cost, and the input has no weights."""
    costs = costs_of(lowered, native, crop, 30.0)
    assert [cost.layer for cost in costs] == ["image", *layer_names(native, lowered).values()]
    assert (costs[0].weights, costs[0].convolution) == (0, "")
    assert all(cost.weights > 0 and cost.activations > 0 for cost in costs[1:])


def test_coarser_levels_cost_more(native: onnx.ModelProto, lowered: onnx.ModelProto, crop: np.ndarray) -> None:
    """Ten times the step is about a hundred times the error; weights do not depend on it."""
    fine, coarse = (costs_of(lowered, native, crop, high) for high in (30.0, 300.0))
    total = [sum(cost.activations for cost in costs) for costs in (fine, coarse)]
    assert 20 < total[1] / total[0] < 500
    assert [cost.weights for cost in fine] == [cost.weights for cost in coarse]


def test_crop_is_centred_on_the_tumour() -> None:
    """Around the tumour's middle, cut at the edges of the image; around the image's middle without one."""
    image = np.broadcast_to(np.arange(40, dtype=np.float32), (4, 10, 10, 40))
    truth = np.zeros((10, 10, 40), np.uint8)
    assert centred_crop(image, truth, 8)[0, 0, 0].tolist() == list(range(16, 24))
    truth[2:4, 2:4, 30:32] = 1
    assert centred_crop(image, truth, 8)[0, 0, 0].tolist() == list(range(26, 34))
    truth[...] = 0
    truth[0, 0, 39] = 1
    assert centred_crop(image, truth, 8).shape == (4, 8, 8, 8)
    assert centred_crop(image, truth, 64).shape == image.shape


def test_layers_over_their_share() -> None:
    """Of a sum of 100, weights that cost more than a quarter; the costliest first, and only so many."""
    costs = [
        LayerCost("image", "", 0.0, 10.0),
        LayerCost("a", "conv", 26.0, 0.0),
        LayerCost("b", "conv.1", 34.0, 0.0),
        LayerCost("c", "conv.2", 25.0, 0.0),
        LayerCost("d", "conv.3", 0.0, 5.0),
    ]
    assert [cost.layer for cost in over_their_share(costs, 0.25, 3)] == ["b", "a"]
    assert [cost.layer for cost in over_their_share(costs, 0.25, 1)] == ["b"]
    assert over_their_share(costs, 0.5, 3) == []


def test_nothing_that_costs_is_over_its_share() -> None:
    """A graph that loses nothing has no layer to repair."""
    assert over_their_share([LayerCost("a", "conv", 0.0, 0.0)], 0.25, 3) == []

"""Choosing the INT8 graph: methods are judged, layers measured, and a sensitive layer gets more bits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from glialite_calibration.ranges import METHODS, collect
from glialite_export.graph import OPSET, constants
from glialite_export.int8 import OutputGrid, observed_tensors, with_outputs
from glialite_export.int8_choice import AUTO, Bench, Choice, Material, choose, methods_for
from glialite_export.judge import Score, judge_against
from glialite_export.lower import lower
from glialite_export.onnx_export import export_network
from glialite_export.parity import Network
from glialite_export.sensitivity import compare_on, layer_names
from glialite_runtime.bundle import Graph
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.engine import OnnxEngine
from torch import nn

RULE = DecisionRule()


def image_of(seed: int, reach: float = 1.0) -> np.ndarray:
    """Return an image (4, 12, 16, 16) whose first sequence is missing; `reach` scales a bright spot."""
    image = np.random.default_rng(seed).uniform(-1, 1, (4, 12, 16, 16)).astype(np.float32)
    image[0] = 0
    image[1:, 4:7, 4:9, 4:9] *= reach
    return image


def network(model: onnx.ModelProto) -> Network:
    graph = Graph(model.graph.name, "cpu", "fp32", "depth-as-batch", 1, OPSET)
    return OnnxEngine(graph, model.SerializeToString(), 1).logits


def trial(outlier: float, reach: float) -> tuple[Material, Bench]:
    """Return a network whose first layer has weights `outlier` times too large on a sequence that is missing.

    Its ranges come from images with spots of brightness 1, and it is judged on images with spots of brightness
    `reach`.
    """
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 1), nn.ReLU(), nn.Conv3d(8, 3, 1))
    with torch.no_grad():
        model[0].weight[:, 0] *= outlier
        model[4].weight *= 20  # logits spread over more than a few steps of the output
    native = export_network(model.eval(), 4, 1)
    lowered = lower(native)
    tensors = observed_tensors(lowered)
    images = [np.ascontiguousarray(image_of(seed).swapaxes(0, 1)) for seed in range(2)]
    histograms = collect(with_outputs(lowered, tensors).SerializeToString(), tensors, images)
    fp32 = network(lowered)
    cases = {str(seed): image_of(seed, reach) for seed in (10, 11)}
    judge = judge_against(fp32, cases, lambda case: (cases[case], decode(fp32(cases[case]), RULE, 1.0)), RULE, 1.0)
    bench = Bench(judge, compare_on(list(cases.values()), fp32, network, RULE), network)
    return Material(lowered, histograms, OutputGrid((0.0, 0.0, 0.0)), layer_names(native, lowered)), bench


@pytest.fixture(scope="module")
def sensitive() -> tuple[Material, Bench, Choice]:
    """Return a network with a layer that 7 bits break, and what is chosen for it."""
    material, bench = trial(outlier=40.0, reach=1.0)
    return material, bench, choose(material, bench, ["min-max"])


def test_a_layer_over_its_share_gets_more_bits(sensitive: tuple[Material, Bench, Choice]) -> None:
    """The layer that was built to be sensitive is found, made wide, and costs a fraction of what it did."""
    material, bench, choice = sensitive
    layer = "0"
    costs = choice.report["sensitivity"]
    assert max(costs, key=lambda name: costs[name]["weights"]) == layer
    assert choice.report["wide_layers"][layer]["kept"]
    before, after = bench.score(material.graph("min-max")), bench.score(choice.graph)
    assert after.squared_error < before.squared_error / 5


def test_a_wide_layer_keeps_seven_bits_a_limb(sensitive: tuple[Material, Bench, Choice]) -> None:
    """No weight of the chosen graph can saturate where there is no VNNI."""
    levels = [array for array in constants(sensitive[2].graph).values() if array.dtype == np.int8]
    assert max(np.abs(array.astype(int)).max() for array in levels) <= 63


class Indifferent:
    """A judge that finds every graph equally good."""

    def score(self, candidate: Network) -> Score:
        return Score({"WT": -0.001, "TC": 0.0, "ET": None}, 0.5)


def test_a_wide_layer_that_does_not_help_is_left_out(sensitive: tuple[Material, Bench, Choice]) -> None:
    """Without a gain on the selection cases nothing becomes wide, and that it was tried is told."""
    material, bench, _ = sensitive
    choice = choose(material, replace(bench, judge=Indifferent()), ["min-max"])  # type: ignore[arg-type]
    assert choice.report["wide_layers"]["0"]["kept"] is False
    assert choice.graph.SerializeToString() == material.graph("min-max").SerializeToString()


def test_no_layer_becomes_wide_without_need() -> None:
    """Where no layer costs more than its share, the graph is the plain one."""
    material, bench = trial(outlier=1.0, reach=1.0)
    choice = choose(material, bench, ["min-max"])
    assert not any(tried["kept"] for tried in choice.report["wide_layers"].values())
    assert choice.graph.SerializeToString() == material.graph("min-max").SerializeToString()


def test_ranges_that_new_cases_leave_are_not_chosen() -> None:
    """Brighter spots than any range case had: what does not saturate wins over what is exact on the range cases."""
    material, bench = trial(outlier=1.0, reach=2.0)
    choice = choose(material, bench, methods_for(AUTO))
    assert set(choice.report["methods"]) == set(METHODS)
    assert choice.report["method"] == "min-max-doubled"
    scores = choice.report["methods"]
    assert scores["min-max-doubled"]["squared_error"] < scores["min-max"]["squared_error"] / 2
    json.dumps(choice.report, allow_nan=False)


def test_a_named_method_is_the_only_one_tried() -> None:
    """Naming one leaves nothing to choose."""
    assert methods_for("mse") == ("mse",)
    assert methods_for(AUTO) == tuple(METHODS)


def test_same_material_gives_the_same_choice(sensitive: tuple[Material, Bench, Choice]) -> None:
    """Graph and report, to the byte."""
    material, bench, choice = sensitive
    again = choose(material, bench, ["min-max"])
    assert again.graph.SerializeToString() == choice.graph.SerializeToString()
    assert again.report == choice.report

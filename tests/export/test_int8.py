"""Static INT8: integer kernels everywhere, one grid along copies, the same bits for every thread count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from glialite_calibration.ranges import Range
from glialite_export.graph import constants
from glialite_export.int8 import OutputGrid, observed_tensors, quantize, with_outputs
from glialite_export.int8_convolution import MAX_WEIGHT
from glialite_export.lower import lower
from glialite_export.onnx_export import export_network
from glialite_runtime.errors import ExportError
from torch import nn

from .conftest import run, toy_case

Quantise = Callable[..., onnx.ModelProto]


def layer_input(seed: int = 5) -> np.ndarray:
    """Return a toy case in the lowered layout (z, 4, y, x)."""
    return np.ascontiguousarray(toy_case(seed)[0][:, :28, :32, :36].swapaxes(0, 1))


def optimised(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """Return the operators that are left after onnxruntime has optimised a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_logits_stay_close_to_fp32(lowered: onnx.ModelProto, quantise: Quantise) -> None:
    """Within the range that the grid spans, INT8 logits differ by a few steps from FP32."""
    image = layer_input()
    expected = np.clip(run(lowered, image), -8, 8)
    got = run(quantise(), image)
    assert np.abs(got - expected).mean() < 0.15
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.995


def test_every_convolution_runs_in_integers(lowered: onnx.ModelProto, quantise: Quantise, tmp_path: Path) -> None:
    """All of them are fused by onnxruntime; between the first quantisation and the last nothing is float."""
    left = optimised(quantise(), tmp_path / "optimised.onnx")
    convolutions = sum(node.op_type == "Conv" for node in lowered.graph.node)
    assert left["QLinearConv"] == convolutions > 4
    assert left["Conv"] == left["Relu"] == 0
    assert left["QuantizeLinear"] == left["DequantizeLinear"] == 1


def test_copies_stand_between_quantise_and_dequantise(quantise: Quantise) -> None:
    """No Pad, Slice, Concat, Reshape or DepthToSpace reads a float tensor."""
    model = quantise()
    writer = {name: node for node in model.graph.node for name in node.output}
    moves = [n for n in model.graph.node if n.op_type in ("Pad", "Slice", "Concat", "Reshape", "DepthToSpace")]
    assert moves
    for node in moves:
        while node.op_type != "QuantizeLinear":
            assert node.op_type in ("Pad", "Slice", "Concat", "Reshape", "DepthToSpace")
            node = writer[node.input[0]]  # noqa: PLW2901 - walking up


def test_joined_tensors_share_one_grid(quantise: Quantise) -> None:
    """Bytes that are put side by side mean the same numbers."""
    model = quantise()
    writer = {name: node for node in model.graph.node for name in node.output}
    values = constants(model)

    def grid(name: str) -> set[tuple[float, int]]:
        node = writer[name]
        if node.op_type == "QuantizeLinear":
            return {(float(values[node.input[1]]), int(values[node.input[2]]))}
        return set().union(*(grid(source) for source in node.input if source in writer))

    for node in model.graph.node:
        if node.op_type == "Concat":
            assert len(grid(node.output[0])) == 1


def test_padding_is_zero_on_the_grid(quantise: Quantise) -> None:
    """Depth is padded with what stands for 0, not with the byte 0, where the two differ."""
    torch.manual_seed(0)
    lowered = lower(export_network(nn.Conv3d(2, 2, 3, padding=1).eval(), 2, 1))
    ranges = dict.fromkeys(observed_tensors(lowered), Range(-4.0, 4.0))
    image = np.random.default_rng(0).uniform(-1, 1, (4, 2, 5, 6)).astype(np.float32)
    assert np.abs(run(quantize(lowered, ranges), image) - run(lowered, image)).max() < 0.12


def test_weights_use_seven_bits(quantise: Quantise) -> None:
    """±63 is the most that cannot saturate in 16 bits: 2 · 255 · 63 < 32 768."""
    levels = [a.astype(int) for name, a in constants(quantise()).items() if name.startswith("weight_levels")]
    assert max(np.abs(array).max() for array in levels) == MAX_WEIGHT
    assert max(2 * 255 * np.abs(array).max() for array in levels) < 2**15


def test_same_arguments_give_the_same_bytes(quantise: Quantise) -> None:
    """Quantisation is deterministic."""
    assert quantise().SerializeToString() == quantise().SerializeToString()


def test_threads_do_not_change_a_bit(quantise: Quantise) -> None:
    """Integer sums have no order."""
    model = quantise()
    np.testing.assert_array_equal(run(model, layer_input(), threads=1), run(model, layer_input(), threads=2))


def test_wide_layers_still_run_in_integers(lowered: onnx.ModelProto, quantise: Quantise, tmp_path: Path) -> None:
    """Two integer convolutions and an integer addition each; nothing goes back to float."""
    wide = [node.output[0] for node in lowered.graph.node if node.op_type == "Conv"]
    model = quantise(wide=wide)
    left = optimised(model, tmp_path / "optimised.onnx")
    assert left["QLinearConv"] == 2 * left["QLinearAdd"] == 2 * len(wide)
    assert left["Conv"] == left["Relu"] == 0
    np.testing.assert_array_equal(run(model, layer_input(), threads=1), run(model, layer_input(), threads=2))


def test_unoptimised_graph_means_the_same(quantise: Quantise) -> None:
    """The same file, run dequantised in FP32, is the fallback: it may differ by rounding alone."""
    model = quantise()
    fused, plain = run(model, layer_input()), run(model, layer_input(), optimise=False)
    assert np.abs(fused - plain).mean() < 0.05


@pytest.fixture(scope="module")
def mixing() -> tuple[onnx.ModelProto, np.ndarray]:
    """Return a lowered graph whose logits spread evenly around 0, and an input for it."""
    torch.manual_seed(4)
    lowered = lower(export_network(nn.ConvTranspose3d(4, 3, 2, 2).eval(), 4, 1))
    return lowered, np.random.default_rng(3).uniform(-1, 1, (8, 4, 24, 24)).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.08473, -0.11])
def test_thresholds_lie_between_two_levels(mixing: tuple[onnx.ModelProto, np.ndarray], threshold: float) -> None:
    """No output value comes nearer to its channel's threshold than half a step."""
    lowered, image = mixing
    thresholds = (threshold, 0.0, 0.03)
    ranges = dict.fromkeys(observed_tensors(lowered), Range(-1.5, 1.5))
    got = run(quantize(lowered, ranges, OutputGrid(thresholds)), image)
    for channel, limit in enumerate(thresholds):
        levels = np.unique(got[:, channel])
        step = np.diff(levels).min()
        assert np.abs(levels - limit).min() == pytest.approx(step / 2, rel=0.01)


def test_thresholds_between_levels_do_not_shrink_a_region(mixing: tuple[onnx.ModelProto, np.ndarray]) -> None:
    """On a level, all that rounds to it falls to the outside; between two, as many voxels enter as leave."""
    lowered, image = mixing
    ranges = dict.fromkeys(observed_tensors(lowered), Range(-1.5, 1.5))
    expected = np.count_nonzero(run(lowered, image) > 0)
    between = np.count_nonzero(run(quantize(lowered, ranges, OutputGrid((0.0, 0.0, 0.0))), image) > 0)
    on_level = np.count_nonzero(run(quantize(lowered, ranges), image) > 0)
    assert on_level < 0.99 * expected
    assert abs(between - expected) < 0.002 * expected


def test_thresholds_beyond_the_grid_are_refused(quantise: Quantise) -> None:
    """A threshold that no output value can pass would label nothing."""
    with pytest.raises(ExportError, match="outside"):
        quantise(OutputGrid((9.0, 0.0, 0.0)))


def test_missing_range_is_refused(lowered: onnx.ModelProto) -> None:
    """A tensor that was not observed is named."""
    with pytest.raises(ExportError, match="'image' has no activation range"):
        quantize(lowered, {})


def test_weight_that_is_not_finite_is_refused() -> None:
    """A NaN weight has no integer."""
    network = nn.Conv3d(2, 2, 1)
    nn.init.constant_(network.weight, float("nan"))
    lowered = lower(export_network(network.eval(), 2, 1))
    with pytest.raises(ExportError, match="finite"):
        quantize(lowered, dict.fromkeys(observed_tensors(lowered), Range(-1.0, 1.0)))


def test_silent_channel_and_large_bias_survive() -> None:
    """A channel of zero weights keeps its bias; a scale of 0 would have lost it."""
    network = nn.Conv3d(2, 2, 1)
    with torch.no_grad():
        network.weight[0], network.weight[1] = 0, 1e-9
        network.bias[0], network.bias[1] = 3.0, -2.0  # type: ignore[index]
    lowered = lower(export_network(network.eval(), 2, 1))
    ranges = dict.fromkeys(observed_tensors(lowered), Range(-4.0, 4.0))
    got = run(quantize(lowered, ranges), np.ones((2, 2, 3, 3), np.float32))
    np.testing.assert_allclose(got[:, 0], 3.0, atol=0.02)
    np.testing.assert_allclose(got[:, 1], -2.0, atol=0.02)


class Joined(nn.Module):
    """A positive and a signed tensor side by side, so that their common grid does not cut at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.last = nn.Conv3d(4, 4, 1), nn.Conv3d(8, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(torch.cat((torch.relu(self.one(image)), image), dim=1))
        return logits


def test_relu_is_kept_where_the_grid_does_not_cut_at_zero() -> None:
    """A Relu may be left to the grid only when the grid starts at 0."""
    torch.manual_seed(1)
    lowered = lower(export_network(Joined().eval(), 4, 1))
    ranges = dict.fromkeys(observed_tensors(lowered), Range(-2.0, 2.0))
    image = np.random.default_rng(2).uniform(-1, 1, (4, 4, 6, 6)).astype(np.float32)
    assert np.abs(run(quantize(lowered, ranges), image) - run(lowered, image)).max() < 0.05


class Mixed(nn.Module):
    """A residual network with operators that have no integer kernel, and signed tensors joined with positive ones."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv3d(4, 8, 3, padding=1), nn.Conv3d(12, 4, 3, padding=1)
        self.last = nn.Conv3d(4, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        joined = torch.cat((torch.relu(self.one(image)), image), dim=1)
        mixed = nn.functional.leaky_relu(self.two(joined), 0.1) + image
        pooled = nn.functional.interpolate(nn.functional.max_pool3d(mixed, 2), scale_factor=2)
        logits: torch.Tensor = self.last(torch.sigmoid(pooled) * 2)
        return logits


def test_operators_without_integers_stay_float() -> None:
    """What cannot move bytes is computed in FP32 between two quantisations, and the network still works."""
    torch.manual_seed(1)
    lowered = lower(export_network(Mixed().eval(), 4, 2), 2)
    image = np.random.default_rng(2).normal(size=(6, 4, 8, 8)).astype(np.float32)
    tensors = observed_tensors(lowered)
    outputs = with_outputs(lowered, tensors)
    session = onnxruntime.InferenceSession(outputs.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"image": image}), strict=True)) | {"image": image}
    ranges = {name: Range(min(0.0, float(found[name].min())), max(0.0, float(found[name].max()))) for name in tensors}
    expected, got = run(lowered, image), run(quantize(lowered, ranges), image)
    assert np.abs(got - expected).mean() < 0.03 * (expected.max() - expected.min())

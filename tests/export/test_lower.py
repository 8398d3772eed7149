"""The exact lowering, operator by operator, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from glialite_export.depth import DepthWindow
from glialite_export.graph import GraphWriter, edges_of
from glialite_export.lower import lower
from glialite_export.onnx_export import export_network
from glialite_runtime.errors import UnsupportedOpError
from torch import nn

from .conftest import run, run_lowered

Array = np.ndarray


def volume(*edges: int, channels: int = 4, seed: int = 0) -> Array:
    """Return a random native input (1, C, D, H, W)."""
    return np.random.default_rng(seed).normal(size=(1, channels, *edges)).astype(np.float32)


def relative(model: onnx.ModelProto, image: Array, divisor: int = 1) -> float:
    """Return the largest difference between a graph and its lowering, relative to the largest value."""
    expected, got = run(model, image), run_lowered(lower(model, divisor), image)
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def test_weights_lie_as_documented() -> None:
    """W2[o, kd · I + i, kh, kw] = W[o, i, kd, kh, kw]."""
    model = export_network(nn.Conv3d(4, 5, (2, 3, 1)).eval(), 4, 1)
    weight = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.dims[:] == [5, 4, 2, 3, 1]))
    lowered = lower(model)
    weight2 = onnx.numpy_helper.to_array(next(t for t in lowered.graph.initializer if list(t.dims) == [5, 8, 3, 1]))
    for kd in range(2):
        np.testing.assert_array_equal(weight2[:, 4 * kd : 4 * kd + 4], weight[:, :, kd])


def test_student_lowers_exactly(native: onnx.ModelProto, lowered: onnx.ModelProto) -> None:
    """The whole student gives the same logits, on a shape of its own."""
    image = volume(12, 16, 20)
    expected, got = run(native, image), run_lowered(lowered, image)
    assert np.abs(got - expected).max() / np.abs(expected).max() < 1e-4


def test_lowered_edges_stay_symbolic(lowered: onnx.ModelProto) -> None:
    """Depth is the batch axis; no edge is fixed, and no 3-D operator is left."""
    assert edges_of(lowered.graph.input[0]) == ("depth", 4, "height", "width")
    assert edges_of(lowered.graph.output[0]) == ("depth", 3, "height", "width")
    assert all(len(tensor.dims) <= 4 for tensor in lowered.graph.initializer)


def test_stem_pairs_planes_without_a_copy(native: onnx.ModelProto) -> None:
    """With even edges the 2×2×2 stem reads a reshaped input; with unknown ones it copies slices."""
    free, copied = lower(native, 4), lower(native, 1)
    assert free.graph.node[0].op_type == "Reshape"
    assert copied.graph.node[0].op_type == "Slice"
    image = volume(8, 8, 8)
    np.testing.assert_allclose(run_lowered(free, image), run_lowered(copied, image), rtol=1e-5, atol=1e-5)


def test_relu_of_an_upsampling_stands_next_to_its_convolution(lowered: onnx.ModelProto) -> None:
    """Runtimes fuse a convolution with the activation right behind it."""
    before = {name: node.op_type for node in lowered.graph.node for name in node.output}
    assert {before[node.input[0]] for node in lowered.graph.node if node.op_type == "Relu"} == {"Conv"}


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv 1": lambda: nn.Conv3d(4, 6, 1),
    "conv 3": lambda: nn.Conv3d(4, 6, 3, padding=1),
    "conv 3 unpadded": lambda: nn.Conv3d(4, 6, 3, bias=False),
    "conv 3 stride 2": lambda: nn.Conv3d(4, 6, 3, 2, padding=1),
    "conv 2 stride 2": lambda: nn.Conv3d(4, 6, 2, 2),
    "conv 1 stride 2": lambda: nn.Conv3d(4, 6, 1, 2),
    "conv anisotropic": lambda: nn.Conv3d(4, 6, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "conv depth only": lambda: nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)),
    "conv dilated": lambda: nn.Conv3d(4, 6, 3, padding=2, dilation=2),
    "transposed 2": lambda: nn.ConvTranspose3d(4, 6, 2, 2),
    "transposed in plane": lambda: nn.ConvTranspose3d(4, 6, (1, 2, 2), (1, 2, 2)),
    "transposed in depth": lambda: nn.ConvTranspose3d(4, 6, (2, 1, 1), (2, 1, 1), bias=False),
    "transposed with activation": lambda: nn.Sequential(nn.ConvTranspose3d(4, 6, 2, 2), nn.LeakyReLU(0.1)),
    "max pool 2": lambda: nn.MaxPool3d(2),
    "max pool 3": lambda: nn.MaxPool3d(3, 2, 1),
    "max pool 3 of negative values": lambda: nn.Sequential(nn.Softplus(), Negate(), nn.MaxPool3d(3, 1, 1)),
    "average pool 2": lambda: nn.AvgPool3d(2),
    "average pool 3": lambda: nn.AvgPool3d(3, 2, 1),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "trilinear": lambda: nn.Upsample(scale_factor=2, mode="trilinear"),
    "nearest in plane": lambda: nn.Upsample(scale_factor=(1, 2, 2)),
    "softmax": lambda: nn.Softmax(1),
    "prelu": lambda: nn.PReLU(4),
    "normalisation first": lambda: nn.Sequential(Warm(4), nn.Conv3d(4, 3, 3, padding=1)),
    "sigmoid and clip": lambda: nn.Sequential(nn.Conv3d(4, 4, 1), nn.Sigmoid(), nn.Hardtanh(0.2, 0.7)),
    "identity": nn.Identity,
}


class Negate(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -image


class Warm(nn.BatchNorm3d):
    """A BatchNorm whose statistics are not 0 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        with torch.no_grad():
            self.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
            self.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            self.weight.uniform_(0.5, 2)
            self.bias.uniform_(-1, 1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("edges", [(6, 8, 4), (7, 5, 9)])
def test_operator_is_exact(name: str, edges: tuple[int, int, int]) -> None:
    """Each operator gives the native graph's values on even and on odd edges."""
    torch.manual_seed(0)
    assert relative(export_network(LAYERS[name]().eval(), 4, 1), volume(*edges)) < 1e-5


class Elementwise(nn.Module):
    """Volumes with volumes, with numbers and with one constant a channel."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        gain = torch.arange(1.0, 5.0).reshape(1, 4, 1, 1, 1)
        return torch.cat((image * gain + 0.5, 2 / (1 + image * image), image.clamp(min=-0.3)), dim=1)


def test_elementwise_operands() -> None:
    """Constants of one number and of one a channel keep their meaning in the new axes."""
    assert relative(export_network(Elementwise().eval(), 4, 1), volume(5, 6, 7)) < 1e-6


class Wrapped(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.function(image)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "groups": (lambda: nn.Conv3d(4, 4, 3, groups=2), r"\(Conv\).*2 groups"),
    "instance normalisation": (lambda: nn.InstanceNorm3d(4), r"\(InstanceNormalization\)"),
    "global pooling": (lambda: nn.AdaptiveAvgPool3d(1), r"\(GlobalAveragePool\)"),
    "overlapping transposed": (lambda: nn.ConvTranspose3d(4, 4, 3, 2, 1), r"\(ConvTranspose\).*kernel = stride"),
    "transposed of uneven kernel": (lambda: nn.ConvTranspose3d(4, 4, (1, 1, 2), (1, 1, 2)), r"\(ConvTranspose\)"),
    "padding left out of the mean": (
        lambda: nn.AvgPool3d(3, 2, 1, count_include_pad=False),
        r"\((AveragePool|Pad)\)",
    ),
    "corner-aligned": (lambda: nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True), r"\(Resize\)"),
    "threefold": (lambda: nn.Upsample(scale_factor=3), r"\(Resize\).*factors of 1 or 2"),
    "joined along depth": (lambda: Wrapped(lambda x: torch.cat((x, x), dim=2)), r"\(Concat\).*along axis 2"),
    "softmax over width": (lambda: nn.Softmax(4), r"\(Softmax\)"),
    "constant of the shape of an image": (lambda: Wrapped(lambda x: x + torch.ones(8).cumsum(0)), r"\(Add\).*\(8,\)"),
    "sum over depth": (lambda: Wrapped(lambda x: x.sum(2, keepdim=True)), r"\(ReduceSum\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_lowered_is_named(name: str) -> None:
    """The error names node, operator and reason."""
    make, pattern = REFUSED[name]
    with pytest.raises(UnsupportedOpError, match=rf"node '.+' {pattern}"):
        lower(export_network(make().eval(), 4, 1))


def hand_made(op: str, channels: int = 4, **settings: object) -> onnx.ModelProto:
    writer = GraphWriter(["image", "logits"])
    weight = writer.constant(np.ones((2, channels, 3, 3, 3), np.float32), "weight")
    inputs = ["image", weight] if op == "Conv" else ["image"]
    writer.rename_output(writer.node(op, inputs, "layer", **settings), "logits")
    return writer.model("net", {"image": (1, channels, "d", "h", "w")}, {"logits": (1, 2, "d", "h", "w")})


@pytest.mark.parametrize(
    ("op", "settings", "reason"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER"}, "SAME_UPPER"),
        ("MaxPool", {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2], "ceil_mode": 1}, "ceil_mode"),
        ("MaxPool", {"kernel_shape": [3, 3, 3], "dilations": [2, 2, 2]}, "dilated"),
    ],
)
def test_settings_that_would_not_be_exact_are_refused(op: str, settings: dict[str, object], reason: str) -> None:
    """Settings whose meaning depends on the size of the input are not guessed."""
    with pytest.raises(UnsupportedOpError, match=rf"node 'layer' \({op}\).*{reason}"):
        lower(hand_made(op, **settings))


def test_input_that_is_no_volume_is_refused() -> None:
    """Batch 1 and five axes are needed."""
    writer = GraphWriter(["image", "logits"])
    writer.rename_output(writer.node("Relu", ["image"], "relu"), "logits")
    model = writer.model("net", {"image": ("batch", 4, "d", "h", "w")}, {"logits": ("batch", 4, "d", "h", "w")})
    with pytest.raises(UnsupportedOpError, match=r"\(batch, 4, d, h, w\)"):
        lower(model)


def test_lowering_leaves_its_argument_and_is_deterministic(native: onnx.ModelProto, lowered: onnx.ModelProto) -> None:
    """The same graph gives the same bytes, and the argument stays as it was."""
    before = native.SerializeToString()
    assert lower(native, 4).SerializeToString() == lowered.SerializeToString()
    assert native.SerializeToString() == before


@pytest.mark.parametrize("even", [1, 2, 4, 6])
def test_depth_multiples_are_true(even: int) -> None:
    """What a window says about the new depth holds for every depth that it was told about."""
    for kernel in (1, 2, 3):
        for stride in (1, 2):
            for pad in (0, 1):
                window = DepthWindow(kernel, stride, 1, pad, pad)
                claim = window.depth_multiple(even)
                for depth in range(even, 40, even):
                    count = (depth + 2 * pad - kernel) // stride + 1
                    assert count <= 0 or count % claim == 0
    assert DepthWindow(2, 2).depth_multiple(4) == 2
    assert DepthWindow(3, 1, 1, 1, 1).depth_multiple(4) == 4
    assert DepthWindow(3, 2, 1, 1, 1).depth_multiple(4) == 2


def test_copies_are_moves_only(lowered: onnx.ModelProto) -> None:
    """The student's lowering holds nothing that INT8 would have to leave."""
    kinds = Counter(node.op_type for node in lowered.graph.node)
    assert set(kinds) == {"Conv", "Relu", "Pad", "Slice", "Concat", "Reshape", "DepthToSpace"}

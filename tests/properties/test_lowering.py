"""Property: whatever small network is built from the known layers, its lowering computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import onnxruntime
import torch
from glialite_export.lower import lower
from glialite_export.onnx_export import export_network
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

CHANNELS: Final = 4

Layer = Callable[[], nn.Module]


class Branches(nn.Module):
    """Run two layers of one shape side by side and join them along channels, or add them."""

    def __init__(self, one: nn.Module, other: nn.Module, join: bool) -> None:
        super().__init__()
        self.one, self.other, self.join = one, other, join
        self.back = nn.Conv3d(2 * CHANNELS, CHANNELS, 1) if join else nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        one, other = self.one(image), self.other(image)
        return self.back(torch.cat((one, other), dim=1)) if self.join else one + other


def _normalisation() -> nn.Module:
    layer = nn.BatchNorm3d(CHANNELS)
    with torch.no_grad():
        layer.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        layer.weight.uniform_(0.5, 2)
        layer.bias.uniform_(-1, 1)
    return layer


same_shape = st.one_of(
    st.tuples(*[st.sampled_from([1, 3])] * 3).map(
        lambda k: lambda: nn.Conv3d(CHANNELS, CHANNELS, k, padding=tuple(n // 2 for n in k))
    ),
    st.sampled_from([nn.ReLU, nn.Sigmoid, lambda: nn.LeakyReLU(0.1), lambda: nn.PReLU(CHANNELS), _normalisation]),
    st.just(lambda: nn.MaxPool3d(3, 1, 1)),
)
halving = st.sampled_from(
    [
        lambda: nn.Conv3d(CHANNELS, CHANNELS, 3, 2, 1),
        lambda: nn.Conv3d(CHANNELS, CHANNELS, 2, 2, bias=False),
        lambda: nn.MaxPool3d(2),
        lambda: nn.MaxPool3d(3, 2, 1),
        lambda: nn.AvgPool3d(2),
    ]
)
doubling = st.sampled_from(
    [
        lambda: nn.ConvTranspose3d(CHANNELS, CHANNELS, 2, 2),
        lambda: nn.Sequential(nn.ConvTranspose3d(CHANNELS, CHANNELS, 2, 2, bias=False), _normalisation(), nn.ReLU()),
        lambda: nn.Upsample(scale_factor=2),
        lambda: nn.Upsample(scale_factor=2, mode="trilinear"),
    ]
)
branches = st.tuples(same_shape, same_shape, st.booleans()).map(
    lambda parts: lambda: Branches(parts[0](), parts[1](), parts[2])
)
networks = st.lists(st.one_of(same_shape, branches, halving, doubling), min_size=2, max_size=5)


def _reduction(network: nn.Module) -> int:
    """Return how far a network shrinks an edge at its narrowest, so that the input is wide enough."""
    level, lowest = 0, 0
    for layer in network.children():
        name, stride = type(layer).__name__, getattr(layer, "stride", 1)
        halves = name != "ConvTranspose3d" and (stride[0] if isinstance(stride, tuple) else stride) == 2
        doubles = name in ("ConvTranspose3d", "Upsample", "Sequential")
        level += int(doubles) - int(halves)
        lowest = min(lowest, level)
    return int(2**-lowest)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(layers=networks, edges=st.tuples(*[st.integers(3, 7)] * 3), even=st.booleans(), seed=st.integers(0, 99))
def test_lowering_is_exact(layers: list[Layer], edges: tuple[int, int, int], even: bool, seed: int) -> None:
    """The lowered graph differs from the native one by at most 1e-4 of the largest logit, on odd and even edges."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(*(layer() for layer in layers)).eval()
    reduction = _reduction(network)
    assume(reduction <= 4)
    divisor = 2 * reduction if even else 1
    shape = [n * divisor if even else n * reduction for n in edges]
    native = export_network(network, CHANNELS, 8)
    image = np.random.default_rng(seed).normal(size=(1, CHANNELS, *shape)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    expected, got = (
        onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"image": array})[0]
        for model, array in (
            (native, image),
            (lower(native, divisor), np.ascontiguousarray(image[0].swapaxes(0, 1))),
        )
    )
    got = got.swapaxes(0, 1)[None]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()

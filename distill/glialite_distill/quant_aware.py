"""A student that rounds while it trains as its INT8 graph will, so that its weights learn to do without what is lost.

The arithmetic is that of the static INT8 export: BatchNorm folded into 7-bit weights a channel, 256 levels a tensor
from its range, one range for tensors that are concatenated. Left out is what hardly changes anything: rounding biases
to 32 bits, and the grid of the logits, whose levels never carry a voxel across a threshold.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import nn
from torch.nn import functional as F

from glialite_distill.student import Student

__all__ = ["MAX_WEIGHT", "FakeQuantStudent", "round_activation", "round_weight"]

MAX_WEIGHT: Final = 63
"""Largest magnitude of a rounded weight: 7 bits with sign, as the export's."""

_MAX_ACTIVATION: Final = 255
_NEWEST_SHARE: Final = 0.05
"""What a batch counts in a running range, which so spans about twenty batches."""

_Convolution = nn.Conv3d | nn.ConvTranspose3d


def round_weight(weight: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
    """Round a convolution's weight to -63 … 63 steps of its own a channel; gradients pass straight through.

    Parameters
    ----------
    weight : float32 tensor (out, in, kz, ky, kx), or (in, out, kz, ky, kx) of a transposed convolution
        A channel of zeros stays zero.
    transposed : bool
        The export writes a transposed convolution as a pointwise one to (out, kz, ky, kx) channels, each of which has
        steps of its own.

    Notes
    -----
    Source: Bengio, Léonard, Courville, Estimating or Propagating Gradients Through Stochastic Neurons, 2013
    (arXiv:1308.3432), the straight-through estimator.
    """
    table = weight.flatten(1)
    largest = table.detach().abs().amax(0 if transposed else 1)
    steps = (largest / MAX_WEIGHT).clamp(min=torch.finfo(weight.dtype).tiny)
    middle = torch.zeros_like(steps, dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(table, steps, middle, int(transposed), -MAX_WEIGHT, MAX_WEIGHT)
    return rounded.view_as(weight)


def round_activation(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Round to the 256 levels of the range `low` ≤ 0 ≤ `high`, one of which is 0; values outside go to its ends.

    Gradients pass straight through inside the range and are 0 outside. An empty range rounds to whole numbers.
    """
    width = high - low
    step = torch.where(width > 0, width / _MAX_ACTIVATION, 1.0)
    zero = (-low / step).round().clamp(0, _MAX_ACTIVATION).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, _MAX_ACTIVATION)


class FakeQuantStudent(nn.Module):
    """A student's own weights in rounded arithmetic; input and output as those of `Student`, float32.

    BatchNorm's running statistics are used and never changed: they are folded into the weights before rounding, so
    what is rounded is what the export will round.

    Attributes
    ----------
    student : Student
        Owns the parameters; training this module trains it.
    ranges : dict of str to Tensor
        Smallest and largest value, float32 (2,), of each tensor that the INT8 graph writes, in the order in which it
        does, the logits left out. Running means over the batches seen in training mode; fixed in evaluation mode.

    Notes
    -----
    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    CVPR 2018 (arXiv:1712.05877), section 3; BatchNorm is frozen, not folded with the statistics of the batch.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        self.ranges: dict[str, torch.Tensor] = {}
        levels = range(len(student.up) - 1, -1, -1)
        skips = {
            f"up.{place}": f"encoder.{level}.{student.spec.blocks[level] - 1}" for place, level in enumerate(levels)
        }
        self._joined = skips | {skip: up for up, skip in skips.items()}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits, see the class."""
        student, skips = self.student, []
        features = self._block("stem", student.stem, self._on_grid("image", image))
        for level, stage in enumerate(student.encoder):
            features = self._stage(f"encoder.{level}", stage, features)
            skips.append(features)
        skips.pop()
        for place, (up, stage) in enumerate(zip(student.up, student.decoder, strict=True)):
            features = self._block(f"up.{place}", up, features)
            features = self._stage(f"decoder.{place}", stage, torch.cat((features, skips.pop()), dim=1))
        return _convolve(student.head, student.head.weight, student.head.bias, features)

    def _stage(self, name: str, blocks: nn.Module, features: torch.Tensor) -> torch.Tensor:
        for place, block in enumerate(blocks.children()):
            features = self._block(f"{name}.{place}", block, features)
        return features

    def _block(self, name: str, block: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """Run convolution, BatchNorm and ReLU as one rounded convolution whose grid cuts off at 0."""
        convolution, norm, _ = cast("tuple[_Convolution, nn.BatchNorm3d, nn.ReLU]", tuple(block.children()))
        mean, variance = cast("tuple[torch.Tensor, torch.Tensor]", (norm.running_mean, norm.running_var))
        factor = norm.weight / torch.sqrt(variance + norm.eps)
        places = (1, -1, 1, 1, 1) if isinstance(convolution, nn.ConvTranspose3d) else (-1, 1, 1, 1, 1)
        weight = convolution.weight * factor.view(places)
        return self._on_grid(name, F.relu(_convolve(convolution, weight, norm.bias - mean * factor, features)))

    def _on_grid(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Round a tensor over its running range, or over both ranges where another one is concatenated to it."""
        if self.training:
            seen = torch.stack(values.detach().aminmax())
            self.ranges[name] = torch.lerp(self.ranges.get(name, seen), seen, _NEWEST_SHARE)
        spans = [self.ranges[key] for key in (name, self._joined.get(name)) if key in self.ranges]
        low, high = torch.stack(spans).unbind(1)
        return round_activation(values, low.amin().clamp(max=0), high.amax().clamp(min=0))


def _convolve(
    layer: _Convolution, weight: torch.Tensor, bias: torch.Tensor | None, features: torch.Tensor
) -> torch.Tensor:
    """Run a layer's convolution with `weight`, rounded, and `bias` in place of its own."""
    if isinstance(layer, nn.ConvTranspose3d):
        return F.conv_transpose3d(features, round_weight(weight, transposed=True), bias, layer.stride)
    return F.conv3d(features, round_weight(weight), bias, layer.stride, layer.padding)

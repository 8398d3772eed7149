"""The two ways to write a convolution in integers: 7-bit weights, or 13-bit weights where a layer needs them.

Kernels for processors without VNNI add two products u8 × s8 in 16 bits and saturate; 2 · 255 · 63 = 32 130 fits, so
weights of ±63 give the same result, bit for bit, on every processor. A *wide* layer keeps that bound: its weights are
`64 · high + low` with both limbs inside ±63, and each limb is a convolution of its own. Putting the layer back to
FP32 instead would cost that sameness: sums of floats depend on the processor's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_export.graph import GraphWriter
from glialite_export.grids import Grid, span_of

__all__ = ["MAX_WEIGHT", "MAX_WIDE_WEIGHT", "Convolution", "rounded", "write_narrow", "write_wide"]

MAX_WEIGHT: Final = 63
"""Largest magnitude of a quantised weight: 7 bits with sign."""

MAX_WIDE_WEIGHT: Final = 64 * MAX_WEIGHT
"""Largest magnitude of a weight in two limbs: 13 bits with sign."""

_MAX_BIAS: Final = 2.0**30
_MOST_HALVINGS: Final = 12


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution that is to be written in integers.

    Attributes
    ----------
    weight : float32 array (out, in, kh, kw)
        Finite.
    bias : float32 array (out,) or None
        Finite.
    source : Grid
        Where the values of its input lie.
    settings : mapping
        Attributes of the node.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    source: Grid
    settings: Mapping[str, Any]


def rounded(convolution: Convolution, largest: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the weights as whole numbers of at most `largest`, and the scale (out,) of each output channel.

    A scale is wide enough for the bias to fit into 32 bits, and never 0.
    """
    weight, bias = convolution.weight, convolution.bias
    scales = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float64) / largest
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (float(convolution.source.scale) * _MAX_BIAS))
    scales = np.where(scales > np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)
    return np.rint(weight / scales.reshape(-1, 1, 1, 1)).astype(np.int32), scales


def write_narrow(out: GraphWriter, image: str, convolution: Convolution) -> str:
    """Write 7-bit weights over a dequantised `image`; runtimes fuse the two into one integer kernel."""
    return _write(out, image, convolution, rounded(convolution, MAX_WEIGHT), convolution.bias)


def write_wide(out: GraphWriter, image: str, convolution: Convolution, target: Grid) -> str:
    """Write 13-bit weights: a convolution for each limb, both on bytes, and their sum, which fuses into integers too.

    What the low limb gives is small, so its 256 levels are fine ones. The high limb's grid has the steps of `target`,
    moved down by as much as the low limb may add; the low limb's steps are the same, halved some times. So whole
    numbers times powers of two are added, exactly, and processors with and without fused multiply-add agree.
    """
    levels, scales = rounded(convolution, MAX_WIDE_WEIGHT)
    high = np.rint(levels / 64).astype(np.int32)
    low = levels - 64 * high
    # Remainders of rounding have random signs, so their products add up as noise does: by the root of squares.
    source, step = span_of(convolution.source), float(target.scale)
    noise = scales * np.sqrt(np.square(low.reshape(len(low), -1), dtype=np.float64).sum(axis=1))
    reach = 2 * float(noise.max()) * max(-source.low, source.high) / step
    halvings = int(np.clip(np.floor(np.log2(127 / max(reach, 1e-9))), 0, _MOST_HALVINGS))
    coarse = _write(out, image, convolution, (high, (64 * scales).astype(np.float32)), convolution.bias)
    fine = _write(out, image, convolution, (low, scales), None)
    parts = [
        _on_grid(out, coarse, Grid(target.scale, np.uint8(min(255, int(target.zero_point) + int(np.ceil(reach)))))),
        _on_grid(out, fine, Grid(np.float32(step * 0.5**halvings), np.uint8(128))),
    ]
    return out.node("Add", parts, "add")


def _on_grid(out: GraphWriter, tensor: str, grid: Grid) -> str:
    """Write `tensor` as uint8 on a grid and back."""
    settings = [out.constant(grid.scale, "scale"), out.constant(grid.zero_point, "zero_point")]
    return out.node("DequantizeLinear", [out.node("QuantizeLinear", [tensor, *settings], "q"), *settings], "dq")


def _write(
    out: GraphWriter,
    image: str,
    convolution: Convolution,
    weights: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]],
    bias: npt.NDArray[np.float32] | None,
) -> str:
    levels, scales = weights
    inputs = [image, _constant_pair(out, levels.astype(np.int8), scales, "weight")]
    if bias is not None:
        bias_scales = (scales * convolution.source.scale).astype(np.float32)
        inputs.append(_constant_pair(out, np.rint(bias / bias_scales).astype(np.int32), bias_scales, "bias"))
    return out.node("Conv", inputs, "conv", **convolution.settings)


def _constant_pair(out: GraphWriter, levels: npt.NDArray[Any], scales: npt.NDArray[np.float32], hint: str) -> str:
    inputs = [
        out.constant(levels, f"{hint}_levels"),
        out.constant(scales, f"{hint}_scales"),
        out.constant(np.zeros(len(scales), levels.dtype), f"{hint}_zero_points"),
    ]
    return out.node("DequantizeLinear", inputs, f"{hint}_dq", axis=0)

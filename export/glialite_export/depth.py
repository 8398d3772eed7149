"""Work along the depth axis of a lowered volume: windows, stacking and interleaving, without any arithmetic.

A volume (1, C, D, H, W) of the native graph is (D, C, H, W) in the lowered one: depth lies on the batch axis, where
2-D operators leave it alone. What a 3-D operator does along depth is written with `Pad`, `Slice`, `Concat` and
`Reshape`, which only move values and therefore work on any element type, 8-bit integers included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from glialite_export.graph import GraphWriter

__all__ = ["DepthWindow", "Volume", "interleave", "stack_window", "window_planes"]

_TO_THE_END: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Volume:
    """A tensor of the lowered graph.

    Attributes
    ----------
    name : str
        Name of the (D, C, H, W) tensor.
    channels : int
        C.
    even : int
        D is known to be a multiple of this.
    """

    name: str
    channels: int
    even: int


@dataclass(frozen=True, slots=True)
class DepthWindow:
    """What a sliding window does along depth, in planes.

    Attributes
    ----------
    kernel, stride, dilation : int
        As in the 3-D operator.
    before, after : int
        Planes of padding at the two ends.
    fill : {"constant", "edge"}
        Padding with zeros, or with copies of the outermost plane.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    fill: Literal["constant", "edge"] = "constant"

    def depth_multiple(self, even: int) -> int:
        """Return what the number of windows is a multiple of, when depth is a multiple of `even`; 1 if unknown."""
        excess = self.before + self.after - self.dilation * (self.kernel - 1) - 1
        # windows = (depth + excess) // stride + 1, which is depth / stride exactly when these two hold
        return even // self.stride if even % self.stride == 0 and -self.stride <= excess < 0 else 1


def window_planes(writer: GraphWriter, volume: Volume, window: DepthWindow) -> list[str]:
    """Return, for each tap of the window, the tensor (windows, C, H, W) of the planes that this tap sees."""
    source = volume.name
    if window.before or window.after:
        pads = np.array([window.before, 0, 0, 0, window.after, 0, 0, 0], np.int64)
        source = writer.node("Pad", [source, writer.constant(pads, "pads")], "depth_pad", mode=window.fill)
    if window.kernel == 1 and window.stride == 1:
        return [source]
    planes = []
    for tap in range(window.kernel):
        beyond = (window.kernel - 1 - tap) * window.dilation
        limits = (tap * window.dilation, -beyond if beyond else _TO_THE_END, 0, window.stride)
        inputs = [source, *(writer.constant(np.array([limit], np.int64), "slice") for limit in limits)]
        planes.append(writer.node("Slice", inputs, "depth_slice"))
    return planes


def stack_window(writer: GraphWriter, volume: Volume, window: DepthWindow) -> str:
    """Return the taps of a window side by side as channels: (windows, kernel · C, H, W), the first tap first."""
    disjoint = window.kernel == window.stride > 1 and window.dilation == 1 and not window.before and not window.after
    if disjoint and volume.even % window.stride == 0:
        # The planes of a window lie one after the other in memory already: a reshape, no copy.
        return _fold(writer, volume.name, window.kernel * volume.channels)
    planes = window_planes(writer, volume, window)
    return planes[0] if len(planes) == 1 else writer.node("Concat", planes, "depth_stack", axis=1)


def interleave(writer: GraphWriter, stacked: str, channels: int) -> str:
    """Return (D, k · channels, H, W) as (k · D, channels, H, W): a reshape, no copy; the inverse of stacking."""
    return _fold(writer, stacked, channels)


def _fold(writer: GraphWriter, name: str, channels: int) -> str:
    shape: npt.NDArray[Any] = np.array([-1, channels, 0, 0], np.int64)  # 0: as in the input, so edges stay symbolic
    return writer.node("Reshape", [name, writer.constant(shape, "shape")], "depth_fold")

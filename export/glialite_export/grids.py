"""On which 256 values each activation of a quantised graph lies; tensors that bytes move between share one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from glialite_calibration.ranges import Range
from glialite_runtime.errors import ExportError

from glialite_export.graph import attributes, constants

__all__ = ["Grid", "Grids", "grid_of", "moves", "span_of"]

_MAX_ACTIVATION: Final = 255
_MOVES: Final = frozenset(["Concat", "DepthToSpace", "Identity", "MaxPool", "Pad", "Reshape", "Slice"])


@dataclass(frozen=True, slots=True)
class Grid:
    """The 256 values that a tensor can take: (0 … 255 - zero_point) · scale."""

    scale: np.float32
    zero_point: np.uint8


def grid_of(span: Range) -> Grid:
    """Return the grid over a range; 0 is on it."""
    width = span.high - span.low
    if width <= 0:
        return Grid(np.float32(1), np.uint8(0))
    scale = np.float32(width / _MAX_ACTIVATION)
    return Grid(scale, np.uint8(np.clip(np.rint(-span.low / scale), 0, _MAX_ACTIVATION)))


def span_of(grid: Grid) -> Range:
    """Return the smallest and the largest value on a grid."""
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    return Range(-zero_point * scale, (_MAX_ACTIVATION - zero_point) * scale)


def moves(node: onnx.NodeProto) -> bool:
    """Return whether a node only moves values, so that it works on bytes as well as on floats."""
    return node.op_type in _MOVES or (node.op_type == "Resize" and attributes(node).get("mode") == "nearest")


class Grids:
    """The grid of each tensor of a lowered graph.

    Parameters
    ----------
    model : onnx.ModelProto
        The lowered graph.
    ranges : mapping of str to Range
        Range of each observed tensor; a group of tensors gets the union of its members' ranges.
    """

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
        self._parent: dict[str, str] = {}
        fixed = constants(model)
        for node in model.graph.node:
            if moves(node):
                for name in node.input:
                    if name and name not in fixed:
                        self._parent[self._root(name)] = self._root(node.output[0])
        spans: dict[str, Range] = {}
        for name, span in ranges.items():
            before = spans.get(self._root(name), Range(0.0, 0.0))
            spans[self._root(name)] = Range(min(before.low, span.low), max(before.high, span.high))
        self._spans = spans

    def _root(self, name: str) -> str:
        while name in self._parent and self._parent[name] != name:
            name = self._parent[name]
        return name

    def limit(self, name: str, largest: float) -> None:
        """Cut the range of a tensor's group to ± `largest`."""
        span = self._span(name)
        self._spans[self._root(name)] = Range(max(span.low, -largest), min(span.high, largest))

    def grid(self, name: str) -> Grid:
        """Return the grid of a tensor; `ExportError` when nothing in its group was observed."""
        return grid_of(self._span(name))

    def _span(self, name: str) -> Range:
        if self._root(name) not in self._spans:
            raise ExportError(f"tensor {name!r} has no activation range; observe every tensor of observed_tensors()")
        return self._spans[self._root(name)]

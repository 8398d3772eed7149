"""Static INT8 of a lowered graph: 8-bit activations, 7-bit weights a channel, every copy along depth on bytes.

The result is a standard graph of `QuantizeLinear` / `DequantizeLinear` pairs: runtimes fuse each
dequantise-convolve-quantise into one integer kernel, and one that does not still computes the same in FP32. What only
moves values (`Pad`, `Slice`, `Concat`, `Reshape`, `DepthToSpace`, `MaxPool`) stands between the pairs and works on
uint8, with one scale for all tensors that it joins.

Weights use 7 of their 8 bits (±63). Kernels for processors without VNNI add two products u8 × s8 in 16 bits and
saturate; 2 · 255 · 63 = 32 130 fits, so the result is the same bits on every processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from glialite_calibration.ranges import Range
from glialite_runtime.errors import ExportError

from glialite_export.graph import GraphWriter, attributes, constants, consumers, edges_of

__all__ = ["MAX_WEIGHT", "OutputGrid", "observed_tensors", "quantize", "with_outputs"]

MAX_WEIGHT: Final = 63
"""Largest magnitude of a quantised weight: 7 bits with sign."""

_MAX_ACTIVATION: Final = 255
_MAX_BIAS: Final = 2.0**30
_MOVES: Final = frozenset(["Concat", "DepthToSpace", "Identity", "MaxPool", "Pad", "Reshape", "Slice"])


@dataclass(frozen=True, slots=True)
class _Grid:
    """The 256 values that a tensor can take: (0 … 255 - zero_point) · scale."""

    scale: np.float32
    zero_point: np.uint8


@dataclass(frozen=True, slots=True)
class OutputGrid:
    """Where the 256 levels of the output lie.

    Attributes
    ----------
    thresholds : tuple of float
        Logit of each channel's decision threshold. It is put halfway between two levels, so that rounding to the grid
        never carries a voxel across it; on a level, all that rounds to it would fall to one side.
    limit : float
        Logits saturate at ± this, which gives those between more levels. 8 is a probability of 0.9997.
    """

    thresholds: tuple[float, ...]
    limit: float = 8.0


def _grid(span: Range) -> _Grid:
    width = span.high - span.low
    if width <= 0:
        return _Grid(np.float32(1), np.uint8(0))
    scale = np.float32(width / _MAX_ACTIVATION)
    return _Grid(scale, np.uint8(np.clip(np.rint(-span.low / scale), 0, _MAX_ACTIVATION)))


def _moves(node: onnx.NodeProto) -> bool:
    return node.op_type in _MOVES or (node.op_type == "Resize" and attributes(node).get("mode") == "nearest")


def observed_tensors(lowered: onnx.ModelProto) -> tuple[str, ...]:
    """Return the tensors whose ranges `quantize` needs: the input and what every computing node gives.

    A node that only a `Relu` reads is left out: it is written together with that `Relu`.
    """
    relu = _sole_relu(lowered)
    computed = [node.output[0] for node in lowered.graph.node if not _moves(node) and node.output[0] not in relu]
    return (lowered.graph.input[0].name, *computed)


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return the model with float tensors added to its outputs, for observing them; inputs are left out."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    have = {value.name for value in (*out.graph.input, *out.graph.output)}
    out.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors if name not in have
    )
    return out


class _Grids:
    """The grid of each tensor; tensors that bytes move between share one."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
        self._parent: dict[str, str] = {}
        fixed = constants(model)
        for node in model.graph.node:
            if _moves(node):
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

    def grid(self, name: str) -> _Grid:
        """Return the grid of a tensor; `ExportError` when nothing in its group was observed."""
        return _grid(self._span(name))

    def _span(self, name: str) -> Range:
        if self._root(name) not in self._spans:
            raise ExportError(f"tensor {name!r} has no activation range; observe every tensor of observed_tensors()")
        return self._spans[self._root(name)]


def quantize(
    lowered: onnx.ModelProto, ranges: Mapping[str, Range], output: OutputGrid | None = None
) -> onnx.ModelProto:
    """Quantise a lowered FP32 graph.

    Parameters
    ----------
    lowered : onnx.ModelProto
        As `lower` gives it; not changed.
    ranges : mapping of str to Range
        Activation range of each of `observed_tensors(lowered)`.
    output : OutputGrid, optional
        Where the levels of the output lie.

    Returns
    -------
    onnx.ModelProto
        Same input and output, float32; the same arguments give the same bytes.

    Raises
    ------
    ExportError
        A range is missing, a weight or bias is not a finite constant, or `output` does not fit the graph.
    """
    entry, final = lowered.graph.input[0], lowered.graph.output[0]
    writer = _Writer(lowered, {name: ranges[name] for name in observed_tensors(lowered) if name in ranges})
    if output is not None:
        writer.grids.limit(final.name, output.limit)
        writer.place_output(output, _last_convolution(lowered))
    writer.quantized[entry.name] = writer.quantize(entry.name, entry.name)
    for node in lowered.graph.node:
        writer.write(node)
    writer.out.rename_output(writer.finish(final.name), final.name)
    return writer.out.model(f"{lowered.graph.name}_int8", {entry.name: edges_of(entry)}, {final.name: edges_of(final)})


def _last_convolution(model: onnx.ModelProto) -> onnx.NodeProto:
    """Return the convolution that the output comes from by moves that keep the channel order modulo the output's."""
    by_output = {node.output[0]: node for node in model.graph.node}
    node = by_output.get(model.graph.output[0].name)
    while node is not None and node.op_type in ("Reshape", "DepthToSpace"):
        node = by_output.get(node.input[0])
    if node is None or node.op_type != "Conv" or len(node.input) < 3:
        raise ExportError("thresholds were given, but the graph does not end in a convolution with a bias")
    return node


class _Writer:
    """Writes one quantised graph; `quantized` maps each tensor of the FP32 graph to its uint8 one."""

    def __init__(self, model: onnx.ModelProto, spans: Mapping[str, Range]) -> None:
        self.out = GraphWriter([model.graph.input[0].name, model.graph.output[0].name])
        self.quantized: dict[str, str] = {}
        self._values = constants(model)
        self._relu = _sole_relu(model)
        self._offsets: npt.NDArray[np.float32] | None = None
        self.grids = _Grids(model, spans)

    def place_output(self, output: OutputGrid, convolution: onnx.NodeProto) -> None:
        """Shift the output's grid a channel so that each threshold lies halfway between two levels.

        The shift is taken off the bias of the last convolution and added again behind the grid.
        """
        step = float(self.grids.grid(convolution.output[0]).scale)
        thresholds = np.array(output.thresholds, np.float64)
        if np.abs(thresholds).max() >= output.limit:
            raise ExportError(f"thresholds {output.thresholds} (logits) lie outside the output's ± {output.limit}")
        bias = self._values[convolution.input[2]]
        offsets = thresholds - (np.floor(thresholds / step) + 0.5) * step
        self._values[convolution.input[2]] = (bias - np.resize(offsets, bias.shape)).astype(np.float32)
        self._offsets = offsets.astype(np.float32).reshape(-1, 1, 1)

    def finish(self, name: str) -> str:
        """Write the output in float32."""
        result = self.dequantize(name)
        if self._offsets is None:
            return result
        return self.out.node("Add", [result, self.out.constant(self._offsets, "offsets")], "add")

    def _grid_names(self, name: str) -> list[str]:
        grid = self.grids.grid(name)
        return [self.out.constant(grid.scale, "scale"), self.out.constant(grid.zero_point, "zero_point")]

    def quantize(self, tensor: str, name: str) -> str:
        """Write `tensor` as uint8 on the grid of `name`."""
        return self.out.node("QuantizeLinear", [tensor, *self._grid_names(name)], "q")

    def dequantize(self, name: str) -> str:
        """Write the float32 form of a quantised tensor."""
        return self.out.node("DequantizeLinear", [self.quantized[name], *self._grid_names(name)], "dq")

    def write(self, node: onnx.NodeProto) -> None:
        """Write one node of the FP32 graph."""
        result = node.output[0]
        if result in self.quantized:
            return  # a Relu that was written with what it follows
        if _moves(node):
            self.quantized[result] = self._move(node)
            return
        output = self._convolution(node) if node.op_type == "Conv" else self._float(node)
        if result in self._relu:
            result = self._relu[result]
            if self.grids.grid(result).zero_point != 0:  # a grid from 0 up cuts negative values off by itself
                output = self.out.node("Relu", [output], "relu")
        self.quantized[result] = self.quantize(output, result)

    def _move(self, node: onnx.NodeProto) -> str:
        inputs = [
            self.quantized.get(name) or (self.out.constant(self._values[name], "setting") if name else "")
            for name in node.input
        ]
        settings = attributes(node)
        if node.op_type == "Pad" and settings.get("mode", "constant") == "constant":
            inputs = [*inputs[:2], self._grid_names(node.output[0])[1]]  # what stands for 0
        return self.out.node(node.op_type, inputs, node.op_type.lower(), **settings)

    def _float(self, node: onnx.NodeProto) -> str:
        inputs = [
            self.dequantize(name)
            if name in self.quantized
            else (self.out.constant(self._values[name], "operand") if name else "")
            for name in node.input
        ]
        return self.out.node(node.op_type, inputs, node.op_type.lower(), **attributes(node))

    def _convolution(self, node: onnx.NodeProto) -> str:
        image, weight, *bias = node.input
        if any(name not in self._values or not np.isfinite(self._values[name]).all() for name in (weight, *bias)):
            raise ExportError(f"weight and bias of {node.name!r} must be finite constants")
        step = float(self.grids.grid(image).scale)
        offset = self._values[bias[0]] if bias else None
        scales = _weight_scales(self._values[weight], offset, step)
        levels = np.rint(self._values[weight] / scales.reshape(-1, 1, 1, 1)).astype(np.int8)
        inputs = [self.dequantize(image), self._constant_pair(levels, scales, "weight")]
        if offset is not None:
            bias_scales = (scales * np.float32(step)).astype(np.float32)
            inputs.append(self._constant_pair(np.rint(offset / bias_scales).astype(np.int32), bias_scales, "bias"))
        return self.out.node("Conv", inputs, "conv", **attributes(node))

    def _constant_pair(self, levels: npt.NDArray[Any], scales: npt.NDArray[np.float32], hint: str) -> str:
        inputs = [
            self.out.constant(levels, f"{hint}_levels"),
            self.out.constant(scales, f"{hint}_scales"),
            self.out.constant(np.zeros(len(scales), levels.dtype), f"{hint}_zero_points"),
        ]
        return self.out.node("DequantizeLinear", inputs, f"{hint}_dq", axis=0)


def _weight_scales(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None, step: float
) -> npt.NDArray[np.float32]:
    """Return one scale an output channel; wide enough for the bias to fit into 32 bits, and never 0."""
    scales = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float64) / MAX_WEIGHT
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (step * _MAX_BIAS))
    return np.where(scales > np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)


def _sole_relu(model: onnx.ModelProto) -> dict[str, str]:
    """Return, for each computed tensor that a `Relu` alone reads, the output of that `Relu`."""
    read = consumers(model)
    computed = {node.output[0] for node in model.graph.node if not _moves(node)}
    return {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type == "Relu" and node.input[0] in computed and read[node.input[0]] == 1
    }

"""Static INT8 of a lowered graph: 8-bit activations, 7-bit weights a channel, every copy along depth on bytes.

The result is a standard graph of `QuantizeLinear` / `DequantizeLinear` pairs: runtimes fuse each
dequantise-convolve-quantise into one integer kernel, and one that does not still computes the same in FP32. What only
moves values (`Pad`, `Slice`, `Concat`, `Reshape`, `DepthToSpace`, `MaxPool`) stands between the pairs and works on
uint8, with one scale for all tensors that it joins.

Weights use 7 of their 8 bits (±63). Kernels for processors without VNNI add two products u8 × s8 in 16 bits and
saturate; 2 · 255 · 63 = 32 130 fits, so the result is the same bits on every processor. A layer that needs more gets
13 bits in two limbs (`int8_convolution`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from glialite_calibration.ranges import Range
from glialite_runtime.errors import ExportError

from glialite_export.graph import GraphWriter, attributes, constants, consumers, edges_of
from glialite_export.grids import Grids, moves
from glialite_export.int8_convolution import Convolution, write_narrow, write_wide

__all__ = ["OutputGrid", "activation_grids", "observed_tensors", "quantize", "with_outputs"]


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


def observed_tensors(lowered: onnx.ModelProto) -> tuple[str, ...]:
    """Return the tensors whose ranges `quantize` needs: the input and what every computing node gives.

    A node that only a `Relu` reads is left out: it is written together with that `Relu`.
    """
    relu = _sole_relu(lowered)
    computed = [node.output[0] for node in lowered.graph.node if not moves(node) and node.output[0] not in relu]
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


def activation_grids(lowered: onnx.ModelProto, ranges: Mapping[str, Range], output: OutputGrid | None) -> Grids:
    """Return where the activations of a graph lie; see `quantize` for the parameters."""
    grids = Grids(lowered, {name: ranges[name] for name in observed_tensors(lowered) if name in ranges})
    if output is not None:
        grids.limit(lowered.graph.output[0].name, output.limit)
    return grids


def quantize(
    lowered: onnx.ModelProto,
    ranges: Mapping[str, Range],
    output: OutputGrid | None = None,
    wide: Collection[str] = (),
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
    wide : collection of str
        Outputs of the convolutions that get 13-bit weights.

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
    writer = _Writer(lowered, activation_grids(lowered, ranges, output), wide)
    if output is not None:
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

    def __init__(self, model: onnx.ModelProto, grids: Grids, wide: Collection[str]) -> None:
        self.out = GraphWriter([model.graph.input[0].name, model.graph.output[0].name])
        self.quantized: dict[str, str] = {}
        self._values = constants(model)
        self._relu = _sole_relu(model)
        self._wide = wide
        self._offsets: npt.NDArray[np.float32] | None = None
        self.grids = grids

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
        if moves(node):
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
        convolution = Convolution(
            self._values[weight],
            self._values[bias[0]] if bias else None,
            self.grids.grid(image),
            attributes(node),
        )
        if node.output[0] in self._wide:
            target = self.grids.grid(self._relu.get(node.output[0], node.output[0]))
            return write_wide(self.out, self.dequantize(image), convolution, target)
        return write_narrow(self.out, self.dequantize(image), convolution)


def _sole_relu(model: onnx.ModelProto) -> dict[str, str]:
    """Return, for each computed tensor that a `Relu` alone reads, the output of that `Relu`."""
    read = consumers(model)
    computed = {node.output[0] for node in model.graph.node if not moves(node)}
    return {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type == "Relu" and node.input[0] in computed and read[node.input[0]] == 1
    }

"""Symmetric INT8 of a native 3-D graph, with `QuantizeLinear` / `DequantizeLinear` where TensorRT looks for them.

A TensorRT engine is built from the pairs that stand in the graph ("explicit quantization"):

- every convolution reads its image and its weights through a `DequantizeLinear`; zero points are 0, one scale an
  activation, one scale an output channel of the weights, which are stored as -127 … 127;
- tensors that are joined share one scale, so that joining needs no arithmetic;
- biases, transposed convolutions and the logits stay in FP32. TensorRT has no INT8 kernels for transposed convolutions
  in 3-D that explicit quantisation could choose (NVIDIA/TensorRT#4668); they are about 2 % of the multiply-adds.

Unlike the CPU's graph (`int8`), nothing is reduced to 7 bits: GPUs add in 32 bits.

Source: NVIDIA, "Explicit Quantization" in the TensorRT documentation; `tensorrt_rules` holds each graph to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from glialite_calibration.ranges import Range
from glialite_runtime.errors import ExportError

from glialite_export.graph import GraphWriter, attributes, constants, edges_of

__all__ = ["quantize_symmetric"]

_MAX_LEVEL: Final = 127

Array = npt.NDArray[Any]


def quantize_symmetric(native: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return the graph with a quantised input and quantised weights at every convolution.

    Parameters
    ----------
    native : onnx.ModelProto
        FP32 graph with one input and one output, BatchNorm folded.
    ranges : mapping of str to Range
        For each tensor that a convolution reads, directly or through `Concat`; the larger side counts for both.

    Returns
    -------
    onnx.ModelProto
        Same input, same output, both float32.

    Raises
    ------
    ExportError
        A tensor has no range, or weights and bias of a convolution are not finite constants.
    """
    writer = _Writer(native, ranges)
    for node in native.graph.node:
        writer.write(node)
    return writer.model(native)


class _Writer:
    """Writes the quantised graph node by node; a tensor has a float form, and a dequantised one where it is wanted."""

    def __init__(self, native: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
        ends = (*native.graph.input, *native.graph.output)
        self.out = GraphWriter(taken=[value.name for value in ends])
        self.floats = {value.name: value.name for value in native.graph.input}
        self.pairs: dict[str, str] = {}
        self._values = constants(native)
        self._joined = _joined_for_convolutions(native)
        self._reach = _shared_reach(native, ranges)

    def write(self, node: onnx.NodeProto) -> None:
        """Write one node of the FP32 graph."""
        if node.op_type == "Conv":
            inputs = self._convolution_inputs(node)
        elif node.output[0] in self._joined:
            inputs = [self._pair(name) for name in node.input]
        else:
            inputs = [self._float(name) for name in node.input]
        self.floats[node.output[0]] = self.out.node(node.op_type, inputs, node.op_type.lower(), **attributes(node))

    def model(self, native: onnx.ModelProto) -> onnx.ModelProto:
        """Return the checked graph."""
        image, logits = native.graph.input[0], native.graph.output[0]
        self.out.rename_output(self.floats[logits.name], logits.name)
        return self.out.model(
            f"{native.graph.name}_gpu_int8", {image.name: edges_of(image)}, {logits.name: edges_of(logits)}
        )

    def _float(self, name: str) -> str:
        if name in self._values:
            return self.out.constant(self._values[name], name)
        return self.floats[name] if name else ""

    def _pair(self, name: str) -> str:
        """Return the dequantised form of a tensor, written when it is first asked for."""
        if name not in self.pairs:
            if name not in self._reach:
                raise ExportError(
                    f"tensor {name!r} has no activation range; observe every tensor of observed_tensors()"
                )
            scale = self.out.constant(np.float32((self._reach[name] or 1.0) / _MAX_LEVEL), "scale")
            grid = [scale, self.out.constant(np.int8(0), "zero_point")]
            quantised = self.out.node("QuantizeLinear", [self._float(name), *grid], "q")
            self.pairs[name] = self.out.node("DequantizeLinear", [quantised, *grid], "dq")
        return self.pairs[name]

    def _convolution_inputs(self, node: onnx.NodeProto) -> list[str]:
        image, weight, *bias = node.input
        if any(name not in self._values or not np.isfinite(self._values[name]).all() for name in (weight, *bias)):
            raise ExportError(f"weight and bias of {node.name!r} must be finite constants")
        scales = _weight_scales(self._values[weight])
        steps = scales.reshape(-1, *(1,) * (self._values[weight].ndim - 1))
        levels = np.clip(np.rint(self._values[weight] / steps), -_MAX_LEVEL, _MAX_LEVEL).astype(np.int8)
        stored = [
            self.out.constant(levels, "weight_levels"),
            self.out.constant(scales, "weight_scales"),
            self.out.constant(np.zeros(len(scales), np.int8), "weight_zero_points"),
        ]
        weights = self.out.node("DequantizeLinear", stored, "weight_dq", axis=0)
        return [self._pair(image), weights, *(self._float(name) for name in bias)]


def _weight_scales(weight: Array) -> npt.NDArray[np.float32]:
    """Return one scale an output channel, never 0."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1) / np.float32(_MAX_LEVEL)
    return np.where(largest > np.finfo(np.float32).tiny, largest, 1.0).astype(np.float32)


def _joined_for_convolutions(native: onnx.ModelProto) -> set[str]:
    """Return the outputs of each `Concat` that a convolution reads, directly or through another `Concat`."""
    wanted = {node.input[0] for node in native.graph.node if node.op_type == "Conv"}
    joined = set()
    for node in reversed(native.graph.node):
        if node.op_type == "Concat" and node.output[0] in wanted:
            joined.add(node.output[0])
            wanted.update(node.input)
    return joined


def _shared_reach(native: onnx.ModelProto, ranges: Mapping[str, Range]) -> dict[str, float]:
    """Return the largest magnitude of each tensor, the same for all tensors that a `Concat` joins."""
    reach = {name: max(-span.low, span.high) for name, span in ranges.items()}
    groups = [{*node.input, node.output[0]} for node in native.graph.node if node.op_type == "Concat"]
    changed = True
    while changed:
        before = dict(reach)
        for group in groups:
            known = [reach[name] for name in group if name in reach]
            reach.update(dict.fromkeys(group, max(known)) if known else {})
        changed = reach != before
    return reach

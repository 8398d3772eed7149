"""Rewrite a 3-D convolutional graph as a 2-D one that computes the same: the exact lowering.

Depth becomes the batch axis. A k×k×k convolution becomes a k×k convolution over the k depth-shifted copies of its
input side by side as channels, with weights ``W2[o, kd·I + i, kh, kw] = W[o, i, kd, kh, kw]``: the same products
and sums, so nothing is approximated. Height, width and depth stay symbolic. 2-D kernels are what processors have
fast code for; native 3-D INT8 convolution gains almost nothing over FP32.
"""

from __future__ import annotations

import onnx
from glialite_runtime.errors import UnsupportedOpError

from glialite_export.depth import Volume
from glialite_export.graph import GraphWriter, constants, consumers, fold_batchnorm, inline_constants
from glialite_export.operators import HANDLERS, UNARY, Lowering, refused

__all__ = ["lower"]

_OPSETS = range(13, 19)  # the operators that we know mean the same in these versions


def lower(model: onnx.ModelProto, divisor: int = 1) -> onnx.ModelProto:
    """Rewrite a native 3-D graph as a 2-D graph with depth as batch axis.

    Parameters
    ----------
    model : onnx.ModelProto
        One input (1, C, D, H, W) float32, one output of the same rank; D, H, W may be symbolic. Not changed.
    divisor : int
        Edges of every input are multiples of this. Where that makes a depth even, planes are paired by a free
        reshape in place of a copy; 1 when nothing is known.

    Returns
    -------
    onnx.ModelProto
        Input (depth, C, height, width) and output (depth, C', height, width) under the same names.
        Equal to the native graph up to the order of floating-point sums.

    Raises
    ------
    UnsupportedOpError
        A node cannot be lowered exactly; the message names it, its operator and the reason.
    """
    model, _ = inline_constants(model)
    model, _ = fold_batchnorm(model)
    entry = _entry(model)
    final = model.graph.output[0].name
    state = Lowering(GraphWriter([entry.name, final]), constants(model), {entry.name: entry}, _activations(model))
    state.volumes[entry.name] = Volume(entry.name, entry.channels, divisor)
    for node in model.graph.node:
        if node.op_type not in HANDLERS or node.domain not in ("", "ai.onnx"):
            raise refused(node, "the lowering does not know this operator")
        state.volumes[node.output[0]] = HANDLERS[node.op_type](state, node)
    result = state.volumes[final]
    state.writer.rename_output(result.name, final)
    return state.writer.model(
        f"{model.graph.name}_lowered",
        {entry.name: ("depth", entry.channels, "height", "width")},
        {final: ("depth", result.channels, "height", "width")},
    )


def _entry(model: onnx.ModelProto) -> Volume:
    """Return the input as a volume, after checking what the lowering takes for granted."""
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset not in _OPSETS:
        raise UnsupportedOpError(f"the graph uses opset {opset}; {_OPSETS[0]} to {_OPSETS[-1]} can be lowered")
    inputs, outputs = len(model.graph.input), len(model.graph.output)
    if (inputs, outputs) != (1, 1):
        raise UnsupportedOpError(f"the graph has {inputs} inputs and {outputs} outputs; one of each can be lowered")
    entry = model.graph.input[0]
    dims = entry.type.tensor_type.shape.dim
    if len(dims) != 5 or dims[0].dim_value != 1 or dims[1].dim_value < 1:
        found = ", ".join(dim.dim_param or str(dim.dim_value) for dim in dims)
        raise UnsupportedOpError(
            f"the input {entry.name!r} is ({found}); (1, channels, depth, height, width) with fixed channels was needed"
        )
    return Volume(entry.name, dims[1].dim_value, 1)


def _activations(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the activation function that alone reads each transposed convolution, by the convolution's output.

    It commutes with the moves that a transposed convolution ends in, so it goes before them, next to the
    convolution, where runtimes fuse the two.
    """
    read = consumers(model)
    upsampled = {node.output[0] for node in model.graph.node if node.op_type == "ConvTranspose"}
    return {
        node.input[0]: node
        for node in model.graph.node
        if node.op_type in UNARY and node.input[0] in upsampled and read[node.input[0]] == 1
    }

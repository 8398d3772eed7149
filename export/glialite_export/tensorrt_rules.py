"""TensorRT's rules for the graphs that we give it, checked without TensorRT.

The builder of TensorRT needs a GPU; what it would refuse a graph for, or run it slowly for, can be read off the graph.
`check` knows the rules that concern native 3-D convolutional networks in FP16 or in explicitly quantised INT8. Each
says where it is documented.

Source: the TensorRT documentation (https://docs.nvidia.com/deeplearning/tensorrt/latest/): [placement] "Explicit
Quantization", its recommendations for placing Q/DQ; [schemes] "Quantization Schemes"; [layer] C++ reference of
IQuantizeLayer and IDequantizeLayer; [typing] "Strongly Typed Networks"; [opset] "ONNX Opset Guide". [parser] is
onnx/onnx-tensorrt: operators.md, `QuantDequantLinearHelper` and `convMultiInput` of the importer. Issues of
NVIDIA/TensorRT are cited by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from glialite_export.graph import attributes, constants, edges_of

__all__ = ["RULES", "Finding", "check"]

_OPSETS: Final = range(13, 21)
"""13 brought scales a channel; TensorRT 10.0 reads up to 20, 11 up to 25 [opset]."""

_OPERATORS: Final = frozenset(
    ["Cast", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "LeakyRelu", "MaxPool", "QuantizeLinear", "Relu"]
)
"""What a student may consist of; all supported in FP32 and FP16 [parser]."""

_FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where a graph breaks a rule.

    Attributes
    ----------
    node : str
        Name of the node, input or output; the graph's own name where it is about all of it.
    rule : str
        A key of `RULES`.
    remedy : str
        What was found, and what to do.
    """

    node: str
    rule: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _View:
    """A graph with what the rules ask for again and again: constants, and who writes and reads each tensor."""

    model: onnx.ModelProto
    values: dict[str, npt.NDArray[Any]]
    writers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]

    def nodes(self, *kinds: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if node.op_type in kinds]

    def dequantized(self, name: str) -> bool:
        """Return whether a tensor comes out of a `DequantizeLinear`."""
        return name in self.writers and self.writers[name].op_type == "DequantizeLinear"

    def grid(self, node: onnx.NodeProto) -> tuple[bytes, ...]:
        """Return scale and zero point of a `QuantizeLinear` or `DequantizeLinear`, for comparing."""
        return tuple(self.values[name].tobytes() if name in self.values else name.encode() for name in node.input[1:])

    def quantised_convolutions(self, *kinds: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes(*kinds) if any(self.dequantized(name) for name in node.input[:2])]


Found = Iterator[tuple[str, str]]
"""Node and remedy."""


def check(model: onnx.ModelProto) -> tuple[Finding, ...]:
    """Return every place where a graph breaks a rule of TensorRT's; none for a graph that may ship.

    Parameters
    ----------
    model : onnx.ModelProto
        FP16 graph, or FP32 graph with pairs of `QuantizeLinear` and `DequantizeLinear`.
    """
    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    writers = {name: node for node in graph.node for name in node.output}
    view = _View(model, constants(model), writers, readers)
    return tuple(Finding(node, rule, remedy) for rule, find in RULES.items() for node, remedy in find(view))


def _opset(view: _View) -> Found:
    """Find operators of other versions or domains than the parser reads [opset]."""
    for opset in view.model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield view.model.graph.name, f"operators of the domain {opset.domain!r}; use standard ones"
        elif opset.version not in _OPSETS:
            yield view.model.graph.name, f"opset {opset.version}; export with {_OPSETS[0]} to {_OPSETS[-1]}"


def _operator(view: _View) -> Found:
    """Find operators that are unsupported [parser] or known for trouble, such as InstanceNormalization (#933)."""
    for node in view.model.graph.node:
        if node.op_type not in _OPERATORS:
            yield node.name, f"operator {node.op_type}; fold it away or build the student from others"


def _ends(view: _View) -> Found:
    """Find ends that are not float32 of one case; free edges are bounded by a profile."""
    for value in (*view.model.graph.input, *view.model.graph.output):
        shape = edges_of(value)
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            yield value.name, "not float32; put a Cast between it and the network"
        if len(shape) != 5 or shape[0] != 1 or not isinstance(shape[1], int):
            yield value.name, f"shape {shape}; (1, channels, depth, height, width) is needed"


def _typed(view: _View) -> Found:
    """Find nodes that read two float types: a strongly typed network casts nothing by itself [typing]."""
    try:
        inferred = onnx.shape_inference.infer_shapes(view.model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        yield view.model.graph.name, f"types or shapes do not fit together ({str(error).strip()[:200]}); insert a Cast"
        return
    graph = inferred.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    for node in graph.node:
        kinds = {types.get(name) for name in node.input if types.get(name) in _FLOATS}
        if len(kinds) > 1:
            yield node.name, "reads float32 and float16; insert a Cast"


def _constant_weight(view: _View) -> Found:
    """Find weights that are neither constants nor constants behind a `DequantizeLinear` [placement]."""
    for node in view.nodes("Conv", "ConvTranspose"):
        name = node.input[1]
        stored = view.writers[name].input[0] if view.dequantized(name) else name
        if stored not in view.values:
            yield node.name, "its weights are computed; make them constants"


def _symmetric(view: _View) -> Found:
    """Find zero points that are not 0 (#2774), or not as many as there are scales [parser]."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3:
            continue  # `int8` speaks of it
        scale, points = (view.values.get(name) for name in node.input[1:3])
        if points is None or points.any():
            yield node.name, "its zero point is not 0; quantise symmetrically"
        elif scale is not None and points.size != scale.size:
            yield node.name, f"{points.size} zero points for {scale.size} scales; give each scale one"


def _int8(view: _View) -> Found:
    """Find unsigned quantisation, which TensorRT lacks [schemes]; in ONNX a missing zero point means unsigned."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        points = view.values.get(node.input[2]) if len(node.input) > 2 else None
        stored = view.values.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if points is None or any(array is not None and array.dtype != np.int8 for array in (points, stored)):
            yield node.name, "it does not quantise to int8; give it int8 values and an int8 zero point"


def _weight_range(view: _View) -> Found:
    """Find weights of -128: a weight's scale is the largest magnitude over 127 [schemes]."""
    for node in view.nodes("DequantizeLinear"):
        stored = view.values.get(node.input[0])
        if stored is not None and stored.dtype == np.int8 and stored.size and stored.min() < -127:
            yield node.name, "a weight is -128; clip weights to ±127"


def _scale(view: _View) -> Found:
    """Find scales that are computed, not finite or not above 0 [layer, parser]."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        scale = view.values.get(node.input[1])
        if scale is None or not (np.isfinite(scale).all() and (scale > 0).all()):
            yield node.name, "its scale is computed, or not above 0; write a positive constant"


def _granularity(view: _View) -> Found:
    """Find a scale a channel on activations, or on another axis of weights than the output channels [parser]."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        scale, stored = view.values.get(node.input[1]), view.values.get(node.input[0])
        if scale is None or scale.ndim == 0:
            continue
        if stored is None:
            yield node.name, "an activation with a scale a channel; use one scale"
        elif attributes(node).get("axis", 1) != 0 or scale.shape != stored.shape[:1]:
            yield node.name, "its scales do not run along the output channels; set axis to 0, one scale a channel"


def _pair(view: _View) -> Found:
    """Find a `QuantizeLinear` or `DequantizeLinear` without its partner, or on another grid than that [placement]."""
    outputs = {value.name for value in view.model.graph.output}
    for node in view.nodes("QuantizeLinear"):
        readers = view.readers.get(node.output[0], [])
        if not readers or node.output[0] in outputs or any(r.op_type != "DequantizeLinear" for r in readers):
            yield node.name, "what it quantises is not dequantised; put a DequantizeLinear behind it"
        elif any(view.grid(reader) != view.grid(node) for reader in readers):
            yield node.name, "the DequantizeLinear behind it has another scale or zero point; use the same constants"
    for node in view.nodes("DequantizeLinear"):
        source = view.writers.get(node.input[0])
        if node.input[0] not in view.values and (source is None or source.op_type != "QuantizeLinear"):
            yield node.name, "what it dequantises was not quantised; put a QuantizeLinear before it"


def _both_inputs(view: _View) -> Found:
    """Find convolutions with one quantised input: they run in floating point [placement]."""
    for node in view.quantised_convolutions("Conv"):
        if not all(view.dequantized(name) for name in node.input[:2]):
            yield node.name, "only one of image and weights is quantised; quantise both"


def _kernel_shape(view: _View) -> Found:
    """Find dequantised weights without `kernel_shape`: the parser reads the kernel off the attribute then [parser]."""
    for node in view.quantised_convolutions("Conv"):
        if "kernel_shape" not in attributes(node):
            yield node.name, "no kernel_shape, and its weights are not plain constants; write the attribute"


def _bias(view: _View) -> Found:
    """Find biases that are not floating-point constants, which the parser asserts and TensorRT fuses [parser]."""
    for node in view.nodes("Conv", "ConvTranspose"):
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and (bias not in view.values or view.values[bias].dtype.kind != "f"):
            yield node.name, "its bias is not a floating-point constant; leave biases unquantised"


def _transposed(view: _View) -> Found:
    """Find quantised transposed convolutions: in 3-D, no INT8 kernel is found for them (#4668, #1519)."""
    for node in view.quantised_convolutions("ConvTranspose"):
        yield node.name, "a quantised transposed convolution; leave its inputs in floating point"


def _grouped(view: _View) -> Found:
    """Find quantised grouped convolutions: transposed ones are refused (#1934), none is documented in 3-D."""
    for node in view.quantised_convolutions("Conv"):
        if attributes(node).get("group", 1) != 1:
            yield node.name, "a quantised grouped convolution; leave its inputs in floating point"


def _joined(view: _View) -> Found:
    """Find joins of tensors on different scales: Q moves through a join on one scale for free [placement]."""
    for node in view.nodes("Concat"):
        sources = [view.writers[name] for name in node.input if view.dequantized(name)]
        if sources and (len(sources) < len(node.input) or len({view.grid(source) for source in sources}) > 1):
            yield node.name, "it joins tensors on different scales; give all of them one"


RULES: Final[dict[str, Callable[[_View], Found]]] = {
    "opset": _opset,
    "operator": _operator,
    "ends": _ends,
    "typed": _typed,
    "constant-weight": _constant_weight,
    "symmetric": _symmetric,
    "int8": _int8,
    "weight-range": _weight_range,
    "scale": _scale,
    "granularity": _granularity,
    "pair": _pair,
    "both-inputs": _both_inputs,
    "kernel-shape": _kernel_shape,
    "bias": _bias,
    "transposed": _transposed,
    "grouped": _grouped,
    "joined": _joined,
}
"""Every rule by name."""

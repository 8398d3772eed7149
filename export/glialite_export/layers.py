"""Name the layers of an INT8 graph for the clinic's compiled kernels: the lowered graph, back in three dimensions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import onnx
from glialite_runtime.int8_network import LAYERS_NOTE

from glialite_export.graph import attributes

__all__ = ["layers_of", "with_layers"]


class _UnknownLayerError(Exception):
    """A part of the graph is no layer that the kernels know."""


@dataclass(slots=True)
class _Graph:
    """A graph's nodes by what they give and by what they read; `left` are those that no layer accounts for yet."""

    makers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    constants: set[str]
    left: set[str]
    layers: list[dict[str, Any]] = field(default_factory=list)
    joins: dict[str, list[str]] = field(default_factory=dict)
    levels: list[str] = field(default_factory=list)

    def maker(self, name: str, kind: str) -> onnx.NodeProto:
        """Take the node that gives `name`, which must be of this kind."""
        node = self.makers.get(name)
        if node is None or node.op_type != kind:
            raise _UnknownLayerError(name)
        self.left.discard(node.output[0])
        return node

    def reader(self, name: str, kind: str) -> onnx.NodeProto:
        """Take the one node that reads `name`, which must be of this kind."""
        if not self.is_read_by(name, kind):
            raise _UnknownLayerError(name)
        return self.maker(self.readers[name][0].output[0], kind)

    def is_read_by(self, name: str, kind: str) -> bool:
        """Return whether one node alone reads `name`, and is of this kind."""
        return [node.op_type for node in self.readers.get(name, [])] == [kind]


def with_layers(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Return an INT8 graph with the note of its layers; as it is when the kernels do not know all of them."""
    note = layers_of(quantized)
    if note is None:
        return quantized
    noted = onnx.ModelProto()
    noted.CopyFrom(quantized)
    noted.metadata_props.add(key=LAYERS_NOTE, value=json.dumps(note, separators=(",", ":")))
    return noted


def layers_of(quantized: onnx.ModelProto) -> dict[str, Any] | None:
    """Return the layers of an INT8 graph in three dimensions, by the names of its constants.

    Parameters
    ----------
    quantized : onnx.ModelProto
        As `quantize` gives it.

    Returns
    -------
    dict or None
        Ready for JSON: see `glialite_runtime.int8_network`. None when a node belongs to no layer of the known kinds:
        the strided convolution of the image, 3×3×3 convolutions, 1×1×1 convolutions, those that double the resolution,
        and the head, each of 7-bit or 13-bit weights and with rounded outputs; and the joining of two volumes.
    """
    nodes = quantized.graph.node
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name for tensor in quantized.graph.initializer}
    graph = _Graph({node.output[0]: node for node in nodes}, readers, constants, {node.output[0] for node in nodes})
    try:
        for node in nodes:
            if node.op_type == "Conv":
                _layer(graph, node)
        image = graph.maker(graph.layers[0]["source"], "QuantizeLinear")
        output = _output(graph)
    except (_UnknownLayerError, IndexError):
        return None
    for layer in graph.layers:
        if layer.get("source") == image.output[0]:
            layer["source"] = "image"
    if graph.left or image.input[0] != quantized.graph.input[0].name:
        return None
    grid = {"scale": image.input[1], "zero_point": image.input[2]}
    return {"image": grid, "layers": graph.layers, "joins": graph.joins, "output": output}


def _layer(graph: _Graph, convolution: onnx.NodeProto) -> None:
    """Account for a convolution, and for the sum that it ends in together with one before."""
    graph.left.discard(convolution.output[0])
    source = graph.maker(convolution.input[0], "DequantizeLinear")
    weight = graph.maker(convolution.input[1], "DequantizeLinear")
    bias = graph.maker(convolution.input[2], "DequantizeLinear").input[0] if len(convolution.input) > 2 else None
    rounded = graph.reader(convolution.output[0], "QuantizeLinear")
    settings = attributes(convolution)
    stride = settings.get("strides", [1, 1])[0]
    layer = {
        "source": _source(graph, source.input[0], settings["kernel_shape"][0], stride),
        "target": rounded.output[0],
        "stride": stride,
        "raised": False,
        "weight": weight.input[0],
        "weight_scale": weight.input[1],
        "bias": bias,
        "source_scale": source.input[1],
        "target_scale": rounded.input[1],
        "target_zero_point": rounded.input[2],
    }
    graph.layers.append(layer)
    summed = _sum_of(graph, rounded.output[0])
    if summed is None:
        layer["target"], layer["raised"] = _raised(graph, rounded.output[0])
        graph.levels = [layer["target"]]
        return
    total = graph.reader(summed.output[0], "QuantizeLinear")
    target, layer["raised"] = _raised(graph, total.output[0])
    limbs = [graph.maker(name, "DequantizeLinear") for name in summed.input]
    sources = [limb.input[0] for limb in limbs]
    graph.levels = [*sources, target]
    if {entry["target"] for entry in graph.layers} >= set(sources):
        graph.left.discard(summed.output[0])
        grids = [[node.input[1], node.input[2]] for node in (*limbs, total)]
        graph.layers.append({"sources": sources, "target": target, "grids": grids})


def _sum_of(graph: _Graph, rounded: str) -> onnx.NodeProto | None:
    """Return the sum of two limbs that a rounded volume goes into, if it is one limb of 13-bit weights."""
    if not graph.is_read_by(rounded, "DequantizeLinear"):
        return None
    floats = graph.readers[rounded][0].output[0]
    if not graph.is_read_by(floats, "Add"):
        return None
    add = graph.readers[floats][0]
    return None if any(name in graph.constants for name in add.input) else add


def _raised(graph: _Graph, name: str) -> tuple[str, bool]:
    """Return the volume that `name` becomes, and whether it is of twice the resolution."""
    if not graph.is_read_by(name, "Reshape"):
        return name, False
    spread = graph.reader(graph.reader(name, "Reshape").output[0], "DepthToSpace")
    if attributes(spread) != {"blocksize": 2, "mode": "DCR"}:
        raise _UnknownLayerError(name)
    return spread.output[0], True


def _source(graph: _Graph, name: str, kernel: int, stride: int) -> str:
    """Return the volume that a convolution reads, behind the planes that are put side by side for its depth."""
    if (kernel, stride) == (2, 2):
        return graph.maker(name, "Reshape").input[0]
    if kernel == 3:
        planes = [graph.maker(plane, "Slice") for plane in graph.maker(name, "Concat").input]
        padded = {plane.input[0] for plane in planes}
        if len(planes) != 3 or len(padded) != 1:
            raise _UnknownLayerError(name)
        name = graph.maker(padded.pop(), "Pad").input[0]
    elif (kernel, stride) != (1, 1):
        raise _UnknownLayerError(name)
    maker = graph.makers.get(name)
    if maker is not None and maker.op_type == "Concat":
        graph.left.discard(name)
        graph.joins[name] = list(maker.input)
    return name


def _output(graph: _Graph) -> dict[str, Any]:
    """Return how the last levels become logits."""
    dequantised = graph.reader(graph.levels[-1], "DequantizeLinear")
    offsets, name = [], dequantised.output[0]
    while graph.is_read_by(name, "Add"):
        add = graph.reader(name, "Add")
        offsets += [operand for operand in add.input if operand != name]
        name = add.output[0]
    if not graph.constants.issuperset(offsets) or not graph.layers[-1].get("raised", True):
        raise _UnknownLayerError(name)
    grid = {"scale": dequantised.input[1], "zero_point": dequantised.input[2]}
    return {**grid, "offsets": offsets, "levels": graph.levels}

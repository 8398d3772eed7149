"""Read and write ONNX graphs: a small writer, and passes that leave what a graph computes unchanged.

A pass takes a model, never changes it, and returns a new one with the number of nodes that it removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from glialite_runtime.errors import ExportError
from onnx import helper, numpy_helper

__all__ = [
    "OPSET",
    "GraphWriter",
    "attributes",
    "checked",
    "constants",
    "consumers",
    "edges_of",
    "fold_batchnorm",
    "inline_constants",
    "strip",
]

OPSET: Final = 17
"""Version of the standard operators in every graph that we write."""

_IR_VERSION: Final = 8  # the file format of opset 17; older runtimes read it too

Array = npt.NDArray[Any]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as plain Python values (text as `str`, tensors as arrays)."""
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {
        name: value.decode()
        if isinstance(value, bytes)
        else numpy_helper.to_array(value)
        if isinstance(value, onnx.TensorProto)
        else value
        for name, value in values.items()
    }


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the initializers of a graph by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def consumers(model: onnx.ModelProto) -> Counter[str]:
    """Return how often each tensor is read, by nodes and as an output of the graph."""
    read = Counter(name for node in model.graph.node for name in node.input if name)
    read.update(output.name for output in model.graph.output)
    return read


def edges_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Return the shape of an input or output; symbolic extents as their names."""
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


class GraphWriter:
    """Collects the nodes and constants of a new graph under names that depend on the calls only.

    Names are `<hint>.<count>`, so the same calls write the same bytes. Equal constants are stored once.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken = set(taken)

    def _fresh(self, hint: str) -> str:
        name, count = hint, 0
        while name in self._taken:
            count += 1
            name = f"{hint}.{count}"
        self._taken.add(name)
        return name

    def constant(self, value: npt.ArrayLike, hint: str) -> str:
        """Store an array and return its name; an equal array of the same type is stored once."""
        array = np.asarray(value, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._stored:
            self._stored[key] = self._fresh(hint)
            self.constants[self._stored[key]] = array
        return self._stored[key]

    def node(self, op: str, inputs: Sequence[str], hint: str, /, **settings: Any) -> str:
        """Append a node with one output and return the name of that output."""
        output = self._fresh(hint)
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **settings))
        return output

    def rename_output(self, old: str, new: str) -> None:
        """Call the tensor `old` `new` wherever it is written or read."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = new

    def model(
        self, name: str, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
    ) -> onnx.ModelProto:
        """Return the checked model; `inputs` and `outputs` are float32 tensors, name -> shape.

        Raises
        ------
        ExportError
            onnx's checker finds the graph malformed.
        """
        float32 = onnx.TensorProto.FLOAT
        read = {tensor for node in self.nodes for tensor in node.input}
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(tensor, float32, list(shape)) for tensor, shape in inputs.items()],
            [helper.make_tensor_value_info(tensor, float32, list(shape)) for tensor, shape in outputs.items()],
            [numpy_helper.from_array(array, tensor) for tensor, array in self.constants.items() if tensor in read],
        )
        return checked(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="glialite")
        )


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with our file-format version, after onnx's own checker has passed it.

    Raises
    ------
    ExportError
        The checker finds the graph malformed.
    """
    model.ir_version = _IR_VERSION
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph {model.graph.name!r} is malformed: {error}") from error
    return model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    fresh = onnx.ModelProto()
    fresh.CopyFrom(model)
    return fresh


def _replace(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], values: Mapping[str, Array]) -> None:
    """Put `nodes` and those of `values` that they read into `model`, in place."""
    kept = list(nodes)
    read = {name for node in kept for name in node.input} | {output.name for output in model.graph.output}
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in values.items() if name in read
    )


def inline_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Turn `Constant` nodes into initializers and bypass `Identity` and `Dropout` nodes.

    Returns
    -------
    (model, int)
        A new model and the number of nodes that went. An `Identity` that carries a graph output stays.
    """
    out = _copy(model)
    values, alias, kept = constants(out), dict[str, str](), list[onnx.NodeProto]()
    final = {output.name for output in out.graph.output}
    for node in out.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = alias.get(name, name)
        if node.op_type == "Constant" and "value" in attributes(node):
            values[node.output[0]] = attributes(node)["value"]
        elif node.op_type in ("Identity", "Dropout") and node.output[0] not in final:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    removed = len(out.graph.node) - len(kept)
    _replace(out, kept, values)
    return out, removed


def fold_batchnorm(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Fold each `BatchNormalization` that directly follows a convolution into its weights and bias.

    A convolution whose result is also read elsewhere, and a normalisation that follows something else, stay as
    they are. The arithmetic is done in float64.

    Returns
    -------
    (model, int)
        A new model and the number of normalisations that went.
    """
    out = _copy(model)
    values, read = constants(out), consumers(out)
    writer: dict[str, onnx.NodeProto] = {}
    kept: list[onnx.NodeProto] = []
    removed = 0
    for node in out.graph.node:
        source = writer.get(node.input[0]) if node.input else None
        if (
            node.op_type == "BatchNormalization"
            and source is not None
            and source.op_type in ("Conv", "ConvTranspose")
            and read[source.output[0]] == 1
            and source.input[1] in values
        ):
            _fold_into(source, node, values)
            source.output[0] = node.output[0]
            writer[node.output[0]] = source
            removed += 1
            continue
        kept.append(node)
        writer.update(dict.fromkeys(node.output, node))
    _replace(out, kept, values)
    return out, removed


def _fold_into(convolution: onnx.NodeProto, normalisation: onnx.NodeProto, values: dict[str, Array]) -> None:
    scale, shift, mean, variance = (values[name].astype(np.float64) for name in normalisation.input[1:5])
    factor = scale / np.sqrt(variance + attributes(normalisation).get("epsilon", 1e-5))
    weight = values[convolution.input[1]].astype(np.float64)
    bias = values[convolution.input[2]].astype(np.float64) if len(convolution.input) > 2 else np.zeros_like(mean)
    if convolution.op_type == "Conv":
        weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    else:  # (in, out / group, …): the output channels of group g are factor[g · out / group :]
        group = attributes(convolution).get("group", 1)
        rows = factor.reshape(group, 1, -1)
        weight = (weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1) * rows[..., None]).reshape(
            weight.shape
        )
    names = [f"{normalisation.output[0]}.weight", f"{normalisation.output[0]}.bias"]
    values[names[0]] = weight.astype(np.float32)
    values[names[1]] = ((bias - mean) * factor + shift).astype(np.float32)
    del convolution.input[1:]
    convolution.input.extend(names)


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without doc strings, metadata and shapes of inner tensors: they hold paths and source lines."""
    out = _copy(model)
    for message in (out, out.graph, *out.graph.node, *out.graph.input, *out.graph.output, *out.graph.initializer):
        message.ClearField("doc_string")
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("metadata_props")
    out.graph.ClearField("value_info")
    return out

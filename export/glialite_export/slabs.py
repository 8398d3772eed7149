"""Cut the INT8 graph in three, so that what needs most memory can run in slabs of depth, with the same result.

Nearly all memory of a student goes into the stages at half resolution, and those see only a few planes around each: the
first stage on the way down and the last one on the way up. Between them lies what sees far, at a quarter of the
resolution and less, which is small. The graph stays one file with one set of weights; `Graph.layout` "depth-slabs" says
how its parts are run.
"""

from __future__ import annotations

import onnx
from glialite_runtime.errors import ExportError

from glialite_export.graph import attributes, checked, consumers

__all__ = ["cut_for_slabs"]


def cut_for_slabs(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Return the INT8 graph with its first and last stage apart from the rest.

    The cut is where the last skip connection joins: at the last `Concat` of two tensors along channels. It goes away;
    its inputs become the outputs `raised` and `features`, its output the input `joined`, and whatever else reads the
    features reads the input `features_in`. All are uint8, so nothing is rounded at a cut.

    Parameters
    ----------
    quantized : onnx.ModelProto
        As `quantize` gives it, of a student with at least two stages; not changed.

    Raises
    ------
    ExportError
        The graph has no such `Concat`, or a part would need more than one of the inputs.
    """
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    graph = model.graph
    joins = [n for n in graph.node if n.op_type == "Concat" and len(n.input) == 2 and attributes(n).get("axis") == 1]
    if not joins or consumers(model)[joins[-1].output[0]] == 0:
        raise ExportError("the graph joins no skip connection, so it cannot be cut for slabs; two stages are needed")
    join = joins[-1]
    (raised, features), joined = join.input, join.output[0]
    graph.node.remove(join)
    renamed = {raised: "raised", features: "features"}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = {features: "features_in", joined: "joined"}.get(name, name)
        for place, name in enumerate(node.output):
            node.output[place] = renamed.get(name, name)
    width = _channels(quantized, features)
    graph.input.extend([_uint8("features_in", width), _uint8("joined", _channels(quantized, joined))])
    graph.output.extend([_uint8("features", width), _uint8("raised", _channels(quantized, raised))])
    for output, entry in (("features", "image"), ("raised", "features_in"), ("logits", "joined")):
        if (found := _inputs_of(model, output)) != {entry}:
            raise ExportError(
                f"the part that gives {output} reads {sorted(found)}, not {entry} alone; it cannot be cut"
            )
    return checked(model)


def _uint8(name: str, channels: int) -> onnx.ValueInfoProto:
    shape: list[str | int | None] = [f"{name}_depth", channels, f"{name}_height", f"{name}_width"]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape)


def _channels(model: onnx.ModelProto, tensor: str) -> int:
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    found = [value.type.tensor_type.shape.dim[1].dim_value for value in inferred if value.name == tensor]
    if not found or found[0] < 1:
        raise ExportError(f"the channels of {tensor!r} cannot be inferred, so the graph cannot be cut")
    return int(found[0])


def _inputs_of(model: onnx.ModelProto, output: str) -> set[str]:
    """Return the inputs of the graph that an output depends on."""
    makers = {name: node for node in model.graph.node for name in node.output}
    entries = {value.name for value in model.graph.input}
    pending, seen = [output], set[str]()
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending.extend(makers[name].input if name in makers else ())
    return seen & entries

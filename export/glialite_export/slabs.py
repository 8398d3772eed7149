"""Cut the INT8 graph at its skip connections, so that its outer stages run in slabs of depth, with the same result.

Nearly all memory and time of a student goes into its stages at half and at a quarter of the resolution, and each of
them sees only a few planes around. What lies deeper sees far, and is small. The graph stays one file with one set of
weights; `Graph.layout` "depth-slabs" says how its parts are run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx
from glialite_distill.student import StudentSpec
from glialite_runtime.errors import ExportError
from glialite_runtime.sequences import REGIONS

from glialite_export.graph import attributes, checked

__all__ = ["cut_for_slabs", "slab_halo"]

_STAGES: Final = 2
"""Stages that run in slabs: at half and at a quarter of the resolution."""


def slab_halo(spec: StudentSpec) -> tuple[int, ...]:
    """Return `Graph.halo` of a student: its two outer stages, a plane for each 3×3×3 convolution of one way."""
    return spec.blocks[: min(_STAGES, len(spec.blocks) - 1)]


def cut_for_slabs(quantized: onnx.ModelProto, stages: int) -> onnx.ModelProto:
    """Return the INT8 graph with its outermost stages apart from the rest.

    The cuts are where the last skip connections join: at the last `Concat`s of two tensors along channels, stage 0 the
    very last. Each goes away; its inputs become the outputs `raised.n` and `features.n`, its output the input
    `joined.n`, and whatever else reads the features reads the input `features_in.n`. All are uint8, so nothing is
    rounded at a cut. A last cut is before the output is turned into floats: `levels`, and `levels_in` to `logits`.

    Parameters
    ----------
    quantized : onnx.ModelProto
        As `quantize` gives it, of a student with more stages than are cut; not changed.
    stages : int
        How many are cut off, at least one.

    Raises
    ------
    ExportError
        The graph has fewer such `Concat`s, or a part would need more than one of the inputs.
    """
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    joins = [
        n for n in model.graph.node if n.op_type == "Concat" and len(n.input) == 2 and attributes(n).get("axis") == 1
    ]
    if not 1 <= stages <= len(joins):
        raise ExportError(
            f"the graph has {len(joins)} skip connections; it cannot be cut at {stages} of them for slabs"
        )
    inferred = onnx.shape_inference.infer_shapes(quantized).graph.value_info
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred}
    channels = {name: shape[1].dim_value for name, shape in shapes.items() if len(shape) == 4}
    for stage, join in enumerate(reversed(joins[-stages:])):
        _cut(model, join, stage, channels)
    _cut_output(model)
    entries = ["image", *(f"features_in.{n}" for n in range(stages)), *(f"joined.{n}" for n in reversed(range(stages)))]
    entries.append("levels_in")
    results = [*(f"features.{n}" for n in range(stages)), *(f"raised.{n}" for n in reversed(range(stages)))]
    results += ["levels", "logits"]
    for entry, result in zip(entries, results, strict=True):
        if (found := _inputs_of(model, result)) != {entry}:
            raise ExportError(
                f"the part that gives {result} reads {sorted(found)}, not {entry} alone: it cannot be cut"
            )
    return checked(model)


def _cut(model: onnx.ModelProto, join: onnx.NodeProto, stage: int, channels: Mapping[str, int]) -> None:
    """Cut `model` at one `Concat`, in place."""
    graph = model.graph
    (raised, features), joined = join.input, join.output[0]
    if any(channels.get(name, 0) < 1 for name in (raised, features, joined)):
        raise ExportError(f"the channels of {join.name!r} cannot be inferred, so the graph cannot be cut there")
    graph.node.remove(join)
    read = {features: f"features_in.{stage}", joined: f"joined.{stage}"}
    written = {raised: f"raised.{stage}", features: f"features.{stage}"}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = read.get(name, name)
        for place, name in enumerate(node.output):
            node.output[place] = written.get(name, name)
    graph.input.extend(_uint8(new, channels[old]) for old, new in read.items())
    graph.output.extend(_uint8(new, channels[old]) for old, new in written.items())


def _cut_output(model: onnx.ModelProto) -> None:
    """Cut before the output is turned into floats, in place: bytes are a quarter of what there is to move."""
    graph, name = model.graph, "logits"
    makers = {node.output[0]: node for node in graph.node}
    last = makers[name]
    while last.op_type == "Add":
        last = makers[last.input[0]]
    if last.op_type != "DequantizeLinear":
        raise ExportError(f"the graph ends in {last.op_type}, not in a quantised output, so it cannot be cut for slabs")
    levels = last.input[0]
    for node in graph.node:
        for place, written in enumerate(node.output):
            node.output[place] = "levels" if written == levels else written
        for place, read in enumerate(node.input):
            node.input[place] = "levels" if read == levels else read
    last.input[0] = "levels_in"
    graph.input.append(_uint8("levels_in", len(REGIONS)))
    graph.output.append(_uint8("levels", len(REGIONS)))


def _uint8(name: str, channels: int) -> onnx.ValueInfoProto:
    shape: list[str | int | None] = [f"{name}_depth", channels, f"{name}_height", f"{name}_width"]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape)


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

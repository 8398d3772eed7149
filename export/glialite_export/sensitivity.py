"""What quantising one layer costs while all others stay FP32: its 7-bit weights, and the 256 levels of its output.

One layer is quantised alone, not left alone: then a figure does not depend on the errors of the others, which partly
cancel, and is not the small difference of two large ones. The figures do not add up to the error of the whole graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from glialite_runtime.decode import DecisionRule
from onnx import helper, numpy_helper

from glialite_export.graph import attributes, constants
from glialite_export.grids import Grid, Grids
from glialite_export.int8 import observed_tensors
from glialite_export.int8_convolution import MAX_WEIGHT, Convolution, rounded
from glialite_export.judge import near_thresholds
from glialite_export.parity import Network

__all__ = ["LayerCost", "centred_crop", "compare_on", "layer_costs", "layer_names", "over_their_share"]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Mean squared logit error near the thresholds that quantising one layer alone brings.

    Attributes
    ----------
    layer : str
        Its name for people.
    convolution : str
        Output of its convolution in the lowered graph; empty when it has none.
    weights, activations : float
        By its weights, and by the levels of its output.
    """

    layer: str
    convolution: str
    weights: float
    activations: float


def layer_names(native: onnx.ModelProto, lowered: onnx.ModelProto) -> dict[str, str]:
    """Return output of each convolution of the lowered graph -> the layer that it was in the student.

    Every 3-D convolution becomes one 2-D convolution, in the same order.
    """
    layers = [node.name.strip("/").split("/") for node in native.graph.node if node.op_type.startswith("Conv")]
    outputs = [node.output[0] for node in lowered.graph.node if node.op_type == "Conv"]
    return {output: parts[-2] if len(parts) > 1 else output for output, parts in zip(outputs, layers, strict=True)}


def centred_crop(image: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], edge: int) -> npt.NDArray[np.float32]:
    """Return the part of an image (4, z, y, x), at most `edge` voxels wide, around the middle of the tumour.

    Around the middle of the image where there is no tumour.
    """
    tumour = np.argwhere(truth > 0)
    middle = tumour.mean(axis=0) if len(tumour) else np.array(truth.shape) / 2
    starts = [int(np.clip(at - edge / 2, 0, max(0, n - edge))) for at, n in zip(middle, truth.shape, strict=True)]
    z, y, x = (slice(start, start + edge) for start in starts)
    return image[:, z, y, x]


def layer_costs(
    lowered: onnx.ModelProto,
    grids: Grids,
    names: Mapping[str, str],
    compare: Callable[[onnx.ModelProto], float],
) -> list[LayerCost]:
    """Quantise one layer at a time.

    Parameters
    ----------
    lowered : onnx.ModelProto
        FP32.
    grids : Grids
        Where its activations lie.
    names : mapping
        See `layer_names`.
    compare : function
        Graph -> its error, see `compare_on`.

    Returns
    -------
    list of LayerCost
        In the order of the graph; the input first.
    """
    by_output = {node.output[0]: node for node in lowered.graph.node}
    costs = []
    for tensor in observed_tensors(lowered):
        source = by_output.get(tensor)
        if source is not None and source.op_type == "Relu":
            source = by_output.get(source.input[0], source)
        convolution = source if source is not None and source.op_type == "Conv" else None
        output = "" if convolution is None else convolution.output[0]
        costs.append(
            LayerCost(
                names.get(output, tensor),
                output,
                0.0 if convolution is None else compare(_with_rounded_weights(lowered, convolution, grids)),
                compare(_with_levels(lowered, tensor, grids.grid(tensor))),
            )
        )
    return costs


def compare_on(
    crops: Sequence[npt.NDArray[np.float32]],
    reference: Network,
    network: Callable[[onnx.ModelProto], Network],
    rule: DecisionRule,
) -> Callable[[onnx.ModelProto], float]:
    """Return a function that gives a graph's mean squared logit error near the thresholds, over some crops.

    Parameters
    ----------
    crops : sequence of float32 arrays (4, z, y, x)
        At least one.
    reference : Network
        FP32; runs once a crop.
    network : function
        Makes a graph runnable.
    rule : DecisionRule
        Its thresholds.
    """
    wanted = [reference(crop) for crop in crops]
    places = [near_thresholds(logits, rule) for logits in wanted]

    def error(model: onnx.ModelProto) -> float:
        run = network(model)
        off = [(run(crop) - logits)[place] for crop, logits, place in zip(crops, wanted, places, strict=True)]
        return float(np.mean([np.mean(np.square(part, dtype=np.float64)) if part.size else 0.0 for part in off]))

    return error


def over_their_share(costs: Sequence[LayerCost], share: float, at_most: int) -> list[LayerCost]:
    """Return the layers whose weights cost more than `share` of the sum of all costs.

    The most expensive first, `at_most` of them.
    """
    total = sum(cost.weights + cost.activations for cost in costs)
    heavy = [cost for cost in costs if cost.weights > share * total]
    return sorted(heavy, key=lambda cost: -cost.weights)[:at_most]


def _with_rounded_weights(lowered: onnx.ModelProto, node: onnx.NodeProto, grids: Grids) -> onnx.ModelProto:
    model, values = _copy(lowered), constants(lowered)
    bias = values[node.input[2]] if len(node.input) > 2 else None
    source = grids.grid(node.input[0])
    levels, scales = rounded(Convolution(values[node.input[1]], bias, source, attributes(node)), MAX_WEIGHT)
    weight = (levels * scales.reshape(-1, 1, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "rounded_weight"))
    changed = next(other for other in model.graph.node if other.output[0] == node.output[0])
    changed.input[1] = "rounded_weight"
    return model


def _with_levels(lowered: onnx.ModelProto, tensor: str, grid: Grid) -> onnx.ModelProto:
    """Return the graph with one tensor rounded to its 256 levels, for all that read it."""
    model = _copy(lowered)
    settings = {"level_scale": grid.scale, "level_zero": grid.zero_point}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in settings.items())
    nodes = list(model.graph.node)
    producer = next((place for place, node in enumerate(nodes) if node.output[0] == tensor), None)
    if producer is None:  # the input of the graph: all that read it read the rounded one
        raw, levelled, at = tensor, "levelled", 0
        for node in nodes:
            node.input[:] = [levelled if name == tensor else name for name in node.input]
    else:
        raw, levelled, at = "unlevelled", tensor, producer + 1
        nodes[producer].output[0] = raw
    nodes[at:at] = [
        helper.make_node("QuantizeLinear", [raw, *settings], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", *settings], [levelled]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    return out

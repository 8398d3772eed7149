"""How each 3-D operator is written in the lowered 2-D graph: one function an operator, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from glialite_runtime.errors import UnsupportedOpError

from glialite_export.depth import DepthWindow, Volume, interleave, stack_window, window_planes
from glialite_export.graph import GraphWriter, attributes

__all__ = ["HANDLERS", "UNARY", "Lowering", "refused"]

UNARY: Final = frozenset(
    {
        "Abs", "Clip", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg",
        "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh",
    }
)  # fmt: skip
"""Operators on each value by itself, with constant settings only."""

_ELEMENTWISE: Final = frozenset(["Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"])


@dataclass(frozen=True, slots=True)
class Lowering:
    """One rewrite in progress.

    Attributes
    ----------
    writer : GraphWriter
        Collects the lowered graph.
    values : mapping
        Constants of the native graph by name.
    volumes : dict
        Native tensor name -> lowered volume; grows as nodes are lowered.
    activations : mapping
        Output of a transposed convolution -> the activation function that is written together with it.
    """

    writer: GraphWriter
    values: Mapping[str, npt.NDArray[Any]]
    volumes: dict[str, Volume]
    activations: Mapping[str, onnx.NodeProto]

    def volume(self, node: onnx.NodeProto, place: int = 0) -> Volume:
        """Return the lowered volume of an input."""
        name = node.input[place]
        if name not in self.volumes:
            raise refused(node, f"its input {name!r} is not a volume that the network computes")
        return self.volumes[name]

    def value(self, node: onnx.NodeProto, place: int) -> npt.NDArray[Any] | None:
        """Return a constant input; None when the node leaves it out."""
        if len(node.input) <= place or not node.input[place]:
            return None
        if node.input[place] not in self.values:
            raise refused(node, f"its input {node.input[place]!r} is computed, a constant was needed")
        return self.values[node.input[place]]


def refused(node: onnx.NodeProto, reason: str) -> UnsupportedOpError:
    """Return the error that names a node, its operator and why it cannot be lowered exactly."""
    name = node.name or (node.output[0] if node.output else "")
    return UnsupportedOpError(
        f"cannot lower node {name!r} ({node.op_type}) exactly: {reason}; replace that layer in the network"
    )


def _window(node: onnx.NodeProto, kernel: tuple[int, ...]) -> tuple[DepthWindow, dict[str, Any]]:
    """Split a sliding-window operator into its depth part and the settings of the 2-D operator."""
    settings = attributes(node)
    if len(kernel) != 3:
        raise refused(node, f"its kernel has {len(kernel)} axes, 3 were needed")
    if settings.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise refused(node, f"auto_pad {settings['auto_pad']} depends on the size of the input")
    if settings.get("ceil_mode", 0):
        raise refused(node, "ceil_mode is set")
    strides, dilations = settings.get("strides", [1] * 3), settings.get("dilations", [1] * 3)
    pads = settings.get("pads", [0] * 6)
    if min(pads) < 0:
        raise refused(node, "its padding is negative")
    flat = {
        "kernel_shape": list(kernel[1:]),
        "strides": list(strides[1:]),
        "pads": [*pads[1:3], *pads[4:6]],
    }
    if any(step != 1 for step in dilations):
        flat["dilations"] = list(dilations[1:])
    return DepthWindow(kernel[0], strides[0], dilations[0], pads[0], pads[3]), flat


def _parameters(state: Lowering, node: onnx.NodeProto) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return weight and bias of a convolution, after checking what both kinds need."""
    weight, group = state.value(node, 1), attributes(node).get("group", 1)
    if weight is None or weight.ndim != 5:
        raise refused(node, "its weight must have 5 axes")
    if group != 1:
        raise refused(node, f"it has {group} groups, 1 was needed")
    return weight, state.value(node, 2)


def _conv(state: Lowering, node: onnx.NodeProto) -> Volume:
    source, (weight, bias) = state.volume(node), _parameters(state, node)
    out, into, *kernel = weight.shape
    window, flat = _window(node, tuple(kernel))
    weight2 = weight.transpose(0, 2, 1, 3, 4).reshape(out, kernel[0] * into, *kernel[1:])
    inputs = [stack_window(state.writer, source, window), state.writer.constant(weight2, "weight")]
    if bias is not None:
        inputs.append(state.writer.constant(bias, "bias"))
    return Volume(state.writer.node("Conv", inputs, "conv", **flat), out, window.depth_multiple(source.even))


def _conv_transpose(state: Lowering, node: onnx.NodeProto) -> Volume:
    source, (weight, bias) = state.volume(node), _parameters(state, node)
    into, out, *kernel = weight.shape
    settings = attributes(node)
    plain = (
        list(settings.get("strides", [1] * 3)) == kernel
        and not any(settings.get("pads", [])) and not any(settings.get("output_padding", []))
        and set(settings.get("dilations", [1])) == {1}
        and "output_shape" not in settings and settings.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )  # fmt: skip
    if not plain or kernel[1] != kernel[2]:
        raise refused(node, "kernel = stride, the same in height and width, and no padding were needed")
    # Every output voxel comes from one input voxel: a 1×1 convolution to (kd, kh, kw, out) channels, then moves.
    weight2 = weight.transpose(2, 3, 4, 1, 0).reshape(-1, into, 1, 1)
    inputs = [source.name, state.writer.constant(weight2, "weight")]
    if bias is not None:
        inputs.append(state.writer.constant(np.tile(bias, int(np.prod(kernel))), "bias"))
    result = state.writer.node("Conv", inputs, "conv", kernel_shape=[1, 1])
    if node.output[0] in state.activations:
        result = _write_unary(state, state.activations[node.output[0]], result)
    if kernel[0] > 1:
        result = interleave(state.writer, result, kernel[1] * kernel[2] * out)
    if kernel[1] > 1:
        result = state.writer.node("DepthToSpace", [result], "depth_to_space", blocksize=kernel[1], mode="DCR")
    return Volume(result, out, source.even * kernel[0])


def _write_unary(state: Lowering, node: onnx.NodeProto, source: str) -> str:
    settings = [state.value(node, place) for place in range(1, len(node.input))]
    if any(setting is not None and setting.size != 1 for setting in settings):
        raise refused(node, "its settings must be single numbers")
    inputs = ["" if setting is None else state.writer.constant(setting.reshape(()), "setting") for setting in settings]
    return state.writer.node(node.op_type, [source, *inputs], node.op_type.lower(), **attributes(node))


def _unary(state: Lowering, node: onnx.NodeProto) -> Volume:
    source = state.volume(node)
    if node.input[0] in state.activations:
        return source  # written already, together with the transposed convolution
    return replace(source, name=_write_unary(state, node, source.name))


def _elementwise(state: Lowering, node: onnx.NodeProto) -> Volume:
    volumes = [state.volumes[name] for name in node.input if name in state.volumes]
    channels = max((volume.channels for volume in volumes), default=0)
    if not channels or any(volume.channels not in (1, channels) for volume in volumes):
        raise refused(node, "volumes with equally many channels, or one, were needed")
    inputs = [
        state.volumes[name].name if name in state.volumes else _operand(state, node, place, channels)
        for place, name in enumerate(node.input)
    ]
    result = state.writer.node(node.op_type, inputs, node.op_type.lower(), **attributes(node))
    return Volume(result, channels, max(volume.even for volume in volumes))


def _operand(state: Lowering, node: onnx.NodeProto, place: int, channels: int) -> str:
    """Write a constant operand: one number, or one a channel."""
    value = state.value(node, place)
    if value is None:
        raise refused(node, "an operand is missing")
    if value.size == 1:
        shape: tuple[int, ...] = ()
    elif value.ndim in (4, 5) and value.shape[-4:] == (channels, 1, 1, 1) and value.size == channels:
        shape = (channels, 1, 1)
    else:
        raise refused(node, f"a constant of shape {value.shape} is neither one number nor one a channel")
    return state.writer.constant(value.reshape(shape), "operand")


def _batch_normalization(state: Lowering, node: onnx.NodeProto) -> Volume:
    source = state.volume(node)
    scale, shift, mean, variance = (np.asarray(state.value(node, place), np.float64) for place in range(1, 5))
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    for op, operand in (("Mul", factor), ("Add", shift - mean * factor)):
        value = state.writer.constant(operand.astype(np.float32).reshape(-1, 1, 1), "operand")
        source = replace(source, name=state.writer.node(op, [source.name, value], op.lower()))
    return source


def _concat(state: Lowering, node: onnx.NodeProto) -> Volume:
    if attributes(node)["axis"] not in (1, -4):
        raise refused(node, f"it joins along axis {attributes(node)['axis']}, the channels (1) were needed")
    volumes = [state.volume(node, place) for place in range(len(node.input))]
    name = state.writer.node("Concat", [volume.name for volume in volumes], "concat", axis=1)
    return Volume(name, sum(volume.channels for volume in volumes), max(volume.even for volume in volumes))


def _softmax(state: Lowering, node: onnx.NodeProto) -> Volume:
    if attributes(node).get("axis", -1) not in (1, -4):
        raise refused(node, "it does not run over the channels (axis 1)")
    source = state.volume(node)
    return replace(source, name=state.writer.node("Softmax", [source.name], "softmax", axis=1))


def _max_pool(state: Lowering, node: onnx.NodeProto) -> Volume:
    source, kernel = state.volume(node), tuple(attributes(node)["kernel_shape"])
    window, flat = _window(node, kernel)
    if len(node.output) > 1:
        raise refused(node, "its indices are used")
    if window.dilation != 1 or max(window.before, window.after) >= window.kernel:
        raise refused(node, "it is dilated or padded by a whole kernel")
    pooled = replace(source, name=state.writer.node("MaxPool", [source.name], "max_pool", **flat))
    # Padding with copies of the outermost plane cannot win against that plane, which is in the same window.
    planes = window_planes(state.writer, pooled, replace(window, fill="edge"))
    name = planes[0] if len(planes) == 1 else state.writer.node("Max", planes, "max")
    return Volume(name, source.channels, window.depth_multiple(source.even))


def _average_pool(state: Lowering, node: onnx.NodeProto) -> Volume:
    source, settings = state.volume(node), attributes(node)
    window, flat = _window(node, tuple(settings["kernel_shape"]))
    if any(settings.get("pads", [])) and not settings.get("count_include_pad", 0):
        raise refused(node, "padding is left out of the count (count_include_pad is 0)")
    name = state.writer.node("AveragePool", [source.name], "average_pool", count_include_pad=1, **flat)
    planes = window_planes(state.writer, replace(source, name=name), window)
    name = planes[0]
    if len(planes) > 1:
        share = state.writer.constant(np.float32(1 / window.kernel), "operand")
        name = state.writer.node("Mul", [state.writer.node("Sum", planes, "sum"), share], "mul")
    return Volume(name, source.channels, window.depth_multiple(source.even))


_NEAREST_TWICE: Final = {("asymmetric", "floor"), ("asymmetric", "round_prefer_floor")} | {
    (transform, rounding)
    for transform in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
    for rounding in ("round_prefer_floor", "round_prefer_ceil")
}
"""(coordinate transformation, rounding) under which doubling means to write every value twice."""


def _resize(state: Lowering, node: onnx.NodeProto) -> Volume:
    source, settings, scales = state.volume(node), attributes(node), state.value(node, 2)
    mode, transform = settings.get("mode", "nearest"), settings.get("coordinate_transformation_mode", "half_pixel")
    rounding = settings.get("nearest_mode", "round_prefer_floor")
    if scales is None or scales.size != 5 or {*scales[:2]} != {1.0} or not {*scales[2:]} <= {1.0, 2.0}:
        raise refused(node, "constant factors of 1 or 2 along depth, height and width were needed")
    if settings.get("antialias") or settings.get("exclude_outside") or "axes" in settings:
        raise refused(node, "antialias, exclude_outside and axes are not known")
    nearest = mode == "nearest" and (transform, rounding) in _NEAREST_TWICE
    if not nearest and not (mode == "linear" and transform in ("half_pixel", "pytorch_half_pixel")):
        raise refused(node, f"mode {mode} with coordinates {transform} and rounding {rounding} is not known")
    if scales[2] == 2:
        pair = [source.name] * 2 if nearest else _between_planes(state.writer, source)
        stacked = state.writer.node("Concat", pair, "depth_stack", axis=1)
        source = Volume(interleave(state.writer, stacked, source.channels), source.channels, 2 * source.even)
    if {*scales[3:]} == {1.0}:
        return source
    factors = state.writer.constant(np.array([1, 1, *scales[3:]], np.float32), "factors")
    kept = {"mode": mode, "coordinate_transformation_mode": transform}
    if nearest:
        kept["nearest_mode"] = rounding
    return replace(source, name=state.writer.node("Resize", [source.name, "", factors], "resize", **kept))


def _between_planes(writer: GraphWriter, source: Volume) -> list[str]:
    """Return the planes a quarter of a plane before and behind each plane: linear interpolation, ends repeated."""
    before, same, after = window_planes(writer, source, DepthWindow(3, before=1, after=1, fill="edge"))
    quarter, rest = (writer.constant(np.float32(share), "operand") for share in (0.25, 0.75))
    near = writer.node("Mul", [same, rest], "mul")
    return [writer.node("Add", [near, writer.node("Mul", [other, quarter], "mul")], "add") for other in (before, after)]


HANDLERS: Final[Mapping[str, Callable[[Lowering, onnx.NodeProto], Volume]]] = MappingProxyType(
    {
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalization,
        "Concat": _concat,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "MaxPool": _max_pool,
        "Resize": _resize,
        "Softmax": _softmax,
        **dict.fromkeys(sorted(UNARY), _unary),
        **dict.fromkeys(sorted(_ELEMENTWISE), _elementwise),
    }
)
"""Operator -> the function that lowers it."""

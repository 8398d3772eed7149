"""FP16 of a native 3-D graph, typed the way TensorRT's strongly typed networks want it.

Every weight and activation is float16; a `Cast` at each end keeps image and logits in float32. A float16 ends at 65504:
what is larger becomes infinity, and a mask goes black (MIC-DKFZ/nnUNet#2874). So weights and observed activations are
held against that limit before a graph is written.

Source: NVIDIA, "Strongly Typed Networks" in the TensorRT documentation: types follow from the graph alone.
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

__all__ = ["ACTIVATION_LIMIT", "observed_tensors", "to_fp16"]

_LARGEST: Final = float(np.finfo(np.float16).max)

ACTIVATION_LIMIT: Final = _LARGEST / 4
"""Largest magnitude that an observed activation may have. A network of convolutions and ReLU grows with its input, so
this leaves room for images four times as bright as any that was observed."""


def observed_tensors(native: onnx.ModelProto) -> tuple[str, ...]:
    """Return the tensors whose ranges both GPU graphs need: the input and what every computing node gives.

    `Concat` is left out: it gives what its inputs are.
    """
    computed = [node.output[0] for node in native.graph.node if node.op_type != "Concat"]
    return (native.graph.input[0].name, *computed)


def to_fp16(native: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return the graph in float16 with float32 at its ends.

    Parameters
    ----------
    native : onnx.ModelProto
        FP32 graph with one input and one output.
    ranges : mapping of str to Range
        Smallest and largest value of each tensor of `observed_tensors` over the calibration cases.

    Returns
    -------
    onnx.ModelProto
        Same input, same output.

    Raises
    ------
    ExportError
        A weight is beyond ± 65504, an activation is beyond ± `ACTIVATION_LIMIT` or was not observed; the message names
        every one.
    """
    problems = [
        f"weight {name!r} reaches {_largest(array):.4g} (at most {_LARGEST:g})"
        for name, array in constants(native).items()
        if not _largest(array) <= _LARGEST
    ]
    for name in observed_tensors(native):
        if name not in ranges:
            problems.append(f"activation {name!r} was not observed")
        elif not (reach := np.max([-ranges[name].low, ranges[name].high])) <= ACTIVATION_LIMIT:  # NaN is not
            problems.append(f"activation {name!r} reaches {reach:.4g} (at most {ACTIVATION_LIMIT:g})")
    if problems:
        raise ExportError(
            f"the network does not fit into FP16: {'; '.join(problems)}; train with weight decay or use the CPU bundle"
        )
    return _converted(native)


def _largest(array: npt.NDArray[Any]) -> float:
    return float(np.abs(array).max(initial=0.0)) if array.dtype.kind == "f" else 0.0


def _converted(native: onnx.ModelProto) -> onnx.ModelProto:
    image, logits = native.graph.input[0], native.graph.output[0]
    out = GraphWriter(taken=[image.name, logits.name])
    names = {name: out.constant(_half(array), name) for name, array in constants(native).items()}
    names[image.name] = out.node("Cast", [image.name], "image_fp16", to=onnx.TensorProto.FLOAT16)
    for node in native.graph.node:
        inputs = [names[name] if name else "" for name in node.input]
        names[node.output[0]] = out.node(node.op_type, inputs, node.op_type.lower(), **attributes(node))
    result = out.node("Cast", [names[logits.name]], "logits_fp32", to=onnx.TensorProto.FLOAT)
    out.rename_output(result, logits.name)
    return out.model(f"{native.graph.name}_fp16", {image.name: edges_of(image)}, {logits.name: edges_of(logits)})


def _half(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(np.float16) if array.dtype == np.float32 else array

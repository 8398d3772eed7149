"""An INT8 student as its layers in three dimensions: what the compiled kernels run.

The graph in the file is lowered to two dimensions, for onnxruntime. Its note "glialite.layers", which `edge-export`
writes, says which of its constants belong to which layer; the numbers are the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import BundleIntegrityError
from glialite_runtime.onnx_file import OnnxFile, read_onnx
from glialite_runtime.sequences import REGIONS, SEQUENCES

__all__ = ["BLOCK", "LAYERS_NOTE", "Int8Layer", "Int8Network", "Int8Sum", "read_network"]

LAYERS_NOTE: Final = "glialite.layers"
"""Name of the note in the ONNX file: JSON, `image`, `layers` in order, `joins` and `output`."""

BLOCK: Final = 8
"""Voxels of 2 × 2 × 2."""


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """A convolution on bytes, `target = round(scale · (weight * source + bias)) + zero point`, cut to 0 … 255.

    Attributes
    ----------
    source, target : str
        Names of volumes.
    weight : int8 array (outputs, k, k, k, channels)
        Within ±64.
    bias : int32 array (outputs,)
        The source's zero point is in it.
    scale : float32 array (outputs,)
        From sums of products to levels of the target.
    zero_point : int
        Of the target.
    stride : int
        1 or 2, along all axes.
    raised : bool
        Whether the outputs are blocks of 2 × 2 × 2 voxels (z, y, x, channel) of a target of twice the resolution.
    """

    source: str
    target: str
    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    scale: npt.NDArray[np.float32]
    zero_point: int
    stride: int
    raised: bool


@dataclass(frozen=True, slots=True)
class Int8Sum:
    """The sum of two volumes on a grid of its own: how layers of 13-bit weights, high and low limb, are put together.

    Attributes
    ----------
    sources : tuple of str
        Two volumes of the same shape.
    target : str
        Name of the sum.
    table : uint8 array (256, 256)
        Level of the sum, by the levels of the sources.
    """

    sources: tuple[str, str]
    target: str
    table: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Int8Network:
    """A student's layers.

    Attributes
    ----------
    layers : tuple of Int8Layer and Int8Sum
        In order. The first reads "image": bytes in blocks (z, y, x) of 2 × 2 × 2 voxels, 4 sequences each. The last one
        writes blocks of levels, (region, z, y, x).
    joins : mapping
        Volume -> the volumes that it consists of, side by side as channels.
    image_scale, image_zero_point : float32, int
        ``level = round(value / scale) + zero point``.
    table : float32 array (3, 256)
        Logit of each region and level.
    """

    layers: tuple[Int8Layer | Int8Sum, ...]
    joins: Mapping[str, tuple[str, ...]]
    image_scale: np.float32
    image_zero_point: int
    table: npt.NDArray[np.float32]


def read_network(model: bytes) -> Int8Network | None:
    """Return the layers of an ONNX file; None when the file does not name them.

    Raises
    ------
    BundleIntegrityError
        The note does not fit the constants.
    """
    file = read_onnx(model)
    if LAYERS_NOTE not in file.notes:
        return None
    try:
        return _network(json.loads(file.notes[LAYERS_NOTE]), file)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BundleIntegrityError(
            f"the note {LAYERS_NOTE} does not fit the graph's constants ({error}); copy the bundle again"
        ) from error


def _network(note: dict[str, Any], file: OnnxFile) -> Int8Network:
    constants = file.constants
    image_zero_point = int(constants[note["image"]["zero_point"]])
    output = note["output"]
    layers = [
        _sum(entry, constants) if "sources" in entry else _layer(entry, constants, image_zero_point, output["levels"])
        for entry in note["layers"]
    ]
    levels = np.arange(256, dtype=np.int32) - int(constants[output["zero_point"]])
    table = np.tile(levels.astype(np.float32) * np.float32(constants[output["scale"]]), (len(REGIONS), 1))
    for offset in output["offsets"]:
        table += constants[offset].reshape(-1, 1)
    scale = np.float32(constants[note["image"]["scale"]])
    joins = {name: tuple(parts) for name, parts in note["joins"].items()}
    return Int8Network(tuple(layers), joins, scale, image_zero_point, table)


def _sum(entry: dict[str, Any], constants: Mapping[str, npt.NDArray[Any]]) -> Int8Sum:
    (first, second), levels = entry["sources"], np.arange(256, dtype=np.float64)
    one, other, target = ((float(constants[scale]), int(constants[zero_point])) for scale, zero_point in entry["grids"])
    # Scales are the same times powers of two, so every step of this is exact, as it is in onnxruntime's floats.
    total = one[0] * (levels[:, None] - one[1]) + other[0] * (levels - other[1])
    # The zero point belongs inside the rounding: halves, which are common here, go to the even level, not the even sum.
    table = np.clip(np.rint(total / target[0] + target[1]), 0, 255).astype(np.uint8)
    return Int8Sum((first, second), entry["target"], table)


def _layer(
    entry: dict[str, Any], constants: Mapping[str, npt.NDArray[Any]], image_zero_point: int, levels: list[str]
) -> Int8Layer:
    flat = constants[entry["weight"]]
    outputs, kernel = len(flat), flat.shape[-1]
    # Lowered: planes of the window side by side as channels, (outputs, k · channels, k, k).
    weight = flat.reshape(outputs, kernel, -1, kernel, kernel).transpose(0, 1, 3, 4, 2)
    # In the order in which onnxruntime multiplies, for the same last bit.
    scale = (
        np.float32(constants[entry["source_scale"]])
        * constants[entry["weight_scale"]]
        / np.float32(constants[entry["target_scale"]])
    )
    bias = constants[entry["bias"]] if entry["bias"] else np.zeros(outputs, np.int32)
    if weight.dtype != np.int8 or bias.dtype != np.int32 or not len(bias) == len(scale) == outputs:
        raise ValueError(f"the constants of {entry['target']} are of other kinds or sizes")
    layer = Int8Layer(
        source=entry["source"],
        target=entry["target"],
        weight=np.ascontiguousarray(weight),
        bias=np.ascontiguousarray(bias),
        scale=scale.astype(np.float32),
        zero_point=int(constants[entry["target_zero_point"]]),
        stride=int(entry["stride"]),
        raised=bool(entry["raised"]),
    )
    if layer.source == "image":
        return _on_blocks(layer, image_zero_point)
    return _by_region(layer) if layer.target in levels else layer


def _on_blocks(layer: Int8Layer, zero_point: int) -> Int8Layer:
    """Return the first layer, a kernel of 2 and a stride of 2 on the image, as one of kernel 1 on blocks of it."""
    outputs = len(layer.weight)
    weight = layer.weight.reshape(outputs, 1, 1, 1, BLOCK * len(SEQUENCES))
    bias = layer.bias - zero_point * weight.reshape(outputs, -1).sum(axis=1, dtype=np.int32)
    return Int8Layer(layer.source, layer.target, weight, bias.astype(np.int32), layer.scale, layer.zero_point, 1, False)


def _by_region(layer: Int8Layer) -> Int8Layer:
    """Return the last layer with its outputs, blocks of three regions, ordered by region first."""
    order = np.arange(BLOCK * len(REGIONS)).reshape(BLOCK, len(REGIONS)).T.reshape(-1)
    weight, bias, scale = layer.weight[order], layer.bias[order], layer.scale[order]
    return Int8Layer(layer.source, layer.target, weight, bias, scale, layer.zero_point, 1, False)

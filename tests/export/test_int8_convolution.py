"""Weights in integers: 7 bits, or 13 bits in two limbs that each stay within 7."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from glialite_calibration.ranges import Range
from glialite_export.graph import constants
from glialite_export.grids import Grid
from glialite_export.int8 import observed_tensors, quantize
from glialite_export.int8_convolution import MAX_WEIGHT, MAX_WIDE_WEIGHT, Convolution, rounded
from glialite_export.lower import lower
from glialite_export.onnx_export import export_network
from onnx import ModelProto
from torch import nn

from .conftest import run


def silent_channel() -> tuple[ModelProto, np.ndarray]:
    """Return a convolution whose largest weights read a channel that is always 0, and an input for it."""
    torch.manual_seed(0)
    network = nn.Conv3d(4, 3, 3, padding=1)
    with torch.no_grad():
        network.weight[:, 0] *= 40
    image = np.random.default_rng(0).uniform(-1, 1, (6, 4, 10, 12)).astype(np.float32)
    image[:, 0] = 0
    return lower(export_network(network.eval(), 4, 1)), image


@pytest.mark.parametrize("largest", [MAX_WEIGHT, MAX_WIDE_WEIGHT])
def test_weights_fill_their_levels(largest: int) -> None:
    """The largest weight of each channel is the last level, and no weight is off by more than half a step."""
    weight = np.random.default_rng(1).normal(size=(5, 4, 3, 3)).astype(np.float32)
    levels, scales = rounded(Convolution(weight, None, Grid(np.float32(0.1), np.uint8(0)), {}), largest)
    assert (np.abs(levels).reshape(5, -1).max(axis=1) == largest).all()
    assert (np.abs(levels * scales.reshape(-1, 1, 1, 1) - weight) <= 0.5001 * scales.reshape(-1, 1, 1, 1)).all()


def test_both_limbs_stay_within_seven_bits() -> None:
    """A wide layer saturates on no processor either, and its limbs are the 13-bit weight."""
    lowered, _ = silent_channel()
    spans = dict.fromkeys(observed_tensors(lowered), Range(-4.0, 4.0))
    values = constants(quantize(lowered, spans, wide=[node.output[0] for node in lowered.graph.node]))
    limbs = [array.astype(int) for name, array in sorted(values.items()) if name.startswith("weight_levels")]
    weight = next(array for array in constants(lowered).values() if array.ndim == 4)
    expected, _ = rounded(Convolution(weight, None, Grid(np.float32(8 / 255), np.uint8(128)), {}), MAX_WIDE_WEIGHT)
    assert max(np.abs(limb).max() for limb in limbs) <= MAX_WEIGHT
    np.testing.assert_array_equal(64 * limbs[0] + limbs[1], expected)


def test_wide_weights_cure_a_layer_that_seven_bits_break() -> None:
    """Where weights that read nothing make the levels coarse, 13 bits leave little but the activations' rounding."""
    lowered, image = silent_channel()
    expected = run(lowered, image)
    spans = dict.fromkeys(observed_tensors(lowered), Range(float(expected.min()), float(expected.max())))
    errors = [
        float(np.square(run(quantize(lowered, spans, wide=wide), image) - expected).mean())
        for wide in ((), [node.output[0] for node in lowered.graph.node])
    ]
    assert errors[1] < errors[0] / 10

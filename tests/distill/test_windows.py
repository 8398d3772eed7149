"""The sliding window: no trace of windows, full precision, mirrorings one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from glialite_distill.windows import MIRRORINGS, Window, mirrored_logits, sliding_window
from glialite_runtime.errors import ConfigError
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from tests.distill.small_networks import CPU, WINDOW, Pointwise, Ramp, image_of


@pytest.mark.parametrize("shape", [(16, 16, 16), (33, 20, 47), (9, 16, 30)])
@pytest.mark.parametrize("step", [0.5, 0.3])
def test_windows_leave_no_trace(shape: tuple[int, int, int], step: float) -> None:
    """A network without context gives the same with and without windows, also when the case is smaller than one."""
    image = image_of(shape)
    logits = sliding_window(Pointwise(), image, Window((16, 16, 16), step), CPU)
    np.testing.assert_allclose(logits, image[:3] * 2, atol=1e-5)


def test_windows_are_weighted_in_full_precision() -> None:
    """Where two windows overlap in a corner, weights of 1e-6 still decide; in FP16 they would all be equal."""
    logits = sliding_window(Ramp(), image_of((16, 16, 24)), WINDOW, CPU)
    weight = compute_gaussian((16, 16, 16), 1 / 8, 10, torch.float64, CPU).numpy()
    total, weights = np.zeros((16, 16, 24)), np.zeros((16, 16, 24))
    for start in (0, 8):
        total[..., start : start + 16] += weight * np.arange(16)
        weights[..., start : start + 16] += weight
    np.testing.assert_allclose(logits[0], total / weights, atol=1e-3)


def test_mirroring_averages_both_directions() -> None:
    """A ramp and its mirror image make a constant."""
    image = image_of((16, 16, 16))
    logits = sliding_window(Ramp(), image, Window((16, 16, 16), tta=True), CPU)
    np.testing.assert_allclose(logits, 7.5, atol=1e-5)
    assert np.ptp(sliding_window(Ramp(), image, WINDOW, CPU)) == pytest.approx(15)


def test_every_mirroring_comes_out_turned_back() -> None:
    """Eight, the first unmirrored; a ramp along x is upright in the four that leave x alone, reversed in the others."""
    image = image_of((16, 16, 16))
    found = list(mirrored_logits(Ramp(), image, Window((16, 16, 16), tta=True), CPU))
    upright = [bool(np.allclose(logits, np.arange(16), atol=1e-5)) for logits in found]
    reverse = [bool(np.allclose(logits, np.arange(16)[::-1], atol=1e-5)) for logits in found]
    assert upright == [4 not in axes for axes in MIRRORINGS]
    assert reverse == [4 in axes for axes in MIRRORINGS]
    assert (len(found), MIRRORINGS[0]) == (8, ())
    assert len(list(mirrored_logits(Ramp(), image, WINDOW, CPU))) == 1


@pytest.mark.parametrize("step", [0.0, -0.5, 1.5, float("nan")])
def test_a_step_that_is_no_share_is_refused(step: float) -> None:
    """It would loop for ever or leave voxels out."""
    with pytest.raises(ConfigError, match="not in"):
        Window((16, 16, 16), step)

"""Calibration error and Brier score, by hand and on probabilities that are true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_calibration.reliability import BINS, reliability
from glialite_calibration.temperature import fit_temperatures, sigmoid

from .test_temperature import counted


def test_error_and_brier_score_by_hand() -> None:
    """Ten voxels at 0.9 with seven right, ten at 0.1 with one: |0.9 − 0.7| / 2, and 0.25 and 0.09 halved."""
    logits = np.repeat([math.log(9), -math.log(9)], 10)
    positive = np.array([True] * 7 + [False] * 3 + [True] + [False] * 9)
    found = reliability(counted(logits, positive))[0]
    assert found.ece == pytest.approx(0.1)
    assert found.brier == pytest.approx(0.17)
    assert found.voxels == 20
    assert found.counted[1] == found.counted[13] == 10
    assert found.probability[13] == pytest.approx(0.9)
    assert found.frequency[13] == pytest.approx(0.7)
    assert math.isnan(found.frequency[7])


def test_true_probabilities_have_next_to_no_error() -> None:
    """The truth is drawn with the very probabilities; thrice the logits are far off, and a temperature mends them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, 200_000)
    positive = rng.random(200_000) < sigmoid(logits)
    assert reliability(counted(logits, positive))[0].ece < 0.005
    loud = counted(3 * logits, positive)
    assert reliability(loud)[0].ece > 0.08
    mended = reliability(loud, fit_temperatures(loud))[0]
    assert mended.ece < 0.005
    assert mended.brier < reliability(loud)[0].brier


def test_the_counts_give_what_the_voxels_give() -> None:
    """Error and Brier score of binned logits equal those of the voxels to 0.001."""
    rng = np.random.default_rng(1)
    logits = rng.normal(-2, 3, 20_000)
    positive = rng.random(20_000) < sigmoid(logits / 2)
    said = sigmoid(logits.astype(np.float32).astype(float))
    at = np.minimum((said * BINS).astype(int), BINS - 1)
    ece = sum(abs(said[at == b].mean() - positive[at == b].mean()) * np.mean(at == b) for b in range(BINS))
    found = reliability(counted(logits, positive))[0]
    assert found.ece == pytest.approx(ece, abs=1e-3)
    assert found.brier == pytest.approx(np.mean((said - positive) ** 2), abs=1e-3)


def test_no_voxel_has_no_error() -> None:
    """NaN, not 0: nothing was seen."""
    found = reliability(counted(np.zeros(0), np.zeros(0, np.bool_)))[0]
    assert found.voxels == 0
    assert math.isnan(found.ece)
    assert math.isnan(found.brier)

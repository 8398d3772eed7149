"""Uncertain voxels: counted from bands of logits, by hand and with an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from glialite_runtime.bundle import read_bundle
from glialite_runtime.engine import open_engine
from glialite_runtime.uncertainty import UNCERTAIN_LOGIT, bands_of, uncertainty


def test_a_probability_from_a_quarter_to_three_quarters_is_uncertain() -> None:
    """For a threshold of 0.5; the limits themselves are clear."""
    probabilities = np.array([0.2, 0.26, 0.49, 0.51, 0.74, 0.8], np.float32)
    logits = np.tile(np.log(probabilities / (1 - probabilities)), (3, 1, 1, 1))
    np.testing.assert_array_equal(bands_of(logits, (0, 0, 0), UNCERTAIN_LOGIT)[0, 0, 0], [0, 1, 1, 2, 2, 3])


def bands(possible: int, sure: int) -> np.ndarray:
    band = np.zeros(1000, np.uint8)
    band[:possible], band[:sure] = 1, 3
    return np.tile(band.reshape(10, 10, 10), (3, 1, 1, 1))


def labels(enhancing: int) -> np.ndarray:
    out = np.zeros(1000, np.uint8)
    out[:enhancing] = 3
    return out.reshape(10, 10, 10)


def test_the_share_is_of_all_that_may_be_the_region() -> None:
    """400 voxels of 1 mm³ may be tumour, 300 surely are: 0.1 mL, a quarter."""
    assert uncertainty(bands(400, 300), labels(300), 1.0)["WT"] == {"ml": 0.1, "share": 0.25, "review": False}


def test_what_was_decided_away_is_not_in_doubt() -> None:
    """100 of 300 sure voxels became nothing: of the 300 that may be tumour a third is uncertain."""
    assert uncertainty(bands(400, 300), labels(200), 1.0)["TC"] == {"ml": 0.1, "share": 0.3333, "review": False}


@pytest.mark.parametrize(("possible", "sure", "review"), [(600, 450, True), (600, 500, False), (50, 0, False)])
def test_a_large_share_is_flagged_unless_it_is_tiny(possible: int, sure: int, review: bool) -> None:
    """More than a fifth, and more than 0.1 mL."""
    assert uncertainty(bands(possible, sure), labels(sure), 1.0)["ET"]["review"] is review


def test_nothing_possible_is_not_uncertain() -> None:
    """No division by zero; without contrast only the whole tumour is told of."""
    found = uncertainty(bands(0, 0), labels(0), 1.0, has_t1c=False)
    assert found == {"WT": {"ml": 0.0, "share": 0.0, "review": False}}


def test_an_engine_gives_the_bands_of_its_logits(make_bundle: Callable[..., Path]) -> None:
    """Two and three are what lies above the thresholds."""
    engine = open_engine(read_bundle(make_bundle()), 1)
    image = np.random.default_rng(0).normal(size=(4, 8, 8, 8)).astype(np.float32)
    found = engine.bands(image, (-6.0, -8.0, -14.0), 1.0)
    np.testing.assert_array_equal(found, bands_of(engine.logits(image), (-6.0, -8.0, -14.0), 1.0))
    np.testing.assert_array_equal(found >= 2, engine.above(image, (-6.0, -8.0, -14.0)))

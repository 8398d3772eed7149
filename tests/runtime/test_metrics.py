"""Dice and volumes against hand-derived values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.measure import lesions, volumes_ml
from glialite_runtime.metrics import dice, dice_per_region
from glialite_runtime.sequences import to_brats2023
from hypothesis import given
from hypothesis import strategies as st


def test_dice_of_a_hand_counted_pair() -> None:
    """2 common voxels of 3 and 4: 2·2 / 7."""
    first = np.array([1, 1, 1, 0, 0, 0], bool)
    second = np.array([0, 1, 1, 1, 1, 0], bool)
    assert dice(first, second) == pytest.approx(4 / 7)


def test_dice_of_empty_masks() -> None:
    """Both empty has no answer; one empty is a miss."""
    empty, full = np.zeros(4, bool), np.ones(4, bool)
    assert math.isnan(dice(empty, empty))
    assert dice(empty, full) == 0


def test_dice_of_different_shapes_is_an_error() -> None:
    """Broadcasting would give a number that means nothing."""
    with pytest.raises(ValueError, match="shapes"):
        dice(np.ones(3, bool), np.ones((3, 1), bool))


@given(seed=st.integers(0, 1000))
def test_dice_is_symmetric(seed: int) -> None:
    """Which of the two is the reference does not matter."""
    first, second = np.random.default_rng(seed).random((2, 50)) > 0.6
    assert dice(first, second) == dice(second, first) or (not first.any() and not second.any())


def test_regions_are_compared_as_unions_of_labels() -> None:
    """Core and enhancement confused: WT and TC are perfect, ET is not."""
    reference = np.array([[[0, 1, 2, 3]]])
    prediction = np.array([[[0, 3, 2, 1]]])
    assert dice_per_region(prediction, reference) == (1.0, 1.0, 0.0)


def test_volumes_are_voxels_times_their_size() -> None:
    """Two voxels of 8 mm³ are 0.016 mL; regions are unions."""
    labels = np.array([[[1, 2, 3, 3]]], np.uint8)
    assert volumes_ml(labels, 8.0) == {"WT": 0.032, "TC": 0.024, "ET": 0.016}
    assert volumes_ml(labels, 8.0, has_t1c=False) == {"WT": 0.032, "TC": None, "ET": None}


def test_lesions_come_largest_first_with_their_regions() -> None:
    """Two components: 8 voxels with an enhancing one in it, and 1."""
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[7, 7, 7] = 2
    labels[1:3, 1:3, 1:3] = 2
    labels[1, 1, 1] = 3
    first, second = lesions(labels, 1.0)
    assert first.volumes_ml == {"WT": 0.008, "TC": 0.001, "ET": 0.001}
    assert first.centre_zyx == (1.5, 1.5, 1.5)
    assert (second.volumes_ml["WT"], second.centre_zyx) == (0.001, (7.0, 7.0, 7.0))


def test_no_tumour_has_no_lesions() -> None:
    """An empty map is an empty list."""
    assert lesions(np.zeros((4, 4, 4), np.uint8), 1.0) == ()


@pytest.mark.parametrize(
    ("convention", "values", "expected"),
    [
        ("brats2023", [0, 1, 2, 3], [0, 1, 2, 3]),
        ("brats2021", [0, 1, 2, 4], [0, 1, 2, 3]),
        ("ssa-paper", [0, 1, 2, 3], [0, 3, 1, 2]),
        ("brats2013", [0, 1, 2, 3, 4], [0, 1, 2, 1, 3]),
    ],
)
def test_label_conventions(convention: str, values: list[int], expected: list[int]) -> None:
    """Each declared convention becomes BraTS-2023 values, also from a file of floats."""
    assert to_brats2023(np.array(values, np.float32), convention).tolist() == expected


def test_a_value_outside_the_convention_is_refused() -> None:
    """A 4 under brats2023 means that the wrong convention was declared."""
    with pytest.raises(InputError, match="value 4"):
        to_brats2023(np.array([0, 4]), "brats2023")
    with pytest.raises(InputError, match=r"value 0\.5"):
        to_brats2023(np.array([0, 0.5]), "brats2023")
    with pytest.raises(ConfigError, match="unknown label convention"):
        to_brats2023(np.array([0]), "mine")

"""What a label map shows: side, position, lesions and diameters in the words of a report."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_runtime.findings import Frame, findings_of

FRAME = Frame((1.0, 1.0, 1.0), 1.0, ((0, 0, 0), (60, 90, 80)))


def block(z: int, y: int, x: int, size: int = 6) -> np.ndarray:
    labels = np.zeros((60, 90, 80), np.uint8)
    labels[z : z + size, y : y + size, x : x + size] = 2
    return labels


@pytest.mark.parametrize(("x", "side"), [(60, "left"), (10, "right"), (37, "both")])
def test_the_side_is_the_patients(x: int, side: str) -> None:
    """In LPS a high x is the patient's left; a lesion across the middle is on both sides."""
    found = findings_of(block(20, 20, x), FRAME, has_t1c=True)
    assert found["hemisphere"] == side
    assert found["lesions"][0]["side"] == side


def test_the_midline_is_the_middle_of_the_brain_not_of_the_image() -> None:
    """A head that lies to one side of the image."""
    frame = Frame((1.0, 1.0, 1.0), 1.0, ((0, 0, 0), (60, 90, 40)))
    assert findings_of(block(20, 20, 28), frame, has_t1c=True)["hemisphere"] == "left"


@pytest.mark.parametrize(
    ("z", "y", "depth", "height"), [(2, 2, "front", "lower"), (27, 42, "middle", "middle"), (50, 80, "back", "upper")]
)
def test_positions_are_thirds_of_the_brain(z: int, y: int, depth: str, height: str) -> None:
    """In LPS low y is the front and low z the bottom."""
    lesion = findings_of(block(z, y, 20), FRAME, has_t1c=True)["lesions"][0]
    assert (lesion["depth"], lesion["height"]) == (depth, height)


def test_lesions_are_numbered_from_the_largest_and_specks_counted() -> None:
    """Under 0.05 mL a component is counted, not listed."""
    labels = block(10, 10, 10, 5) | block(30, 40, 50, 8)
    labels[50, 80, 5] = 2
    found = findings_of(labels, FRAME, has_t1c=True)
    assert [(x["number"], x["side"]) for x in found["lesions"]] == [(1, "left"), (2, "right")]
    assert found["lesions_not_listed"] == 1


def test_diameters_say_their_slice_in_the_whole_image() -> None:
    """Not in the box around the tumour."""
    labels = block(30, 40, 50)
    labels[33, 38:50, 48:60] = 3
    found = findings_of(labels, FRAME, has_t1c=True)["diameters"]
    assert (found["WT"]["slice_z"], found["ET"]["slice_z"]) == (33, 33)


def test_an_empty_map_has_no_side_and_no_diameters() -> None:
    """Nothing is invented."""
    found = findings_of(np.zeros((60, 90, 80), np.uint8), FRAME, has_t1c=True)
    assert (found["hemisphere"], found["left_share"], found["lesions"]) == ("none", None, [])
    assert found["diameters"] == {"WT": None, "ET": None}


def test_without_contrast_nothing_is_said_of_enhancement() -> None:
    """Volume and diameters are None, not 0."""
    found = findings_of(block(30, 40, 50), FRAME, has_t1c=False)
    assert found["volumes_ml"]["ET"] is None
    assert found["diameters"]["ET"] is None

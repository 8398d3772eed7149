"""Run-length codes: the order of voxels, round trips, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.run_length import decode_runs, encode_runs, write_submission
from glialite_runtime.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

from tests.distill.test_label_maps import blob, write


def test_voxels_are_numbered_from_one_along_the_first_axis() -> None:
    """In an array of 3 × 2 × 2, (2, 0, 0) and (0, 1, 0) are voxels 3 and 4; (1, 1, 1) is 11."""
    mask = np.zeros((3, 2, 2), bool)
    mask[2, 0, 0] = mask[0, 1, 0] = mask[1, 1, 1] = True
    assert encode_runs(mask) == "3 2 11 1"


def test_nothing_and_everything() -> None:
    """An empty mask is an empty text, a full one a single run."""
    assert encode_runs(np.zeros((2, 2, 2), bool)) == ""
    assert encode_runs(np.ones((2, 2, 2), bool)) == "1 8"
    assert not decode_runs("", (2, 2, 2)).any()


@given(seed=st.integers(0, 1000), density=st.floats(0, 1))
def test_codes_come_back_as_masks(seed: int, density: float) -> None:
    """Encoding and decoding is exact, whatever the memory order of the array."""
    mask = np.random.default_rng(seed).random((4, 3, 5)) < density
    np.testing.assert_array_equal(decode_runs(encode_runs(mask), (4, 3, 5)), mask)
    np.testing.assert_array_equal(decode_runs(encode_runs(np.asfortranarray(mask)), (4, 3, 5)), mask)


@pytest.mark.parametrize("code", ["1", "0 1", "1 9", "8 2", "1 0", "a b", "-1 2"])
def test_damaged_codes_are_refused(code: str) -> None:
    """Odd counts, words, and runs outside of eight voxels."""
    with pytest.raises(InputError):
        decode_runs(code, (2, 2, 2))


def test_a_submission_has_a_row_a_case_and_label(tmp_path: Path) -> None:
    """Label values of another convention are written as BraTS-2023 ones, and come back."""
    labels = blob()
    labels[labels == 3] = 4
    write_submission(tmp_path / "s.csv", {"P1": write(tmp_path / "P1.nii.gz", labels)}, "brats2021")
    with (tmp_path / "s.csv").open() as stream:
        rows = {r["id"]: r["rle"] for r in csv.DictReader(stream)}
    assert list(rows) == ["P1_1", "P1_2", "P1_3"]
    restored = sum(value * decode_runs(rows[f"P1_{value}"], (5, 6, 7)) for value in (1, 2, 3))
    np.testing.assert_array_equal(restored, blob())


def test_unreadable_maps_leave_no_submission(tmp_path: Path) -> None:
    """Every one is named."""
    maps = {case: tmp_path / f"{case}.nii.gz" for case in ("P1", "P2")}
    with pytest.raises(InputError, match=r"P1: .*\n.*P2: "):
        write_submission(tmp_path / "s.csv", maps, "brats2023")
    assert not (tmp_path / "s.csv").exists()

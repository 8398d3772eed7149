"""Slices for the page: the right way round, with the labels where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from glialite_runtime.cases import find_case
from glialite_runtime.clinic.viewer import Scan, cut, describe, load_scan
from glialite_runtime.errors import CheckFailedError, InputError

from tests.conftest import save, toy, write_case


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    write_case(tmp_path / "P01", toy())
    return load_scan(find_case(tmp_path / "P01"), tmp_path / "P01" / "P01-seg.nii.gz")


def planes(scan: Scan, sequence: str, plane: str, at: int) -> tuple[np.ndarray, np.ndarray]:
    size = describe(scan)["planes"][plane]
    both = np.frombuffer(cut(scan, sequence, plane, at), np.uint8).reshape(2, size["rows"], size["columns"])
    return both[0], both[1]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_slice_is_the_image_and_its_labels(scan: Scan, plane: str) -> None:
    """Brighter voxels are brighter, outside is 0, the labels are the label map's, the head is up."""
    facts = describe(scan)["planes"][plane]
    grey, labels = planes(scan, "t1c", plane, facts["start"])
    axis = {"axial": 0, "coronal": 1, "sagittal": 2}[plane]
    within = list(scan.box)
    within[axis] = slice(facts["start"], facts["start"] + 1)
    image = scan.volume.channels[1][tuple(within)].squeeze(axis)
    expected = scan.labels[tuple(within)].squeeze(axis)
    turn = slice(None, None, 1 if plane == "axial" else -1)
    np.testing.assert_array_equal(labels, expected[turn])
    np.testing.assert_array_equal(grey == 0, image[turn] == 0)
    assert grey[labels == 3].mean() > grey[labels == 2].mean() + 50
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_the_crop_loses_no_brain(scan: Scan) -> None:
    """Every voxel that is not 0 is shown, and the cut is smaller than the image."""
    inside = np.zeros(scan.labels.shape, bool)
    inside[scan.box] = True
    assert inside[scan.volume.channels[0] != 0].all()
    assert not inside.all()


def test_raw_scans_are_laid_on_their_reference(tmp_path: Path) -> None:
    """One stored upside down and moved by 3 mm lies under the outline again; the reference is left as it is."""
    case, moved = toy(), np.eye(4)
    write_case(tmp_path / "P01", case)
    moved[0, 3] = 3.0
    turned = case.affine @ np.diag([1.0, 1.0, -1.0, 1.0])
    turned[:3, 3] = (case.affine @ [0, 0, case.labels.shape[2] - 1, 1])[:3]
    save(tmp_path / "P01" / "P01-t2f.nii.gz", case.images["t2f"][:, :, ::-1], moved @ turned)
    alignment = {
        "reference": "t1c",
        "to_scan_mm": {s: (moved if s == "t2f" else np.eye(4)).tolist() for s in case.images},
    }
    labels = tmp_path / "P01" / "P01-seg.nii.gz"
    shown = load_scan(find_case(tmp_path / "P01"), labels, alignment).volume
    write_case(tmp_path / "P01", case)
    straight = load_scan(find_case(tmp_path / "P01"), labels).volume
    for sequence, channel, expected in zip(shown.sequences, shown.channels, straight.channels, strict=True):
        np.testing.assert_allclose(channel, expected, atol=0 if sequence == "t1c" else 0.5)


def test_a_label_map_of_another_grid_is_refused(tmp_path: Path) -> None:
    """Its outline would lie on the wrong place."""
    case = toy()
    write_case(tmp_path / "P01", case)
    save(tmp_path / "P01" / "P01-seg.nii.gz", case.labels[:-1], case.affine)
    with pytest.raises(CheckFailedError, match="does not lie on"):
        load_scan(find_case(tmp_path / "P01"), tmp_path / "P01" / "P01-seg.nii.gz")


@pytest.mark.parametrize("asked", [("t1x", "axial", 1), ("t1c", "up", 1), ("t1c", "axial", 48), ("t1c", "axial", -1)])
def test_what_does_not_exist_is_refused(scan: Scan, asked: tuple[str, str, int]) -> None:
    """Sequence, plane, slice."""
    with pytest.raises(InputError, match="no slice"):
        cut(scan, *asked)

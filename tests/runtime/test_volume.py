"""Orientation and agreement of the sequences of a case."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_runtime.cases import find_case
from glialite_runtime.errors import GeometryError
from glialite_runtime.volume import Orientation, load_volume

from tests.conftest import save, toy, write_case

CODES = [
    "".join(axis[i] for axis, i in zip(order, ends, strict=True))
    for order in permutations(("LR", "AP", "IS"))
    for ends in product((0, 1), repeat=3)
]


@pytest.mark.parametrize("codes", CODES)
def test_every_orientation_reads_as_the_same_lps_volume(codes: str) -> None:
    """All 48 ways to store an image give nibabel's LPS array, and back again."""
    data = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])  # LPS
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(codes)))
    stored = nib.Nifti1Image(data, affine).as_reoriented(turn)
    orientation = Orientation.of(stored.affine)
    lps = orientation.to_lps(np.asarray(stored.dataobj))
    np.testing.assert_array_equal(lps, data.transpose(2, 1, 0))
    np.testing.assert_array_equal(orientation.from_lps(lps), np.asarray(stored.dataobj))


def test_sequences_stored_in_different_axes_are_one_volume(case_folder: Path) -> None:
    """A T2 stored in RAS beside three sequences in LPS lies on the same grid."""
    path = case_folder / "P01-t2w.nii.gz"
    straight = load_volume(find_case(case_folder))
    image = nib.as_closest_canonical(nib.load(path))
    nib.save(image, path)
    turned = load_volume(find_case(case_folder))
    for first, second in zip(straight.channels, turned.channels, strict=True):
        np.testing.assert_array_equal(first, second)


def test_spacing_is_in_array_order_and_voxel_volume_in_mm3(tmp_path: Path) -> None:
    """Spacing comes as z, y, x."""
    for sequence in ("t1n", "t1c"):
        save(tmp_path / "P" / f"P-{sequence}.nii.gz", np.ones((4, 5, 6), np.int16), np.diag([-1.0, -2.0, 3.0, 1.0]))
    volume = load_volume(find_case(tmp_path / "P"))
    assert volume.spacing_mm == (3, 2, 1)
    assert volume.voxel_mm3 == pytest.approx(6)


def test_a_shifted_affine_is_refused_with_its_distance(case_folder: Path) -> None:
    """Sequences that are not registered are not segmented."""
    case = toy()
    moved = case.affine.copy()
    moved[0, 3] += 5
    save(case_folder / "P01-t2f.nii.gz", case.images["t2f"], moved)
    with pytest.raises(GeometryError, match=r"P01-t2f.*5\.0 mm"):
        load_volume(find_case(case_folder))


def test_a_different_shape_is_refused(case_folder: Path) -> None:
    """A cropped sequence is named together with the one that it does not fit."""
    case = toy()
    save(case_folder / "P01-t2f.nii.gz", case.images["t2f"][:-1], case.affine)
    with pytest.raises(GeometryError, match=r"P01-t2f.*P01-t1n"):
        load_volume(find_case(case_folder))


def test_the_reference_is_the_first_sequence(tmp_path: Path) -> None:
    """The label map gets T1's geometry when it is there."""
    volume = load_volume(find_case(write_case(tmp_path / "P", toy())))
    assert volume.reference.path.name == "P-t1n.nii.gz"
    assert volume.sequences == ("t1n", "t1c", "t2w", "t2f")


def test_sequences_that_are_too_large_together_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    """Four headers of 300 × 300 × 300 with nothing behind them: said from the headers alone."""
    header = nib.Nifti1Header()
    header.set_data_shape((300, 300, 300))
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
    header["pixdim"][1:4], header["vox_offset"], header["magic"] = 1, 352, b"n+1"
    (tmp_path / "P").mkdir()
    for sequence in ("t1n", "t1c", "t2w", "t2f"):
        (tmp_path / "P" / f"P-{sequence}.nii").write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(GeometryError, match="108,000,000 voxels together"):
        load_volume(find_case(tmp_path / "P"))

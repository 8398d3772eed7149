"""Which label maps are compared, and what is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from glialite_distill.label_maps import Model, find_label_maps, find_pairs, parse_models, read_pair
from glialite_runtime.errors import ConfigError, GeometryError, InputError

from tests.conftest import save

BRATS = ("brats2023", "brats2023")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(path: Path, labels: np.ndarray, affine: np.ndarray = LPS) -> Path:
    """Write a label map (x, y, z)."""
    return save(path, labels.astype(np.uint8), affine)


def blob(shape: tuple[int, int, int] = (5, 6, 7)) -> np.ndarray:
    """Return a label map without symmetry."""
    return np.arange(np.prod(shape)).reshape(shape) % 4


def test_a_folder_may_be_flat_or_of_case_folders(tmp_path: Path) -> None:
    """All three names are found, by case."""
    for name in ("A.nii.gz", "B-seg.nii.gz", "C/C-seg.nii.gz"):
        write(tmp_path / name, blob())
    assert sorted(find_label_maps(tmp_path)) == ["A", "B", "C"]


def test_litter_and_scans_are_passed_over(tmp_path: Path) -> None:
    """What a Mac leaves on a stick, and the sequences beside a label map, are no label maps."""
    write(tmp_path / "A-seg.nii.gz", blob())
    write(tmp_path / "A-t1c.nii.gz", blob())
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "._A-seg.nii.gz").write_bytes(b"\0")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "A-seg.nii.gz").write_bytes(b"\0")
    assert list(find_label_maps(tmp_path)) == ["A"]


def test_two_files_for_one_case_are_refused(tmp_path: Path) -> None:
    """No choice is made between them, and every such case is named."""
    for case in ("P1", "P2"):
        write(tmp_path / f"{case}.nii.gz", blob())
        write(tmp_path / case / f"{case}-seg.nii.gz", blob())
    with pytest.raises(InputError, match=r"label map of P1; .* label map of P2"):
        find_label_maps(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """The message says which names are looked for."""
    with pytest.raises(InputError, match=r"-seg\.nii\.gz"):
        find_label_maps(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        find_label_maps(tmp_path / "nowhere")


def test_pairs_and_what_is_missing(tmp_path: Path) -> None:
    """Every model's gaps are named; predictions without a reference are left alone."""
    for name in ("t/A", "t/B", "p/A", "p/Z", "q/B"):
        write(tmp_path / f"{name}.nii.gz", blob())
    models = (Model("p", tmp_path / "p"), Model("q", tmp_path / "q"))
    pairs, problems = find_pairs(tmp_path / "t", models)
    assert [(m.name, case) for m, case, *_ in pairs] == [("p", "A"), ("q", "B")]
    assert [p.split("no label map for ")[1] for p in problems] == ["B", "A"]


def test_models_are_named_by_folder_or_by_hand(tmp_path: Path) -> None:
    """NAME=DIR gives a name, a bare folder its own, and a folder with = in its name is a folder."""
    odd = tmp_path / "a=b"
    odd.mkdir()
    plain, named = parse_models([str(tmp_path / "one"), f"long-run={tmp_path}"])
    assert (plain.name, named.name, named.folder) == ("one", "long-run", tmp_path)
    with pytest.raises(ConfigError, match="NAME=DIR"):
        parse_models([str(odd)])
    assert parse_models([f"x={odd}"])[0] == Model("x", odd)


@pytest.mark.parametrize("texts", [["a/p", "b/p"], ["x/y=p"], []])
def test_names_that_cannot_be_told_apart_or_written_are_refused(texts: list[str]) -> None:
    """Two of a name, one that is a path, none at all."""
    with pytest.raises(ConfigError, match="one name each"):
        parse_models(texts)


def test_axes_follow_the_headers(tmp_path: Path) -> None:
    """A prediction stored the other way round is turned to the reference's axes."""
    reference = write(tmp_path / "t.nii.gz", blob())
    turned = np.diag([1.0, 1.0, 1.0, 1.0])
    turned[:3, 3] = [-4, -5, 0]
    prediction = write(tmp_path / "p.nii.gz", blob()[::-1, ::-1], turned)
    pair = read_pair(reference, prediction, BRATS)
    np.testing.assert_array_equal(pair.reference, blob())
    np.testing.assert_array_equal(pair.prediction, blob())


def test_spacing_belongs_to_the_stored_axes(tmp_path: Path) -> None:
    """A sagittal file of 3 mm slices, in the order of its own axes."""
    affine = np.array([[0, 0, -3.0, 0], [-1.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]])
    path = write(tmp_path / "t.nii.gz", blob(), affine)
    pair = read_pair(path, path, BRATS)
    assert pair.spacing_mm == (1.0, 2.0, 3.0)
    assert pair.voxel_mm3 == 6.0
    np.testing.assert_array_equal(pair.reference, blob())
    np.testing.assert_array_equal(pair.prediction, blob())


def test_another_origin_is_accepted(tmp_path: Path) -> None:
    """Published label maps carry foreign ones; their voxels agree."""
    shifted = LPS.copy()
    shifted[:3, 3] = [0, 239, 0]
    reference, prediction = write(tmp_path / "t.nii.gz", blob()), write(tmp_path / "p.nii.gz", blob(), shifted)
    pair = read_pair(reference, prediction, BRATS)
    np.testing.assert_array_equal(pair.reference, pair.prediction)


def test_a_real_header_mismatch_is_accepted(real_data: Path) -> None:
    """A label map and a scan of one real case have different origins; the pair is read."""
    folder = real_data / "BraTS-GLI-00001-000"
    seg, scan = folder / "BraTS-GLI-00001-000-seg.nii.gz", folder / "BraTS-GLI-00001-000-t1c.nii.gz"
    origins = [nibabel.load(p).affine[:3, 3] for p in (seg, scan)]
    assert not np.allclose(*origins)
    assert read_pair(seg, seg, BRATS).reference.shape == nibabel.load(scan).shape


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [((5, 6, 8), LPS, "shape"), ((5, 6, 7), np.diag([-1.0, -1.0, 2.0, 1.0]), "voxel sizes")],
)
def test_other_grids_are_refused(shape: tuple[int, int, int], affine: np.ndarray, message: str, tmp_path: Path) -> None:
    """Shape and voxel size must agree."""
    reference, prediction = write(tmp_path / "t.nii.gz", blob()), write(tmp_path / "p.nii.gz", blob(shape), affine)
    with pytest.raises(GeometryError, match=message):
        read_pair(reference, prediction, BRATS)

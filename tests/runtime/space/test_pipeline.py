"""From raw scans to BraTS space and back, on a toy head that lies crooked and moved between its sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_runtime import nifti
from glialite_runtime.bundle import read_bundle
from glialite_runtime.cases import Case, find_case
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import GeometryError, InputError, IntensityError
from glialite_runtime.predict import segment, write
from glialite_runtime.space.atlas import Atlas, read_atlas
from glialite_runtime.space.pipeline import PreparedCase, back_to_original, to_brats_space
from glialite_runtime.space.session import measure, refuse_untrusted
from glialite_runtime.space.transform import BRATS_AFFINE, BRATS_SHAPE, Scan
from glialite_runtime.verify import verify_report

from tests.conftest import save
from tests.runtime.space.conftest import MIDDLE, ToySession, mean_error_mm, pose, write_scan, write_session


@pytest.fixture(scope="module")
def atlas(toy_session: ToySession) -> Atlas:
    return read_atlas(toy_session.atlas)


@pytest.fixture(scope="module")
def prepared(toy_session: ToySession, atlas: Atlas) -> PreparedCase:
    """Return the toy session in BraTS space; prepared once."""
    return to_brats_space(find_case(toy_session.folder), atlas)


def ball(radius: float, shift: tuple[float, float, float]) -> np.ndarray:
    """Return a mask on the BraTS grid: a ball in mm from the brain's middle, RAS+."""
    z, y, x = np.indices(BRATS_SHAPE)
    centre = MIDDLE + shift
    return (-x - centre[0]) ** 2 + (239 - y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2


def test_every_sequence_lies_where_the_truth_has_it(prepared: PreparedCase, toy_session: ToySession) -> None:
    """Sequences whose headers are up to 5 mm off lie on T1c within 1 mm, T1c on the atlas within 3 mm."""
    assert prepared.reference == "t1c"
    assert mean_error_mm(prepared.to_scan["t1c"], toy_session.to_scan["t1c"]) < 3
    for sequence in ("t1n", "t2w", "t2f"):
        found = prepared.to_scan[sequence] @ np.linalg.inv(prepared.to_scan["t1c"])
        true = toy_session.to_scan[sequence] @ np.linalg.inv(toy_session.to_scan["t1c"])
        here = toy_session.to_scan["t1c"]
        assert mean_error_mm(found @ here, true @ here) < 1, sequence


def test_the_volume_is_a_brats_case(prepared: PreparedCase) -> None:
    """240×240×155 voxels of 1 mm in LPS, int16, background exactly 0, the brain without skull, nothing empty."""
    volume = prepared.volume
    assert volume.sequences == ("t1n", "t1c", "t2w", "t2f")
    assert volume.spacing_mm == (1, 1, 1)
    brain = ((np.indices(BRATS_SHAPE)[::-1] * np.array([-1, -1, 1])[:, None, None, None]
              + np.array([0, 239, 0])[:, None, None, None] - MIDDLE[:, None, None, None])
             / np.array([66, 85, 64])[:, None, None, None])  # fmt: skip
    true = (brain**2).sum(0) < 1
    for channel in volume.channels:
        assert channel.shape == BRATS_SHAPE
        assert channel.dtype == np.int16
        found = channel != 0
        assert 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true)) > 0.93
    np.testing.assert_array_equal(volume.reference.affine, BRATS_AFFINE)


def test_the_result_says_that_it_is_approximate(prepared: PreparedCase) -> None:
    """Mask source and similarity are there for the report, and the first sentence warns."""
    assert prepared.mask_source == "atlas"
    assert prepared.notes[0].key == "space.atlas"
    assert "approximate" in prepared.notes[0].text
    assert set(prepared.similarity) == {"atlas", "t1n", "t2w", "t2f"}


@pytest.mark.parametrize("sequence", [None, "t2f"])
def test_labels_land_on_the_original_scan(
    prepared: PreparedCase, toy_session: ToySession, tmp_path: Path, sequence: str | None
) -> None:
    """A ball drawn in BraTS space comes back on the slices of the scan: same place, same volume, same geometry."""
    labels = np.zeros(BRATS_SHAPE, np.uint8)
    labels[ball(20, (28, 20, 20))] = 2
    labels[ball(12, (28, 20, 20))] = 3
    back, image = back_to_original(labels, prepared, sequence)
    name = sequence or "t1c"
    nifti.write_labels(tmp_path / "seg.nii.gz", back, image)
    written, scan = nib.load(tmp_path / "seg.nii.gz"), nib.load(toy_session.folder / f"S1-{name}.nii.gz")
    np.testing.assert_allclose(written.affine, scan.affine)
    assert written.shape == scan.shape
    voxel_ml = 45 / 1000
    assert np.count_nonzero(back) * voxel_ml == pytest.approx(4 / 3 * np.pi * 8, rel=0.05)
    assert np.count_nonzero(back == 3) * voxel_ml == pytest.approx(4 / 3 * np.pi * 12**3 / 1000, rel=0.1)
    centre = scan.affine[:3, :3] @ np.argwhere(back).mean(0) + scan.affine[:3, 3]
    there = prepared.to_scan[name] @ np.append(np.add(MIDDLE, (28, 20, 20)), 1)
    np.testing.assert_allclose(centre, there[:3], atol=1)


def test_no_tumour_comes_back_as_an_empty_map(prepared: PreparedCase) -> None:
    """An empty label map stays empty, and a scan that is not there is refused by name."""
    back, _ = back_to_original(np.zeros(BRATS_SHAPE, np.uint8), prepared)
    assert back.shape == (66, 76, 34)
    assert not back.any()
    with pytest.raises(InputError, match="no adc"):
        back_to_original(np.zeros(BRATS_SHAPE, np.uint8), prepared, "adc")


def _with_t1c(path: Path, toy_session: ToySession) -> tuple[Scan, Scan, np.ndarray, np.ndarray]:
    """Return what a file is laid on the toy's T1c with."""
    scans = []
    for image in (nifti.read(toy_session.folder / "S1-t1c.nii.gz"), nifti.read(path)):
        turned = np.ascontiguousarray(image.data.transpose(2, 1, 0))  # the toy's files are LPS
        scans.append(Scan(turned, image.affine))
    return scans[0], scans[1], toy_session.to_scan["t1c"], ball(68, (0, 0, 0))


def test_a_guess_brings_home_what_its_header_has_lost(toy_session: ToySession, tmp_path: Path) -> None:
    """A FLAIR turned by 65° and shifted by 60 mm fits nothing from its header's place, and to 2 mm from a near one."""
    far = pose((0, 0, 90), (0, 60, 0)) @ toy_session.to_scan["t2f"]
    path = write_scan(tmp_path / "far-t2f.nii.gz", "t2f", far)
    wanted = far @ np.linalg.inv(toy_session.to_scan["t1c"])
    with pytest.raises(GeometryError):
        refuse_untrusted([measure(*_with_t1c(path, toy_session))], path)
    found = measure(*_with_t1c(path, toy_session), wanted @ pose((6, -5, 4), (5, 3, -4)))
    at = np.array([*MIDDLE, 1.0])
    assert np.linalg.norm((found.to_scan @ at - wanted @ at)[:3]) < 2
    lost = replace(found, peak=0.1)
    refuse_untrusted([lost, found], path)  # one sequence that it belongs to is enough
    with pytest.raises(GeometryError, match=r"sharpness 0\.10"):
        refuse_untrusted([lost, lost], path)


def test_noise_instead_of_a_head_is_refused(toy_session: ToySession, tmp_path: Path) -> None:
    """A file that shows another thing does not fit, and the sentence asks about the patient."""
    scan = nib.load(toy_session.folder / "S1-t2w.nii.gz")
    noise = np.random.default_rng(0).integers(1, 900, scan.shape).astype(np.int16)
    path = save(tmp_path / "other-t2w.nii.gz", noise, scan.affine)
    with pytest.raises(GeometryError, match="same patient"):
        refuse_untrusted([measure(*_with_t1c(path, toy_session))], path)


def test_a_mirrored_sequence_is_refused(toy_session: ToySession, tmp_path: Path) -> None:
    """A file whose left and right were swapped fits better mirrored; the sentence says so."""
    scan = nib.load(toy_session.folder / "S1-t2f.nii.gz")
    path = save(tmp_path / "swapped-t2f.nii.gz", np.asarray(scan.dataobj)[::-1], scan.affine)
    with pytest.raises(GeometryError, match="left and right swapped"):
        refuse_untrusted([measure(*_with_t1c(path, toy_session))], path)


def test_nan_is_refused_before_any_computing(toy_session: ToySession, atlas: Atlas, tmp_path: Path) -> None:
    """NaN in one sequence refuses the case and names the file."""
    scan = nib.load(toy_session.folder / "S1-t1n.nii.gz")
    data = np.asarray(scan.dataobj).astype(np.float32)
    data[5, 5, 5] = np.nan
    path = save(tmp_path / "S1-t1n.nii.gz", data, scan.affine)
    case = find_case(toy_session.folder)
    with pytest.raises(IntensityError, match="NaN"):
        to_brats_space(Case("S1", {**case.paths, "t1n": path}), atlas)


def test_half_a_head_is_refused(toy_session: ToySession, atlas: Atlas, tmp_path: Path) -> None:
    """A scan of the lower half only is refused: coverage or atlas, whichever notices first."""
    path = write_scan(tmp_path / "S1-t1c.nii.gz", "t1c", pose((0, 0, 0), (0, 0, 0)), slices=14)
    with pytest.raises(GeometryError, match=r"atlas|of the brain"):
        to_brats_space(Case("S1", {"t1c": path}), atlas)


def test_skull_stripped_scans_keep_their_own_mask(tmp_path: Path, atlas: Atlas) -> None:
    """Where nothing surrounds the brain, what is not 0 is the brain, and the report says so."""
    toy = write_session(tmp_path, skull=False, session=("t1c", "t2f"))
    prepared = to_brats_space(find_case(toy.folder), atlas)
    assert prepared.mask_source == "already skull-stripped"
    assert mean_error_mm(prepared.to_scan["t1c"], toy.to_scan["t1c"]) < 3


def test_a_raw_session_is_measured_on_its_own_scan(
    prepared: PreparedCase, toy_session: ToySession, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """Label map and millilitres are those of the T1c scan; the report says approximate, and verify agrees with it."""
    case, bundle = find_case(toy_session.folder), read_bundle(make_bundle())
    found = segment(case, bundle, open_engine(bundle), prepared)
    outputs = write(found, bundle, tmp_path)
    scan, mask = nib.load(case.paths["t1c"]), nib.load(outputs.labels)
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
    there = np.count_nonzero(found.labels) / 1000
    assert found.volumes_ml["WT"] == pytest.approx(there, rel=0.1)
    assert found.volumes_ml["WT"] == pytest.approx(
        np.count_nonzero(np.asanyarray(mask.dataobj)) * abs(np.linalg.det(scan.affine[:3, :3])) / 1000, rel=1e-3
    )
    assert found.quality.verdict == "check"
    assert found.quality.findings[-1].key == "space.atlas"
    assert verify_report(outputs.report)["case"] == case.name

"""Real scans through the whole clinic command: what goes in comes back on its own grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_distill.evaluate import bundle_source
from glialite_runtime.bundle import default_bundle
from glialite_runtime.cli import app
from glialite_runtime.command import run
from glialite_runtime.metrics import dice_per_region, region_masks
from glialite_runtime.volume import load_volume

from bench import real_scans

ACCEPTED = ["BraTS-GLI-00001-000", "TCGA-DU-7294", "BraTS-MET-00110-000"]


def segment(folder: Path, out: Path, bundle: Path) -> int:
    return run(app, ["segment", str(folder), "--out", str(out), "--bundle", str(bundle)])


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("spacing_mm", [1.0, 2.0])
def test_a_real_scan_is_segmented_on_its_own_grid(
    real_data: Path, tmp_path: Path, make_bundle: Callable[..., Path], name: str, spacing_mm: float
) -> None:
    """Shape, affine, axes of the input; values 0 to 3; nested regions; mL as counted; also when resampled."""
    assert segment(real_data / name, tmp_path, make_bundle(spacing_mm=spacing_mm)) == 0
    written = nib.load(tmp_path / name / f"{name}-seg.nii.gz")
    source = nib.load(real_data / name / f"{name}-t1n.nii.gz")
    labels = np.asarray(written.dataobj)
    assert labels.shape == source.shape
    np.testing.assert_array_equal(written.affine, source.affine)
    assert nib.aff2axcodes(written.affine) == nib.aff2axcodes(source.affine)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    wt, tc, et = region_masks(labels)
    assert wt.any()
    assert not (et & ~tc).any()
    assert not (tc & ~wt).any()
    report = json.loads((tmp_path / name / f"{name}-report.json").read_text())
    assert list(report["volumes_ml"].values()) == pytest.approx([m.sum() / 1000 for m in (wt, tc, et)], abs=1e-9)


def test_a_normalised_scan_is_refused_with_its_reason(
    real_data: Path, tmp_path: Path, make_bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3, the background is named, nothing is written."""
    assert segment(real_data / "brats_2013_pat0001_1", tmp_path / "out", make_bundle()) == 3
    assert "already normalised: its background is -" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["BraTS-GLI-00001-000", "BraTS-MET-00110-000"])
def test_ras_and_lps_give_the_same_labels(
    real_data: Path, tmp_path: Path, make_bundle: Callable[..., Path], name: str
) -> None:
    """The same head stored the other way round: the same labels, to the voxel, in world space."""
    turned = tmp_path / "turned"
    turned.mkdir()
    for path in (real_data / name).glob("*-t??.nii.gz"):
        image = nib.load(path)
        other = "RAS" if nib.aff2axcodes(image.affine) == ("L", "P", "S") else "LPS"
        target = nib.orientations.axcodes2ornt(tuple(other))
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
        nib.save(image.as_reoriented(turn), turned / path.name)
    bundle = make_bundle(spacing_mm=1.0)
    assert segment(real_data / name, tmp_path / "a", bundle) == 0
    assert segment(turned, tmp_path / "b", bundle) == 0
    first = nib.as_closest_canonical(nib.load(tmp_path / "a" / name / f"{name}-seg.nii.gz"))
    second = nib.as_closest_canonical(nib.load(tmp_path / "b" / "turned" / "turned-seg.nii.gz"))
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))


def test_the_bundle_that_ships_outlines_real_tumours(real_data: Path, tmp_path: Path) -> None:
    """Mean Dice over three cases with human labels, of T1c and FLAIR alone, reaches what docs/synthetic.md aims at."""
    source = bundle_source(default_bundle())
    found = []
    for name in real_scans.HUMAN:
        case, truth = real_scans.human_case(real_data / name, tmp_path)
        found.append(dice_per_region(real_scans.segment(source, load_volume(case)), truth))
    wt, tc, et = np.mean(found, 0)
    assert wt >= 0.80
    assert tc >= 0.65
    assert et >= 0.60

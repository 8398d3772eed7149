"""A mask corrected by hand: measured again, kept beside the automatic one, checked like any report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_runtime import predict
from glialite_runtime.bundle import read_bundle
from glialite_runtime.cases import Case, find_case
from glialite_runtime.correction import correct
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import CheckFailedError, GeometryError, InputError
from glialite_runtime.report import ReportOptions
from glialite_runtime.verify import verify_report

from tests.conftest import save, toy, write_case

Written = tuple[Case, predict.Outputs]


@pytest.fixture
def written(case_folder: Path, tmp_path: Path, make_bundle: Callable[..., Path]) -> Written:
    """Return a segmented case with an identity."""
    bundle = read_bundle(make_bundle())
    case = find_case(case_folder)
    options = ReportOptions(identity={"patient_id": "KNH-1"})
    segmentation = predict.segment(case, bundle, open_engine(bundle, 1))
    return case, predict.write(segmentation, bundle, tmp_path / "out", options)


def edited(outputs: predict.Outputs, path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write what somebody made of the automatic mask in a viewer."""
    image = nib.load(outputs.labels)
    data = change(np.asarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(data, image.affine), path)
    return path


def without_enhancement(labels: np.ndarray) -> np.ndarray:
    labels[labels == 3] = 2
    return labels


def test_the_report_keeps_both(written: Written, tmp_path: Path) -> None:
    """Volumes of both, their overlap, the hashes of both masks and of what was given; the automatic files unchanged."""
    case, outputs = written
    before = {p.name: p.read_bytes() for p in outputs.checked}
    given = edited(outputs, tmp_path / "fixed.nii.gz", without_enhancement)
    made = correct(outputs.report, given, case)
    report, automatic = json.loads(made.read_bytes()), json.loads(outputs.report.read_bytes())
    assert made.name == "P01-corrected-report.json"
    assert report["volumes_ml"]["ET"] == 0
    assert report["correction"]["automatic_ml"] == automatic["volumes_ml"]
    assert report["correction"]["dice"]["WT"] == 1
    assert report["correction"]["dice"]["ET"] == 0
    assert report["correction"]["given_sha256"] == predict.sha256_file(given)
    assert report["correction"]["automatic_sha256"] == predict.sha256_file(outputs.labels)
    assert report["identity"] == {"patient_id": "KNH-1"}
    assert report["volume_intervals_ml"] == {}
    assert {p.name: p.read_bytes() for p in outputs.checked} == before
    page = made.with_suffix(".html").read_text()
    assert page.count("data:image/png") == 6
    assert "Corrected by hand" in page


def test_verify_checks_a_correction_and_the_automatic_result_under_it(written: Written, tmp_path: Path) -> None:
    """A change to either mask is noticed; so is an overlap that does not follow."""
    _, outputs = written
    made = correct(outputs.report, edited(outputs, tmp_path / "fixed.nii.gz", without_enhancement))
    assert verify_report(made)["dice"]["WT"] == 1
    assert verify_report(outputs.report)["case"] == "P01"
    outputs.labels.write_bytes(outputs.labels.read_bytes() + b" ")
    with pytest.raises(CheckFailedError, match="P01-seg"):
        verify_report(made)


def test_an_overlap_that_does_not_follow_fails(written: Written, tmp_path: Path) -> None:
    """Even with hashes that fit."""
    _, outputs = written
    made = correct(outputs.report, edited(outputs, tmp_path / "fixed.nii.gz", without_enhancement))
    report = json.loads(made.read_text())
    report["correction"]["dice"]["ET"] = 0.9
    made.write_text(json.dumps(report))
    manifest_path = made.with_name("P01-corrected-manifest.json")
    manifest = json.loads(manifest_path.read_text())
    manifest["files"][made.name] = predict.sha256_file(made)
    manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(CheckFailedError, match="dice"):
        verify_report(made)


def test_a_mask_stored_in_other_axes_is_the_same_mask(written: Written, tmp_path: Path) -> None:
    """Viewers may turn the axes; what counts is where a voxel lies."""
    _, outputs = written
    nib.save(nib.as_closest_canonical(nib.load(outputs.labels)), tmp_path / "ras.nii.gz")
    report = json.loads(correct(outputs.report, tmp_path / "ras.nii.gz").read_bytes())
    assert set(report["correction"]["dice"].values()) == {1.0}


def test_an_emptied_mask_is_reported_with_its_caveat(written: Written, tmp_path: Path) -> None:
    """The reader saw no tumour: still no normal finding."""
    _, outputs = written
    made = correct(outputs.report, edited(outputs, tmp_path / "none.nii.gz", np.zeros_like))
    assert json.loads(made.read_bytes())["volumes_ml"] == {"WT": 0, "TC": 0, "ET": 0}
    assert "not a normal finding" in made.with_suffix(".html").read_text()
    assert verify_report(made)["dice"]["WT"] == 0


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("value 4", InputError, "label value 4"),
        ("fraction", InputError, r"label value 1\.5"),
        ("nan", InputError, "NaN"),
        ("shape", GeometryError, "export the corrected outline again"),
        ("shifted", GeometryError, r"4\.0 mm away"),
        ("4-D", GeometryError, "4-D"),
        ("truncated", InputError, "truncated"),
        ("no nifti", InputError, "damaged"),
        ("absent", InputError, "does not exist"),
        ("bomb", GeometryError, "voxels"),
    ],
)
def test_a_hostile_mask_is_one_sentence_and_nothing_is_written(
    written: Written, tmp_path: Path, name: str, error: type[Exception], match: str
) -> None:
    """Wrong values, wrong grid, damage: refused before anything is changed."""
    _, outputs = written
    path = tmp_path / "mask.nii.gz"
    image = nib.load(outputs.labels)
    data, affine = np.asarray(image.dataobj).astype(np.float32), image.affine
    match name:
        case "value 4":
            save(path, np.where(data == 3, 4, data).astype(np.uint8), affine)
        case "fraction":
            save(path, np.where(data == 3, 1.5, data).astype(np.float32), affine)
        case "nan":
            save(path, np.where(data == 3, np.nan, data).astype(np.float32), affine)
        case "shape":
            save(path, data[:-1], affine)
        case "shifted":
            save(path, data, affine + np.eye(4, k=3) * 4)
        case "4-D":
            save(path, np.stack([data, data], 3), affine)
        case "truncated":
            save(path, data, affine)
            path.write_bytes(path.read_bytes()[:-200])
        case "no nifti":
            path.write_bytes(b"\x1f\x8bnot really")
        case "bomb":
            save(path, np.zeros((400, 400, 300), np.uint8), affine)
    with pytest.raises(error, match=match):
        correct(outputs.report, path)
    assert not list(outputs.report.parent.glob("*corrected*"))


def test_other_images_are_refused(written: Written, tmp_path: Path) -> None:
    """Pictures of another patient under this patient's outline would be the worst page of all."""
    _, outputs = written
    other = find_case(write_case(tmp_path / "P02", toy(seed=1)))
    with pytest.raises(InputError, match="not those of the report"):
        correct(outputs.report, edited(outputs, tmp_path / "m.nii.gz", without_enhancement), other)


def test_a_corrected_report_is_not_corrected_again(written: Written, tmp_path: Path) -> None:
    """A second correction starts from the automatic report, and replaces the first."""
    _, outputs = written
    given = edited(outputs, tmp_path / "fixed.nii.gz", without_enhancement)
    made = correct(outputs.report, given)
    with pytest.raises(InputError, match="corrected report already"):
        correct(made, given)
    assert correct(outputs.report, edited(outputs, tmp_path / "none.nii.gz", np.zeros_like)) == made
    assert json.loads(made.read_bytes())["volumes_ml"]["WT"] == 0


def test_a_report_that_was_changed_is_not_corrected(written: Written, tmp_path: Path) -> None:
    """What the correction is compared with must be what was written."""
    _, outputs = written
    given = edited(outputs, tmp_path / "fixed.nii.gz", without_enhancement)
    outputs.page.write_text("changed")
    with pytest.raises(CheckFailedError):
        correct(outputs.report, given)

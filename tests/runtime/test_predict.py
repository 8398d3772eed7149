"""From files to files: label map, volumes, report, manifest; interrupted, repeated, tampered with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_runtime import predict
from glialite_runtime.bundle import Bundle, read_bundle
from glialite_runtime.cases import find_case
from glialite_runtime.engine import Engine, open_engine
from glialite_runtime.errors import CheckFailedError, InputError, OutputError
from glialite_runtime.metrics import dice_per_region, region_masks
from glialite_runtime.verify import verify_report

from tests.conftest import toy, write_case


@pytest.fixture
def opened(make_bundle: Callable[..., Path]) -> tuple[Bundle, Engine]:
    bundle = read_bundle(make_bundle())
    return bundle, open_engine(bundle, 1)


def run(folder: Path, out: Path, opened: tuple[Bundle, Engine]) -> predict.Outputs:
    return predict.write(predict.segment(find_case(folder), *opened), opened[0], out)


def test_a_case_becomes_labels_volumes_and_a_page(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]
) -> None:
    """The toy tumour is found; shape, affine and axes are the input's; mL are the voxels counted."""
    outputs = run(case_folder, tmp_path / "out", opened)
    written, source = nib.load(outputs.labels), nib.load(case_folder / "P01-t1n.nii.gz")
    labels = np.asarray(written.dataobj)
    np.testing.assert_array_equal(written.affine, source.affine)
    assert labels.shape == source.shape
    assert min(dice_per_region(labels, np.asarray(nib.load(case_folder / "P01-seg.nii.gz").dataobj))) > 0.75
    report = json.loads(outputs.report.read_text())
    counted = [float(m.sum()) * 8 / 1000 for m in region_masks(labels)]
    assert [report["volumes_ml"][r] for r in ("WT", "TC", "ET")] == pytest.approx(counted, abs=1e-9)
    assert len(report["lesions"]) >= 1
    assert set(report["timings_s"]) >= {"read", "preprocess", "network", "postprocess", "report"}


def test_the_page_needs_nothing_from_elsewhere(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]
) -> None:
    """No address, no script; six pictures inside; the warning and the volumes in words."""
    page = run(case_folder, tmp_path / "out", opened).page.read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert page.count("data:image/png;base64,") == 6
    assert "not a diagnosis" in page
    assert "Whole tumour" in page


def test_a_brain_without_tumour_says_that_this_is_no_normal_finding(
    tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    """An empty map is written and reported with its caveat; volumes are 0."""
    case = toy()
    healthy = {s: np.where(case.labels > 0, np.int16(300), image) for s, image in case.images.items()}
    folder = write_case(tmp_path / "P02", replace(case, images=healthy, labels=case.labels * 0))
    bundle = read_bundle(make_bundle(minimum_mm3=100_000))
    outputs = run(folder, tmp_path / "out", (bundle, open_engine(bundle, 1)))
    report = json.loads(outputs.report.read_text())
    assert report["volumes_ml"] == {"WT": 0, "TC": 0, "ET": 0}
    assert report["lesions"] == []
    assert "not a normal finding" in outputs.page.read_text()


def test_names_are_escaped_in_the_page(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """A folder called like HTML stays text."""
    outputs = run(write_case(tmp_path / "<b>P&1", toy()), tmp_path / "out", opened)
    assert "<b>P&1" not in outputs.page.read_text()


def test_a_finished_case_is_recognised_until_something_changes(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]
) -> None:
    """Inputs, bundle and outputs must all be the same."""
    out, case = tmp_path / "out", find_case(case_folder)
    assert not predict.finished(case, opened[0], out)
    outputs = run(case_folder, out, opened)
    assert predict.finished(case, opened[0], out)
    outputs.page.write_text("changed")
    assert not predict.finished(case, opened[0], out)
    run(case_folder, out, opened)
    write_case(case_folder, toy(seed=1))
    assert not predict.finished(case, opened[0], out)


def test_an_interrupted_write_is_not_finished_and_leaves_no_part(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before the report: no manifest, nothing under a temporary name; the next run completes it."""
    out = tmp_path / "out"
    run(case_folder, out, opened)

    def crash(*_: object) -> str:
        raise RuntimeError("power cut")

    monkeypatch.setattr(predict, "write_json", crash)
    with pytest.raises(RuntimeError):
        run(case_folder, out, opened)
    assert not predict.finished(find_case(case_folder), opened[0], out)
    assert not list(out.rglob("*.part"))
    monkeypatch.undo()
    run(case_folder, out, opened)
    assert predict.finished(find_case(case_folder), opened[0], out)


def test_a_folder_that_cannot_be_made_is_an_output_error(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]
) -> None:
    """A file where the folder should be: exit code 7 with its name."""
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError, match="out"):
        run(case_folder, tmp_path / "out", opened)


def test_verify_accepts_what_was_written(case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Hashes and volumes follow from the files."""
    outputs = run(case_folder, tmp_path / "out", opened)
    assert verify_report(outputs.report)["case"] == "P01"


@pytest.mark.parametrize("victim", ["labels", "report", "page"])
def test_verify_notices_any_changed_file(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine], victim: str
) -> None:
    """One appended byte is enough."""
    outputs = run(case_folder, tmp_path / "out", opened)
    path: Path = getattr(outputs, victim)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckFailedError, match="was changed"):
        verify_report(outputs.report)


def test_verify_counts_the_mask_itself(case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """A report with another volume and a fitting manifest still fails: the mask decides."""
    outputs = run(case_folder, tmp_path / "out", opened)
    report = json.loads(outputs.report.read_text())
    report["volumes_ml"]["WT"] += 1
    outputs.report.write_text(json.dumps(report))
    manifest = json.loads(outputs.manifest.read_text())
    manifest["files"][outputs.report.name] = predict.sha256_file(outputs.report)
    outputs.manifest.write_text(json.dumps(manifest))
    with pytest.raises(CheckFailedError, match="the mask holds"):
        verify_report(outputs.report)


def test_verify_of_an_unfinished_case_is_bad_input(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]
) -> None:
    """Without its manifest a report proves nothing."""
    outputs = run(case_folder, tmp_path / "out", opened)
    outputs.manifest.unlink()
    with pytest.raises(InputError, match="never finished"):
        verify_report(outputs.report)


@pytest.mark.parametrize("key", ["hemisphere", "diameters", "lesions", "left_share"])
def test_verify_derives_everything_measured_again(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine], key: str
) -> None:
    """A wrong side with a fitting manifest is as bad as a wrong volume."""
    outputs = run(case_folder, tmp_path / "out", opened)
    report = json.loads(outputs.report.read_text())
    report[key] = "elsewhere"
    outputs.report.write_text(json.dumps(report))
    manifest = json.loads(outputs.manifest.read_text())
    manifest["files"][outputs.report.name] = predict.sha256_file(outputs.report)
    outputs.manifest.write_text(json.dumps(manifest))
    with pytest.raises(CheckFailedError, match=key):
        verify_report(outputs.report)


def test_colour_tables_and_csv_lie_beside_the_label_map(
    case_folder: Path, tmp_path: Path, opened: tuple[Bundle, Engine]
) -> None:
    """All of them under the manifest's hashes."""
    outputs = run(case_folder, tmp_path / "out", opened)
    assert set(json.loads(outputs.manifest.read_text())["files"]) == {
        f"P01-{ending}"
        for ending in ("seg.nii.gz", "seg.ctbl", "seg-itksnap.txt", "report.json", "report.csv", "report.html")
    }
    assert nib.load(outputs.labels).header.get_intent()[0] == "label"

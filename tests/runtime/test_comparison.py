"""Two studies of one patient: what changed, what the method cannot tell, and whose studies they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glialite_runtime import predict
from glialite_runtime.bundle import Bundle, Reliability, read_bundle
from glialite_runtime.cases import find_case
from glialite_runtime.comparison import outline_noise_ml
from glialite_runtime.correction import correct
from glialite_runtime.engine import Engine, open_engine
from glialite_runtime.errors import CheckFailedError, ConfigError, InputError
from glialite_runtime.measure import VolumeInterval
from glialite_runtime.report import ReportOptions

from tests.conftest import toy, write_case

INTERVAL = VolumeInterval(0.9, 20, -0.1, 0.2)


@pytest.fixture
def opened(make_bundle: Callable[..., Path]) -> tuple[Bundle, Engine]:
    bundle = read_bundle(make_bundle())
    return bundle, open_engine(bundle, 1)


def study(out: Path, opened: tuple[Bundle, Engine], scan: dict[str, Any], **options: Any) -> predict.Outputs:
    """Segment a toy; `scan` holds its name, its seed, and how much of the tumour is left."""
    case, name = toy(seed=scan.get("seed", 0)), scan.get("name", "P01")
    if scan.get("smaller"):
        gone = case.labels.copy()
        gone[:, : case.labels.shape[1] // 2 - 5] = 0
        healed = {s: np.where((case.labels > 0) & (gone == 0), np.int16(300), i) for s, i in case.images.items()}
        case = replace(case, images=healed)
    folder = write_case(out / "in" / name, case)
    segmentation = predict.segment(find_case(folder), *opened)
    return predict.write(segmentation, opened[0], out / "out", ReportOptions(**options))


def identity(**fields: str) -> dict[str, str]:
    return {"patient_id": "KNH-1", "study_date": "20260712"} | fields


def compared(tmp_path: Path, opened: tuple[Bundle, Engine], **second: Any) -> dict[str, Any]:
    """Segment an earlier study and then, with it as prior, a later one; return the later report's comparison."""
    prior = study(tmp_path / "1", opened, {}, identity=identity())
    options = {"identity": identity(study_date="20261104"), "prior": prior.report} | second
    outputs = study(tmp_path / "2", opened, {"seed": 1, "smaller": True}, **options)
    return json.loads(outputs.report.read_text())["comparison"]


def test_a_change_comes_with_its_noise_floor(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Without intervals: half a voxel around both outlines; a tumour cut down is more than that."""
    found = compared(tmp_path, opened)
    whole = found["regions"]["WT"]
    assert whole["change_ml"] == pytest.approx(whole["now_ml"] - whole["earlier_ml"], abs=1e-3)
    assert whole["change_ml"] < 0
    assert whole["larger"] == (abs(whole["change_ml"]) > whole["noise_floor_ml"])
    assert found["noise_floor"] == "outline"
    assert (found["patient"], found["remarks"]) == ("same", [])


def test_with_intervals_a_change_is_larger_when_they_do_not_touch(
    tmp_path: Path, opened: tuple[Bundle, Engine]
) -> None:
    """The bundle's measured error replaces the half voxel; both hold in 80 % when each does in 90."""
    bundle, engine = opened
    reliable = replace(bundle, manifest=replace(bundle.manifest, reliability=Reliability((1, 1, 1), (INTERVAL,) * 3)))
    found = compared(tmp_path, (reliable, engine))
    assert (found["noise_floor"], found["percent"]) == ("intervals", 90)
    for region in found["regions"].values():
        then, now = INTERVAL.around(region["earlier_ml"]), INTERVAL.around(region["now_ml"])
        assert region["larger"] == (now[1] < then[0] or now[0] > then[1])


def test_the_same_tumour_twice_is_within_the_noise(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Two acquisitions of one head."""
    prior = study(tmp_path / "1", opened, {}, identity=identity())
    outputs = study(tmp_path / "2", opened, {"seed": 1}, identity=identity(study_date="20261104"), prior=prior.report)
    regions = json.loads(outputs.report.read_text())["comparison"]["regions"]
    assert not any(region["larger"] for region in regions.values())
    assert "no change can be claimed" in outputs.page.read_text()


@pytest.mark.parametrize("field", ["patient_id", "birth_date"])
def test_another_patient_is_refused_and_nothing_is_written(
    tmp_path: Path, opened: tuple[Bundle, Engine], field: str
) -> None:
    """The worst mistake of all; the sentence names both."""
    prior = study(tmp_path / "1", opened, {}, identity=identity(birth_date="19790314"))
    other = identity(birth_date="19790314") | {field: "X-2"}
    with pytest.raises(InputError, match="another patient"):
        study(tmp_path / "2", opened, {"seed": 1}, identity=other, prior=prior.report)
    assert not (tmp_path / "2" / "out").exists()


def test_names_of_brats_cases_tell_patients_apart(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Without an identity, BraTS-SSA-00002-000 and -00003-000 are two patients."""
    prior = study(tmp_path / "1", opened, {"name": "BraTS-SSA-00002-000"})
    with pytest.raises(InputError, match="BraTS-SSA-00002, not BraTS-SSA-00003"):
        study(tmp_path / "2", opened, {"seed": 1, "name": "BraTS-SSA-00003-000"}, prior=prior.report)


def test_an_unknown_patient_is_compared_with_a_warning(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """NIfTI files name nobody: the page asks a person to check."""
    prior = study(tmp_path / "1", opened, {})
    outputs = study(tmp_path / "2", opened, {"seed": 1}, prior=prior.report)
    assert json.loads(outputs.report.read_text())["comparison"]["patient"] == "unconfirmed"
    assert "do not say that both studies are of the same patient" in outputs.page.read_text()


def test_the_very_same_images_are_no_earlier_study(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Told by their hashes."""
    prior = study(tmp_path / "1", opened, {})
    with pytest.raises(InputError, match="very same images"):
        study(tmp_path / "2", opened, {}, prior=prior.report)


def test_the_earlier_report_is_never_overwritten(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """The same name in the same folder is refused."""
    prior = study(tmp_path / "1", opened, {})
    before = prior.report.read_bytes()
    with pytest.raises(ConfigError, match="overwritten"):
        study(tmp_path / "1", opened, {"seed": 1}, prior=prior.report)
    assert prior.report.read_bytes() == before


def test_a_changed_or_missing_report_is_refused(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Exit codes 6 and 3."""
    prior = study(tmp_path / "1", opened, {})
    prior.page.write_text("changed")
    with pytest.raises(CheckFailedError):
        study(tmp_path / "2", opened, {"seed": 1}, prior=prior.report)
    with pytest.raises(InputError, match="does not exist"):
        study(tmp_path / "2", opened, {"seed": 1}, prior=tmp_path / "none-report.json")


def test_a_report_with_holes_is_bad_input(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Hashes that fit do not make a report whole."""
    prior = study(tmp_path / "1", opened, {})
    report = json.loads(prior.report.read_text())
    del report["inputs"]
    prior.report.write_text(json.dumps(report))
    manifest = json.loads(prior.manifest.read_text())
    manifest["files"][prior.report.name] = predict.sha256_file(prior.report)
    prior.manifest.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="damaged"):
        study(tmp_path / "2", opened, {"seed": 1}, prior=prior.report)


def test_what_else_differs_is_remarked(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Dates in the wrong order; a corrected earlier outline."""
    prior = study(tmp_path / "1", opened, {}, identity=identity(study_date="20270101"))
    corrected = correct(prior.report, prior.labels)
    outputs = study(tmp_path / "2", opened, {"seed": 1}, identity=identity(), prior=corrected)
    remarks = json.loads(outputs.report.read_text())["comparison"]["remarks"]
    assert [remark["key"] for remark in remarks] == ["by_hand", "order"]


def test_another_prior_or_language_is_not_finished_yet(tmp_path: Path, opened: tuple[Bundle, Engine]) -> None:
    """Options decide what is written, so they count."""
    prior = study(tmp_path / "1", opened, {})
    study(tmp_path / "2", opened, {"seed": 1})
    case, out = find_case(tmp_path / "2" / "in" / "P01"), tmp_path / "2" / "out"
    assert predict.finished(case, opened[0], out)
    assert not predict.finished(case, opened[0], out, ReportOptions("sw"))
    assert not predict.finished(case, opened[0], out, ReportOptions(prior=prior.report))


def test_half_a_voxel_around_a_cube() -> None:
    """A cube of 10 mm has 600 mm² of faces: half a voxel of 1 mm is 0.3 mL; an empty map has no outline."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:10, 5:15, 5:15] = 3
    assert outline_noise_ml(labels, 1.0) == {"WT": 0.3, "TC": 0.3, "ET": 0.3}
    assert outline_noise_ml(labels * 0, 1.0) == {"WT": 0, "TC": 0, "ET": 0}

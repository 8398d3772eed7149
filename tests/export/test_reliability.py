"""What was fitted reaches the bundle of the same student, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glialite_export import build as build_module
from glialite_export.build import build
from glialite_export.plan import Request, finished, plan_build
from glialite_export.reliability import load_fitted
from glialite_runtime.bundle import read_bundle
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import sha256_bytes, sha256_file

from .conftest import CASES
from .test_measured import row

WriteFit = Callable[..., Path]


def fit(temperature: float, **origin: str) -> dict[str, Any]:
    """Return an entry as `distill evaluate` writes it, on two patients."""
    return {
        **origin,
        "cases": ["H1", "H2"],
        "temperature": {"WT": temperature, "TC": 1.0, "ET": 2.0},
        "thresholds": {"WT": 0.5, "TC": 0.5, "ET": 0.5},
        "volume_intervals": {r: {"rate": 0.9, "low": -0.2, "high": 0.3} for r in ("WT", "TC", "ET")},
    }


@pytest.fixture
def write_fit(tmp_path: Path) -> WriteFit:
    """Return a function that writes entries as the result of an evaluation."""

    def write(**entries: dict[str, Any]) -> Path:
        path = tmp_path / "unseen.json"
        path.write_text(json.dumps({"key": "k", "summary": [], "fitted": entries}))
        return path

    return write


def draw(path: Path, *cases: str, pictured: str = "a") -> Path:
    """Put pictures beside a result, and into it what an evaluation says of them."""
    document = json.loads(path.read_bytes())
    content = {f"{path.stem}-{name}.png": name.encode() for name in ("worst", "subgroups")}
    for name, drawn in content.items():
        path.with_name(name).write_bytes(drawn)
    files = {name: sha256_bytes(drawn) for name, drawn in content.items()}
    rows = [row(case, (0.5, 0.4, 0.3), (10, 2, 1), source="a") for case in cases]
    path.write_text(json.dumps({**document, "pictured": pictured, "cases": rows, "files": files}))
    return path


def test_pictures_come_along(write_fit: WriteFit) -> None:
    """By their names in the bundle; the card shows both."""
    found = load_fitted(draw(write_fit(a=fit(1.5, student_sha256="s")), "BraTS-PHA-00001-000"), "s", "k")
    assert found.pictures == {"worst.png": b"worst", "subgroups.png": b"subgroups"}
    assert "(worst.png)" in found.measured
    assert "(subgroups.png)" in found.measured


@pytest.mark.parametrize("case", ["BraTS-SSA-00001-000", "Smith", "BraTS-PHANTOM-00001-000"])
def test_no_patients_scan_comes_along(write_fit: WriteFit, case: str) -> None:
    """One case that is no synthetic patient, and the slices stay where they are; the figures may travel."""
    path = draw(write_fit(a=fit(1.5, student_sha256="s")), "BraTS-PHA-00001-000", case)
    found = load_fitted(path, "s", "k")
    assert list(found.pictures) == ["subgroups.png"]
    assert "worst.png" not in found.measured


def test_pictures_of_another_model_stay(write_fit: WriteFit) -> None:
    """They would show what this one does not do; nor is there any that was taken away, or that is not in the result."""
    path = draw(write_fit(a=fit(1.5, student_sha256="s"), b=fit(1.0)), "BraTS-PHA-00001-000", pictured="b")
    assert load_fitted(path, "s", "k").pictures == {}
    draw(path, "BraTS-PHA-00001-000").with_name("unseen-worst.png").unlink()
    assert list(load_fitted(path, "s", "k").pictures) == ["subgroups.png"]
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_bytes()).items() if k != "files"}))
    assert load_fitted(path, "s", "k").pictures == {}


@pytest.mark.parametrize("name", ["unseen-worst.png", "unseen-subgroups.png"])
def test_a_picture_that_was_changed_is_refused(write_fit: WriteFit, name: str) -> None:
    """What the card shows is what the evaluation drew."""
    path = draw(write_fit(a=fit(1.5, student_sha256="s")), "BraTS-PHA-00001-000")
    path.with_name(name).write_bytes(b"prettier")
    with pytest.raises(ConfigError, match=rf"{name} is not the picture that was drawn with unseen\.json"):
        load_fitted(path, "s", "k")


def test_the_entry_of_the_student_is_found_by_its_weights(write_fit: WriteFit) -> None:
    """Names do not count; the number of cases is that of the fit."""
    found = load_fitted(write_fit(other=fit(9.0, student_sha256="x"), any=fit(1.5, student_sha256="s")), "s", "k")
    assert found.reliability.temperature == (1.5, 1.0, 2.0)
    assert [(i.rate, i.cases, i.low, i.high) for i in found.reliability.volume_intervals] == [(0.9, 2, -0.2, 0.3)] * 3
    assert found.record == {"of": "FP32", "cases": ["H1", "H2"]}


def test_the_entry_of_the_bundle_itself_goes_first(write_fit: WriteFit) -> None:
    """INT8 outlines are what the clinic gets; those of another build of the student do not count."""
    student = fit(1.5, student_sha256="s")
    path = write_fit(
        old=fit(7.0, student_sha256="s", build_key="old"),
        fp32=student,
        int8=fit(1.7, student_sha256="s", build_key="k"),
    )
    assert load_fitted(path, "s", "k").reliability.temperature[0] == 1.7
    assert load_fitted(path, "s", "k").record["of"] == "INT8"
    assert load_fitted(path, "s", "new").reliability.temperature[0] == 1.5


def test_what_was_fitted_for_others_is_refused(write_fit: WriteFit) -> None:
    """The message names what the file holds, and the way out; also for a teacher ensemble, which is no student."""
    with pytest.raises(ConfigError, match=r"fitted for teachers, theirs, and none.*--fit-on"):
        load_fitted(write_fit(teachers=fit(1.0), theirs=fit(1.0, student_sha256="x")), "s", "k")
    with pytest.raises(ConfigError, match="fitted for no model"):
        load_fitted(write_fit(), "s", "k")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"fitted": 3}', '{"fitted": {"a": {"student_sha256": "s"}}}']
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    """Empty, cut off, of another kind, or an entry with nothing in it."""
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"x\.json is no result of distill evaluate"):
        load_fitted(path, "s", "k")


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0])
def test_a_temperature_that_is_none_is_refused(write_fit: WriteFit, value: float) -> None:
    """Nothing that would garble probabilities gets into a bundle."""
    with pytest.raises(ConfigError, match="temperature"):
        load_fitted(write_fit(a=fit(value, student_sha256="s")), "s", "k")


def test_a_bundle_gets_what_was_fitted_without_another_build(
    student_file: Path, workspace: Path, tmp_path: Path, write_fit: WriteFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph stays byte for byte; provenance tells the cases; the same again is left alone; it can be taken out.

    So can pictures.
    """
    out = tmp_path / "bundle"
    plain = build(plan_build(Request(student_file, workspace, out)))
    assert plain.manifest.reliability is None
    assert plain.manifest.provenance["training"]["seen"] == list(CASES[:-1])
    monkeypatch.setattr(build_module, "export_student", lambda student: pytest.fail("built again"))
    path = write_fit(a=fit(1.5, student_sha256=sha256_file(student_file)))
    wanted = Request(student_file, workspace, out, reliability=path)
    assert finished(plan_build(wanted)) is None
    carrying = build(plan_build(wanted))
    assert carrying.manifest.reliability is not None
    assert carrying.manifest.reliability.temperature == (1.5, 1.0, 2.0)
    assert carrying.manifest.provenance["reliability"] == {"of": "FP32", "cases": ["H1", "H2"]}
    assert carrying.files == plain.files
    before = (out / "bundle.json").stat().st_mtime_ns
    assert finished(plan_build(wanted)) is not None
    build(plan_build(wanted))
    assert (out / "bundle.json").stat().st_mtime_ns == before
    draw(path, "BraTS-PHA-00001-000")
    shown = build(plan_build(wanted))
    assert shown.files["worst.png"] == b"worst"
    assert b"(worst.png)" in shown.files["MODEL_CARD.md"]
    path.with_name("unseen-worst.png").unlink()
    assert "worst.png" not in build(plan_build(wanted)).files
    assert build(plan_build(Request(student_file, workspace, out))).files == plain.files
    assert read_bundle(out).manifest.provenance["build_key"] == plain.manifest.provenance["build_key"]

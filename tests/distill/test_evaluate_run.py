"""Whole evaluations: sources side by side, results that are kept, and what may not be fitted on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_distill import evaluate_run
from glialite_distill.evaluate import Labels, NetworkSource
from glialite_distill.evaluate_folder import FolderSource, load_labels
from glialite_distill.evaluate_run import EvaluationRequest, run_evaluation
from glialite_distill.student_file import save_student
from glialite_runtime.bundle import read_bundle, write_bundle
from glialite_runtime.cases import find_case
from glialite_runtime.errors import CalibrationError, ConfigError
from glialite_runtime.files import sha256_file
from glialite_runtime.metrics import region_masks
from glialite_runtime.volume import Volume, load_volume

from .test_evaluate import bright, put_prediction, put_probabilities, student_file

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Split:
    train: tuple[str, ...] = ("c",)
    validation: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    cohort_hash: str = "h"
    held_out: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    splits: tuple[Split, ...] = (Split(),)

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        return bright()


@pytest.fixture
def request_of(case_folder: Path, tmp_path: Path) -> EvaluationRequest:
    """Return an evaluation of a student that is sure everywhere and a copy of the truth, on one case."""
    student = tmp_path / "student.pt"
    save_student(student, student_file(9.0))
    others = put_prediction(tmp_path / "out", case_folder, lambda labels: labels)
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    case_folder.rename(cohort / case_folder.name)
    return EvaluationRequest(cohort, {"student": student}, {"copy": others}, csv=tmp_path / "dice.csv")


def test_an_evaluation_compares_all_sources_and_keeps_the_result(request_of: EvaluationRequest, tmp_path: Path) -> None:
    """Student, copy and trivial rule are in the table; the second time the files are read; a changed input counts."""
    first, kept = run_evaluation(request_of, Data(), CPU)
    assert not kept
    assert [row["source"] for row in first["summary"]] == ["student", "copy", "FLAIR > 0.75 SD"]
    assert first["summary"][1]["mean_dice"] == 1.0
    assert (tmp_path / "dice.csv").read_text().count("\n") == 4
    assert (tmp_path / "dice.md").read_text() == first["table"]
    assert (tmp_path / "dice.png").is_file()
    assert first["pictured"] == "student"
    assert all((tmp_path / f"dice-{name}.png").is_file() for name in ("worst", "subgroups"))
    again, kept = run_evaluation(request_of, Data(), CPU)
    assert kept
    assert again == first
    case = next(request_of.cohort.iterdir())
    put_prediction(tmp_path / "out", case, lambda labels: 0 * labels)
    changed, kept = run_evaluation(request_of, Data(), CPU)
    assert not kept
    assert changed["summary"][1]["mean_dice"] == 0
    save_student(request_of.students["student"], student_file(-9.0))
    assert run_evaluation(request_of, Data(), CPU)[0]["summary"][0]["mean_dice"] == 0


@pytest.mark.parametrize("name", ["dice.csv", "dice.md", "dice.png", "dice-worst.png", "dice-subgroups.png"])
def test_a_changed_file_is_written_again(request_of: EvaluationRequest, tmp_path: Path, name: str) -> None:
    """Files that somebody edited are not taken for the result."""
    run_evaluation(request_of, None, CPU)
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).write_text("edited")
    result, kept = run_evaluation(request_of, None, CPU)
    assert not kept
    assert (tmp_path / name).read_bytes() == before
    assert result["summary"][-1]["source"] == "FLAIR > 2 SD"


def test_other_questions_are_answered_anew(request_of: EvaluationRequest) -> None:
    """A reference and subsets count as inputs: the old file is not the answer."""
    run_evaluation(request_of, None, CPU)
    result, kept = run_evaluation(replace(request_of, reference="copy", subsets=True), None, CPU)
    assert not kept
    assert 0 < result["summary"][0]["ratio"]["value"] < 1
    assert len(result["subsets"]) == 15
    assert "Dice by sequences" in result["table"]


def test_an_interrupted_evaluation_continues(
    request_of: EvaluationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged before the interruption is not judged again; the result is that of one run, pictures included.

    A picture asks the student for the worst case once more.
    """
    whole, _ = run_evaluation(replace(request_of, csv=tmp_path / "whole.csv"), None, CPU)
    asked: list[str] = []
    plain = NetworkSource.predict

    def predict(self: NetworkSource, volume: Volume) -> tuple[Labels, npt.NDArray[np.float32], object]:
        asked.append("student")
        return plain(self, volume)

    monkeypatch.setattr(NetworkSource, "predict", predict)
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "labels", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_evaluation(request_of, None, CPU)
    assert asked == ["student"]
    assert not (tmp_path / "dice.csv").exists()
    result, kept = run_evaluation(request_of, None, CPU)
    assert (len(asked), kept) == (1 + 1, False)
    for name in ("worst", "subgroups"):
        assert (tmp_path / f"dice-{name}.png").read_bytes() == (tmp_path / f"whole-{name}.png").read_bytes()
    assert result["summary"] == whole["summary"]
    assert result["reliability"] == whole["reliability"]
    run_evaluation(replace(request_of, subsets=True), None, CPU)  # every subset, and the whole set once more
    assert len(asked) == 2 + 15 + 1


def test_cases_that_an_earlier_student_met_are_not_judged(request_of: EvaluationRequest) -> None:
    """The parent's training case is refused as the student's own would be, before anything runs."""
    met = {"trained": [next(request_of.cohort.iterdir()).name], "validated": []}
    provenance = {"train_cases": ["Q01"], "initial": "x", "earlier_cases": met}
    save_student(request_of.students["student"], replace(student_file(9.0), provenance=provenance))
    with pytest.raises(ConfigError, match="student has met the patients of P01"):
        run_evaluation(request_of, None, CPU)


def test_the_workspaces_own_cases_are_not_judged(request_of: EvaluationRequest) -> None:
    """Its teachers have met them, also those that validated."""
    with pytest.raises(ConfigError, match="the workspace has met the patients of P01"):
        run_evaluation(request_of, Data(splits=(Split(validation=("P01",)),)), CPU)


def test_requests_that_make_no_sense_are_refused(request_of: EvaluationRequest, tmp_path: Path) -> None:
    """Two sources of one name, an unknown reference, subsets of label maps."""
    with pytest.raises(ConfigError, match="two sources are called student"):
        replace(request_of, compare={"student": tmp_path})
    with pytest.raises(ConfigError, match="reference 'x' is none of student, copy"):
        replace(request_of, reference="x")
    with pytest.raises(ConfigError, match="subsets needs a student or a bundle"):
        replace(request_of, students={}, subsets=True)


@pytest.fixture
def fittable(
    request_of: EvaluationRequest, tmp_path: Path, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> EvaluationRequest:
    """Return an evaluation of the threshold bundle, with three patients to fit on, whose truth is moved."""
    monkeypatch.setattr(evaluate_run, "_INTERVAL_RATE", 0.5)  # three patients are enough
    found = read_bundle(make_bundle())
    manifest = replace(found.manifest, provenance={"training": {"cases": ["T01"]}})
    write_bundle(tmp_path / "trained", manifest, found.files)
    source = next(request_of.cohort.iterdir())
    for number in (2, 3, 4):
        folder = tmp_path / "held-out" / f"P0{number}"
        shutil.copytree(source, folder)
        for path in sorted(folder.iterdir()):
            moved = path.rename(folder / path.name.replace(source.name, folder.name))
            if moved.name.endswith("-seg.nii.gz"):
                image = nib.load(moved)
                labels = np.roll(np.asarray(image.dataobj).astype(np.uint8), number - 1, axis=1)
                nib.save(nib.Nifti1Image(labels, image.affine), moved)
    return replace(request_of, students={}, bundles={"bundle": tmp_path / "trained"}, fit_on=tmp_path / "held-out")


def test_fitting_gives_temperatures_and_intervals(fittable: EvaluationRequest, tmp_path: Path) -> None:
    """The bundle alone gets them; the JSON says on which cases; with another truth there they are fitted anew."""
    result, _ = run_evaluation(fittable, None, CPU)
    found = result["fitted"]
    assert list(found) == ["bundle"]
    assert found["bundle"]["cases"] == ["P02", "P03", "P04"]
    assert all(t > 1 for t in found["bundle"]["temperature"].values())  # sure, and wrong at every border
    assert found["bundle"]["thresholds"] == {"WT": 0.5, "TC": 0.5, "ET": 0.5}
    assert result["summary"][0]["volume_coverage"]["WT"]["value"] in {0.0, 1.0}
    assert set(result["reliability"]["bundle"]["brain"]["ET"]) == {"before", "after"}
    assert json.loads((tmp_path / "dice.json").read_text())["fitted"] == found
    assert run_evaluation(fittable, None, CPU)[1]
    label = tmp_path / "held-out" / "P02" / "P02-seg.nii.gz"
    label.write_bytes((tmp_path / "held-out" / "P03" / "P03-seg.nii.gz").read_bytes())
    assert not run_evaluation(fittable, None, CPU)[1]


def test_the_teachers_probabilities_are_judged_and_calibrated(fittable: EvaluationRequest, tmp_path: Path) -> None:
    """Before and after temperature; without a record of who made them, or without the fitting cases, before alone."""
    folder = fittable.compare["copy"]
    cases = [*sorted((tmp_path / "held-out").iterdir()), *fittable.cohort.iterdir()]
    for case in cases:
        put_prediction(folder, case, lambda labels: labels)
        labels = load_labels(case / f"{case.name}-seg.nii.gz", load_volume(find_case(case)))
        wrong = np.roll(region_masks(labels), 1, axis=3)
        put_probabilities(folder, case, np.where(wrong, 0.999, 0.001))
    stages = []
    for made_by in ({}, {"cohort_hash": "h"}):
        (folder / "teachers.json").write_text(json.dumps(made_by))
        result, _ = run_evaluation(fittable, Data(), CPU)
        stages.append(result["reliability"]["copy"]["brain"]["WT"])
        assert result["without_probabilities"] == ["FLAIR > 0.75 SD"]
        assert "Without probabilities: FLAIR > 0.75 SD." in result["table"]
    assert list(stages[0]) == ["before"]
    assert stages[1]["after"]["nll"] < stages[1]["before"]["nll"]
    assert result["fitted"]["copy"]["thresholds"] is None
    assert "student_sha256" not in result["fitted"]["copy"]
    (folder / "P02" / "P02-probabilities.npz").unlink()
    assert list(run_evaluation(fittable, Data(), CPU)[0]["fitted"]) == ["bundle"]


def test_what_is_fitted_says_for_whom(fittable: EvaluationRequest, tmp_path: Path) -> None:
    """A student's file, or a bundle's build and student, so that no other bundle takes it."""
    student = tmp_path / "known.pt"
    save_student(student, replace(student_file(-4.0), provenance={"train_cases": ["Q01"]}))
    found = run_evaluation(replace(fittable, students={"s": student}), None, CPU)[0]["fitted"]
    assert found["s"]["student_sha256"] == sha256_file(student)
    assert found["bundle"]["student_sha256"] is None
    assert "build_key" not in found["s"]


def test_cases_that_training_saw_are_not_fitted_on(fittable: EvaluationRequest, tmp_path: Path) -> None:
    """Neither the bundle's training cases, nor the workspace's, nor those that are scored."""
    with pytest.raises(CalibrationError, match="training saw the patients of P03"):
        run_evaluation(fittable, Data(splits=(Split(("c",), ("P03",)),)), CPU)
    folder = tmp_path / "held-out"
    (folder / "P02").rename(folder / "T01")
    with pytest.raises(CalibrationError, match="training saw the patients of T01"):
        run_evaluation(fittable, None, CPU)
    (folder / "T01").rename(folder / "P01")
    with pytest.raises(CalibrationError, match="P01 would be fitted on and scored"):
        run_evaluation(fittable, None, CPU)


def test_a_network_without_a_record_of_its_training_is_not_calibrated(fittable: EvaluationRequest) -> None:
    """Nobody can call a case unseen then."""
    wanted = replace(fittable, bundles={"bundle": fittable.bundles["bundle"].with_name("bundle")})
    with pytest.raises(CalibrationError, match="bundle: no record of the training cases"):
        run_evaluation(wanted, None, CPU)


def test_too_few_patients_are_refused_before_anything_runs(
    fittable: EvaluationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three patients do not make a 90 % interval; the message says how many do."""
    monkeypatch.setattr(evaluate_run, "_INTERVAL_RATE", 0.9)
    monkeypatch.setattr(evaluate_run, "evaluate", None)
    with pytest.raises(CalibrationError, match=r"3 patients.*need 19"):
        run_evaluation(fittable, None, CPU)


def test_fitting_needs_t1c(fittable: EvaluationRequest, tmp_path: Path) -> None:
    """Without it TC and ET have no volumes; the case is named."""
    (tmp_path / "held-out" / "P03" / "P03-t1c.nii.gz").unlink()
    with pytest.raises(CalibrationError, match="P03 lack t1c"):
        run_evaluation(fittable, None, CPU)

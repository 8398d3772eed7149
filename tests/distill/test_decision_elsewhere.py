"""Thresholds for scans unlike those that a student was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from glialite_distill.decision import fit_decision, fit_thresholds
from glialite_distill.decision_elsewhere import decide_elsewhere
from glialite_distill.student_file import load_student, save_student, seen_cases
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError

from tests.conftest import toy, write_case

from .test_evaluate import student_file

CPU = torch.device("cpu")


def faint(logit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a ball of all regions that gets `logit` inside and -8 outside, and its labels."""
    inside = np.linalg.norm(np.indices((12, 12, 12)) - 5.5, axis=0) < 4
    logits = np.where(inside, np.float32(logit), np.float32(-8))
    return np.stack([logits] * 3), np.where(inside, np.uint8(3), np.uint8(0))


def test_what_is_seen_faintly_lowers_the_thresholds() -> None:
    """Probability 0.27 everywhere inside: only a threshold below it finds anything; 0.1 to 0.25 do equally well."""
    assert fit_thresholds([faint(-1.0)], elsewhere=True) == (0.15, 0.15, 0.15)
    assert fit_thresholds([faint(-1.0)])[0] >= 0.3


def test_specks_in_a_healthy_brain_are_left_to_the_smallest_sizes() -> None:
    """They raise the ordinary threshold; elsewhere they raise the size that counts, and the tumour stays whole."""
    speck = np.full((3, 12, 12, 12), -8, np.float32)
    speck[:, 2, 2, 2] = 0.3
    cases = [faint(0.2), (speck, np.zeros((12, 12, 12), np.uint8))]
    rule = fit_decision(lambda: cases, 8.0, elsewhere=True)
    assert max(rule.thresholds) < 0.5
    assert min(rule.minimum_mm3) > 8


def test_without_a_case_of_a_region_nothing_is_fitted() -> None:
    """A healthy brain alone says nothing about where a tumour begins."""
    healthy = np.full((3, 4, 4, 4), -8, np.float32), np.zeros((4, 4, 4), np.uint8)
    assert fit_thresholds([healthy], elsewhere=True) == DecisionRule().thresholds


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Return the file of a student that learnt from patient 1 and sees tumour nowhere."""
    learnt = replace(student_file(-3.0), provenance={"train_cases": ["BraTS-MET-00001-000"]})
    save_student(tmp_path / "student.pt", learnt)
    return tmp_path / "student.pt"


def test_the_rule_goes_into_the_file_and_its_cases_count_as_met(student: Path, tmp_path: Path) -> None:
    """Weights stay; a second time the same file comes out, bit for bit."""
    (tmp_path / "cases").mkdir()
    write_case(tmp_path / "cases" / "BraTS-ELSE-00001-000", toy())
    (tmp_path / "more").mkdir()
    write_case(tmp_path / "more" / "BraTS-ELSE-00002-000", toy())
    before, both = load_student(student), [tmp_path / "cases", tmp_path / "more"]
    decide_elsewhere(student, both, CPU)
    first, after = student.read_bytes(), load_student(student)
    assert after.provenance["decision_cases"] == ["BraTS-ELSE-00001-000", "BraTS-ELSE-00002-000"]
    assert "BraTS-ELSE-00001-000" in seen_cases(after.provenance)
    assert all(torch.equal(after.state[name], tensor) for name, tensor in before.state.items())
    decide_elsewhere(student, both, CPU)
    assert student.read_bytes() == first


def test_patients_that_the_student_met_are_refused(student: Path, tmp_path: Path) -> None:
    """Thresholds fitted on them would say nothing about new patients; the file stays."""
    met = load_student(student).provenance["train_cases"][0]
    (tmp_path / "cases").mkdir()
    write_case(tmp_path / "cases" / met, toy())
    content = student.read_bytes()
    with pytest.raises(ConfigError, match="has met the patients"):
        decide_elsewhere(student, [tmp_path / "cases"], CPU)
    assert student.read_bytes() == content


def test_two_voxel_sizes_are_refused(student: Path, tmp_path: Path) -> None:
    """Smallest sizes are in mm³ and are fitted by counting voxels of one size."""
    (tmp_path / "cases").mkdir()
    write_case(tmp_path / "cases" / "BraTS-ELSE-00001-000", toy())
    finer = toy()
    write_case(tmp_path / "cases" / "BraTS-ELSE-00002-000", replace(finer, affine=finer.affine * [[0.5, 0.5, 0.5, 1]]))
    with pytest.raises(ConfigError, match="one size is needed"):
        decide_elsewhere(student, [tmp_path / "cases"], CPU)


def test_cases_without_labels_are_refused(student: Path, tmp_path: Path) -> None:
    """There is nothing to fit on."""
    (tmp_path / "cases").mkdir()
    case = write_case(tmp_path / "cases" / "BraTS-ELSE-00001-000", toy())
    next(case.glob("*seg*")).unlink()
    with pytest.raises(ConfigError, match="no case with a label map"):
        decide_elsewhere(student, [tmp_path / "cases"], CPU)

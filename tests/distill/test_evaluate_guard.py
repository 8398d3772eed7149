"""Whom a model has met: records of students, bundles, workspaces and folders, and what may be judged or fitted on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from glialite_distill.evaluate_guard import (
    Record,
    fitting_cases,
    record_of,
    record_of_folder,
    record_of_workspace,
    refuse_seen,
)
from glialite_distill.patches import TrainingData
from glialite_runtime.bundle import Bundle, read_bundle
from glialite_runtime.cases import Case
from glialite_runtime.errors import CalibrationError, ConfigError

from .test_evaluate import student_file


@dataclass(frozen=True)
class Split:
    train: tuple[str, ...] = ("P01-000",)
    validation: tuple[str, ...] = ("P02-000",)


@dataclass(frozen=True)
class Data:
    cohort_hash: str = "h"
    splits: tuple[Split, ...] = (Split(),)


DATA = cast("TrainingData", Data())


@pytest.fixture
def bundle_of(make_bundle: Callable[..., Path]) -> Callable[..., Bundle]:
    """Return a function that makes a bundle with a record of its training."""
    found = read_bundle(make_bundle())
    return lambda **training: replace(
        found, manifest=replace(found.manifest, provenance={"training": training} if training else {})
    )


def test_a_student_has_met_its_whole_chain() -> None:
    """Training, validation and the parent's cases, as patients; without a word about the parent it is not complete."""
    chain = {
        "train_cases": ["P01-000"],
        "validation_cases": ["P02-001"],
        "initial": "x",
        "earlier_cases": {"trained": ["Q01-000"], "validated": ["Q02-000"]},
    }
    assert record_of(replace(student_file(0.0), provenance=chain)) == Record(
        frozenset({"P01", "P02", "Q01", "Q02"}), complete=True
    )
    del chain["earlier_cases"]
    assert record_of(replace(student_file(0.0), provenance=chain)) == Record(frozenset({"P01", "P02"}), complete=False)


def test_a_bundle_has_met_whom_its_student_met(bundle_of: Callable[..., Bundle]) -> None:
    """Bundles of today list all; older ones the training cases, which are not all where there was a parent."""
    whole = bundle_of(cases=["P01-000"], seen=["P01-000", "Q01-000"], initial="x")
    assert record_of(whole) == Record(frozenset({"P01", "Q01"}), complete=True)
    assert record_of(bundle_of(cases=["P01-000"], seen=None)) == Record(frozenset({"P01"}), complete=False)
    assert record_of(bundle_of(cases=["P01-000"], initial=None)).complete
    assert not record_of(bundle_of(cases=["P01-000"], initial="x")).complete
    assert record_of(bundle_of()) == Record(frozenset(), complete=False)


def test_predictions_of_a_workspaces_teachers_have_its_record(tmp_path: Path) -> None:
    """Teachers of another workspace, and folders of somebody else, are unknown."""
    assert not record_of_folder(tmp_path, DATA).complete
    (tmp_path / "teachers.json").write_text(json.dumps({"cohort_hash": "h"}))
    assert record_of_folder(tmp_path, DATA) == Record(frozenset({"P01", "P02"}), complete=True)
    assert not record_of_folder(tmp_path, None).complete
    assert not record_of_workspace(None).complete
    for other in ('{"cohort_hash": "other"}', "[]", "{"):
        (tmp_path / "teachers.json").write_text(other)
        assert not record_of_folder(tmp_path, DATA).complete


def test_judging_on_patients_that_a_model_met_is_refused() -> None:
    """Another scan of the patient counts; the first three cases are named, with how many more there are."""
    cases = [Case(f"P0{n}-001", {}) for n in range(1, 6)]
    met = Record(frozenset({"P01", "P02", "P03", "P05"}), complete=True)
    with pytest.raises(ConfigError, match=r"^parent has met .* P01-001, P02-001, P03-001 and 1 more: .*out of the"):
        refuse_seen(cases, {"parent": met, "other": Record(frozenset({"Z"}), complete=False)})
    refuse_seen(cases[3:4], {"parent": met})


def test_an_incomplete_record_stops_fitting_alone(case_folder: Path) -> None:
    """Judging goes on, since nothing speaks against it; calibrating needs to know."""
    record = Record(frozenset(), complete=False)
    refuse_seen([Case("P01", {})], {"m": record})
    with pytest.raises(CalibrationError, match=r"^m: no record of the training cases"):
        fitting_cases(case_folder.parent, [], {"m": record}, 0.5)

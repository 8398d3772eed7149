"""The verb `distill evaluate`: its options reach the evaluation, and names that clash are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from glialite_distill.cli import app
from glialite_runtime.command import run


def evaluate(*arguments: object) -> int:
    return run(app, ["evaluate", *(str(a) for a in arguments)])


def test_a_bundle_with_every_set_of_sequences(
    case_folder: Path, make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifteen rows of the bundle, and the tables as Markdown beside the CSV."""
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    case_folder.rename(cohort / case_folder.name)
    command = ("--cohort", cohort, "--bundle", make_bundle(), "--subsets", "--csv", tmp_path / "out" / "dice.csv")
    assert evaluate(*command, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert {row["source"] for row in result["subsets"]} == {"bundle as in the clinic"}
    assert len(result["subsets"]) == 15
    assert (tmp_path / "out" / "dice.md").read_text() == result["table"]


def test_two_bundles_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One would hide the other: exit 2, and both paths are named."""
    assert evaluate("--cohort", tmp_path, "--bundle", tmp_path / "a" / "b", "--bundle", tmp_path / "c" / "b") == 2
    assert "have one name" in capsys.readouterr().err


def test_fitting_needs_a_record_of_the_training(
    case_folder: Path, make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle that does not say what it was trained on: exit 6, before anything runs."""
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    case_folder.rename(cohort / case_folder.name)
    assert evaluate("--cohort", cohort, "--bundle", make_bundle(), "--fit-on", cohort) == 6
    assert "no record of the training cases" in capsys.readouterr().err

"""What the operator is shown, and what an answer changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from glialite_runtime.dicom.confirmation import assign, confirmed, table_of
from glialite_runtime.dicom.study import Study, read_study
from glialite_runtime.errors import ConfigError

from tests.runtime.dicom.conftest import T2W, write


def numbers(study: Study) -> dict[str, str]:
    return {sequence: found.series.number for sequence, found in study.chosen.items()}


def test_the_table_shows_who_what_and_why(study_folder: Path) -> None:
    """Patient, study, accession number, each choice with its reason, doubts marked, the missing named."""
    write(study_folder, replace(T2W, number=7, scanning=("EP",), description="ep2d diff"))
    study = assign(read_study(study_folder), {"t2f": "none"})
    text = table_of(replace(study, chosen={**study.chosen, "t1n": replace(study.chosen["t1n"], doubtful=True)}))
    assert text.splitlines()[0] == "patient P-0017  Mwangi^A  born 19700102  study 2026-03-01  accession A4711"
    assert "t1c  series 6 't1 se tra gd' 24 × 5.0 mm" in text
    assert "contrast agent 'Gadovist' in the header" in text
    assert "     CHECK: spin echo" in text
    assert "t2f  -- nothing found" in text
    assert "series 7 'ep2d diff' 24 × 5.0 mm: is echo-planar" in text


def test_the_operator_decides(study_folder: Path) -> None:
    """A choice by number replaces what was recognised, gives up its old place, and says who chose."""
    study = assign(read_study(study_folder), {"t1n": "6", "t2f": "none"})
    assert numbers(study) == {"t1n": "6", "t2w": "4"}
    assert study.chosen["t1n"].reason == "chosen by the operator"
    assert {found.series.number for found in study.left_out} == {"3", "5"}


@pytest.mark.parametrize("choice", [{"t3": "4"}, {"t1n": "77"}, {"t1n": ""}])
def test_a_choice_that_is_none_is_refused(study_folder: Path, choice: dict[str, str]) -> None:
    """An unknown sequence, a number that is not there."""
    with pytest.raises(ConfigError, match="give one of t1n, t1c, t2w, t2f and the number"):
        assign(read_study(study_folder), choice)


def answers(*given: str) -> tuple[Callable[[str], str], list[str]]:
    shown: list[str] = []
    left: Iterator[str] = iter(given)

    def ask(text: str) -> str:
        shown.append(text)
        return next(left)

    return ask, shown


def test_confirmation_with_a_change(study_folder: Path) -> None:
    """Nonsense is answered with what is needed; a change is shown again; yes ends it."""
    ask, shown = answers("what?", "t2f=none", "Y")
    assert "t2f" not in confirmed(read_study(study_folder), ask).chosen
    assert "give one of t1n" in shown[1]
    assert "t2f  -- nothing found" in shown[2]


def test_no_stops(study_folder: Path) -> None:
    """Nothing happens without consent."""
    with pytest.raises(ConfigError, match="not confirmed"):
        confirmed(read_study(study_folder), answers("n")[0])

"""The sentences that no result goes without."""

from __future__ import annotations

from typing import Any

import pytest
from glialite_runtime.page.warnings import warnings_of
from glialite_runtime.page.words import LANGUAGES, words_in


def document(**changed: Any) -> dict[str, Any]:
    bundle = {"trained_on": "1251 BraTS-GLI cases", "precision": "fp32", "golden_crop": "matches"}
    return {"volumes_ml": {"WT": 3.0}, "bundle": bundle | changed.pop("bundle", {}), **changed}


@pytest.mark.parametrize("language", LANGUAGES)
def test_not_for_diagnosis_is_always_said(language: str) -> None:
    """In every language, and alone where nothing else is wrong."""
    words = words_in(language)
    assert warnings_of(document(), words) == [words.say("not_for_diagnosis")]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"volumes_ml": {"WT": 0.0}}, "No tumour was outlined"),
        ({"bundle": {"trained_on": "synthetic patients only"}}, "synthetic patients only"),
        ({"bundle": {"trained_on": "60 cases and synthetic patients"}}, "in part on synthetic"),
        ({"bundle": {"golden_crop": "differs"}}, "self-check"),
        ({"identity": {"age_years": 9}}, "9 years old"),
        ({"correction": {}}, "Corrected by hand"),
    ],
)
def test_each_reason_adds_its_sentence(changed: dict[str, Any], says: str) -> None:
    """One reason, one sentence more."""
    said = warnings_of(document(**changed), words_in("en"))
    assert len(said) == 2
    assert says in said[1]


def test_an_adult_or_an_unknown_age_adds_nothing() -> None:
    """18 years, or no age in the files."""
    for identity in ({"age_years": 18}, {"age_years": None}, {}, None):
        assert len(warnings_of(document(identity=identity), words_in("en"))) == 1

"""Whose scan it is: shown when it is there, harmless when somebody meant harm."""

from __future__ import annotations

from glialite_runtime.page.identity import clean, readable_date, shown_identity


def test_fields_come_in_a_fixed_order_and_only_when_they_say_something() -> None:
    """DICOM's name and date are made readable; empty and unknown fields are left out."""
    identity = {
        "study_date": "20261104",
        "patient_id": " KNH-1 ",
        "patient_name": "MWANGI^Grace",
        "accession_number": "",
        "series": {"t1c": {}},
    }
    assert list(shown_identity(identity).items()) == [
        ("patient_name", "MWANGI Grace"),
        ("patient_id", "KNH-1"),
        ("study_date", "2026-11-04"),
    ]


def test_nothing_known_shows_nothing() -> None:
    """Also when the fields are there and null."""
    assert shown_identity({}) == {}
    assert shown_identity({"patient_id": None}) == {}


def test_characters_that_hide_or_turn_others_are_taken_out() -> None:
    """A right-to-left override would show another number than the file holds."""
    assert clean("A\u202e123\u200b\x00\nB\ud800") == "A123 B"


def test_long_text_is_cut_visibly() -> None:
    """64 characters, the last of them an ellipsis."""
    assert len(clean("x" * 5000)) == 64
    assert clean("x" * 5000).endswith("…")


def test_what_is_no_date_stays_as_it_is() -> None:
    """Eight digits are DICOM's; anything else is shown as given."""
    assert readable_date("2026") == "2026"

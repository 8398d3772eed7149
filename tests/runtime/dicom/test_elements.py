"""Values of DICOM elements: what makes no sense becomes nothing."""

from __future__ import annotations

from datetime import datetime

import pytest
from glialite_runtime.dicom.elements import moment, number, numbers, text, whole, words


@pytest.mark.parametrize(
    ("value", "expected"),
    [("12.5", 12.5), (["3", "4"], 3), (None, None), ("", None), ("x", None), ("nan", None), ([], None)],
)
def test_number(value: object, expected: float | None) -> None:
    """The first of several; NaN and text are none."""
    assert number(value) == expected


def test_numbers_are_complete_or_none() -> None:
    """Two of three coordinates are no position; nor is an infinite one."""
    assert numbers([1, 2, 3], 3) == [1, 2, 3]
    assert numbers([1, 2], 3) is None
    assert numbers([1, 2, float("inf")], 3) is None


def test_whole() -> None:
    """Negative and absent counts are 0."""
    assert [whole(v) for v in (7, "7", -1, None, "many")] == [7, 7, 0, 0, 0]


def test_text_is_one_printable_line() -> None:
    """Control characters, which could rewrite a terminal, are dropped; a value is 128 characters at most."""
    assert text(" a\x1b[31m\nb\0") == "a[31mb"
    assert len(text("x" * 1000)) == 128
    assert text(None) == ""


def test_words() -> None:
    """One word or several, upper-case."""
    assert words(["se", "IR", ""]) == ("SE", "IR")
    assert words("gr") == ("GR",)
    assert words(None) == ()


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("20260301", "103015.25", datetime(2026, 3, 1, 10, 30, 15)),
        ("20260301103015.1+0300", None, datetime(2026, 3, 1, 10, 30, 15)),
        ("20260301", None, datetime(2026, 3, 1)),
        ("20260301", "", None),
        ("", "103015", None),
        ("20261301", "103015", None),
        ("yesterday", "103015", None),
    ],
)
def test_moment(date: str, time: str | None, expected: datetime | None) -> None:
    """Date with time, both in one, a date alone; half a moment is none."""
    assert moment(date, time) == expected

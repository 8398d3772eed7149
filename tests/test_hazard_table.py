"""Safety: no hazard without a control, no control without a test, and a page that says so today."""

from __future__ import annotations

import pytest

from tests.hazard_table import PAGE, page, table

REAL = "test_hazard_table.py::test_the_page_is_today_s"


def test_the_page_is_today_s() -> None:
    """Every test that docs/safety.md cites is there; else see the message, or run python -m tests.hazard_table."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text


@pytest.mark.parametrize(
    ("hazard", "problem"),
    [
        ({"controls": []}, "H1 has no control"),
        ({"controls": [{"control": "none", "tests": []}]}, "'none' has no test"),
        (
            {"controls": [{"control": "x", "tests": [REAL, "test_hazard_table.py::test_gone"]}]},
            "test_gone does not exist",
        ),
        (
            {"controls": [{"control": "x", "tests": ["test_absent.py::test_x"]}]},
            "test_absent.py::test_x does not exist",
        ),
        ({"controls": [{"control": "x", "tests": ["hazard_table.py::table"]}]}, "does not exist"),
    ],
    ids=["no control", "no test", "test gone", "file gone", "no test function"],
)
def test_a_hazard_that_nothing_controls_is_found(hazard: dict[str, object], problem: str) -> None:
    """Each way in which a promise can lose its proof."""
    with pytest.raises(LookupError, match=problem):
        table({"H1": {"hazard": "x", **hazard}})


def test_a_row_names_hazard_control_and_test() -> None:
    """One row a control, the hazard once."""
    control = {"control": "this", "tests": [REAL]}
    rows = table({"H1": {"hazard": "that", "controls": [control, control]}}).splitlines()
    assert rows[2].startswith("| H1 | that | this | [the page is today s](../tests/test_hazard_table.py)")
    assert rows[3].startswith("|  |  | this | [")

"""The report for machines: CSV a spreadsheet cannot be fooled with, JSON that is read without trust."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.report import ReportOptions, read_json, table_of


def document(**changes: Any) -> dict[str, Any]:
    lines = {"longest_mm": 31.5, "perpendicular_mm": 20.0, "product_mm2": 630.0, "slice_z": 4, "measurable": True}
    base = {
        "case": "P01",
        "identity": {"patient_id": "KNH-1"},
        "volumes_ml": {"WT": 12.5, "TC": None, "ET": None},
        "volume_intervals_ml": {"WT": {"rate": 0.9, "low": 10.0, "high": 15.0}},
        "diameters": {"WT": lines, "ET": None},
        "hemisphere": "left",
        "quality": {"verdict": "good"},
        "software": "GliaLite",
        "bundle": {"sha256": "ab"},
        "created": "2026-11-21",
    }
    return base | changes


def rows_of(document: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_of(document))))


def test_the_table_has_a_row_a_region_and_empty_fields_for_what_is_unknown() -> None:
    """An unknown volume is no zero."""
    rows = rows_of(document())
    assert [row["region"] for row in rows] == ["WT", "TC", "ET"]
    assert (rows[0]["volume_ml"], rows[0]["low_ml"], rows[0]["product_mm2"]) == ("12.5", "10.0", "630.0")
    assert (rows[1]["volume_ml"], rows[1]["high_ml"], rows[2]["longest_mm"]) == ("", "", "")
    assert {row["patient_id"] for row in rows} == {"KNH-1"}


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@x", "\tx"])
def test_a_name_that_starts_like_a_formula_is_text(name: str) -> None:
    """Spreadsheets would compute it."""
    assert {row["case"] for row in rows_of(document(case=name))} == {f"'{name}"}


def test_quotes_and_line_breaks_stay_in_their_field() -> None:
    """A name cannot add columns or rows."""
    rows = rows_of(document(case='a",b\nc'))
    assert len(rows) == 3
    assert rows[0]["case"] == 'a",b\nc'


def test_options_with_an_unknown_language_are_refused() -> None:
    """Before anything is computed."""
    with pytest.raises(ConfigError, match="choose one of"):
        ReportOptions("xx")


def test_the_fingerprint_of_options_names_nobody() -> None:
    """The manifest holds it; a different patient is a different one."""
    first, second = (ReportOptions(identity={"patient_name": name}).fingerprint for name in ("MWANGI", "OTIENO"))
    assert first != second
    assert "MWANGI" not in str(first)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b" " * (5 << 20)])
def test_damaged_json_is_bad_input(tmp_path: Path, content: bytes) -> None:
    """Empty, cut, no object, no UTF-8, nested without end, too large."""
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_json(tmp_path / "x.json")

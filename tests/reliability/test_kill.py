"""The judge of the power-cut proof: it sees what it must see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from glialite_runtime.files import sha256_file

from bench.reliability.kill import Command, faults, finals, one_kill, rehearsed, summary


def results(folder: Path) -> Path:
    """Write what looks like the results of a case."""
    folder.mkdir(parents=True)
    (folder / "P-seg.nii.gz").write_bytes(b"labels")
    (folder / "P-report.json").write_text('{"created": "2026-01-01T10:00:00+00:00", "volume": 1}')
    files = {name: sha256_file(folder / name) for name in ("P-seg.nii.gz", "P-report.json")}
    (folder / "P-manifest.json").write_text(json.dumps({"files": files}))
    return folder.parent


def test_equal_results_of_another_time_have_no_fault(tmp_path: Path) -> None:
    """The time of day is no difference; a hidden half-written file is none either."""
    reference = finals(results(tmp_path / "a" / "P"))
    other = results(tmp_path / "b" / "P")
    (other / "P" / ".P-seg.nii.gz.77.part").write_bytes(b"lab")
    assert faults(other, reference) == []
    assert finals(other) == reference


def test_a_partial_file_under_a_final_name_is_a_fault(tmp_path: Path) -> None:
    """Half a label map, with a manifest that does not hold."""
    reference = finals(results(tmp_path / "a" / "P"))
    other = results(tmp_path / "b" / "P")
    (other / "P" / "P-seg.nii.gz").write_bytes(b"lab")
    found = " ".join(faults(other, reference))
    assert "P-seg.nii.gz differs" in found
    assert "lists P-seg.nii.gz, which is not so" in found


def test_kills_are_counted_by_phase() -> None:
    """Only those between the first and the last write count as such."""
    phases = ("before the first write", "3 of 7 files, between two", "all files there", "after the end")
    text = summary([{"command": "segment", "phase": p, "faults": []} for p in phases])
    assert text.startswith("4 kills, 1 of them between the first and the last write; 0 left")


@pytest.mark.slow
def test_killed_runs_leave_nothing_partial(case_folder: Path, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    """Four real kills of `glialite segment`, two of them while it writes."""
    words = ("segment", str(case_folder), "--out", "OUT", "--bundle", str(make_bundle()), "--threads", "1")
    timed, reference = rehearsed(Command("segment", words), tmp_path / "scratch")
    for number in (18, 19, 38, 39):  # these are fresh processes: nothing forks the process that runs the tests
        assert one_kill(timed, reference, tmp_path / "scratch", number)["faults"] == []

"""The page's list: what comes in under which limits, what is worked on, what is deleted."""

from __future__ import annotations

import io
import threading
import zipfile
from pathlib import Path

import pytest
from glialite_runtime.cases import Case
from glialite_runtime.clinic.worklist import Limits, Result, Worklist
from glialite_runtime.errors import ConfigError, InputError, OutputError
from glialite_runtime.report import ReportOptions

LIMITS = Limits(file_bytes=100, case_bytes=150, files=4, cases=2, spare_bytes=0)


@pytest.fixture
def worklist(tmp_path: Path) -> Worklist:
    return Worklist(tmp_path, lambda name: name == "taken", LIMITS)


def drop(worklist: Worklist, *names: str, content: bytes = b"x") -> str:
    key = worklist.open().key
    for name in names:
        worklist.receive(key, name, len(content), io.BytesIO(content))
    return key


def test_files_lie_under_names_made_here(worklist: Worklist, tmp_path: Path) -> None:
    """The sequence is told by the name that came; the name itself never touches the disk."""
    key = worklist.open().key
    assert worklist.receive(key, "P1_FLAIR.NII.GZ", 3, io.BytesIO(b"abc")) == "t2f"
    assert worklist.receive(key, "IM0001", 3, io.BytesIO(b"abc")) is None
    stored = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.read_bytes() for p in stored} == {b"abc"}
    assert not any("P1" in str(p) or "IM" in str(p) for p in stored)
    assert worklist.suggested_name(worklist.get(key)) == "P1"


@pytest.mark.parametrize("name", ["", "../x.nii", "a/b.nii", "C:\\x.nii", "a\0b", "x" * 300, "a\nb", "..\\..\\x"])
def test_a_hostile_name_is_refused(worklist: Worklist, tmp_path: Path, name: str) -> None:
    """And nothing is stored."""
    with pytest.raises(InputError, match="no name of a file"):
        drop(worklist, name)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_limits_hold_and_what_was_refused_is_not_counted(worklist: Worklist, tmp_path: Path) -> None:
    """Bytes of a file, of a case, number of files, of cases; empty files."""
    key = drop(worklist, "a", content=bytes(90))
    for length in (0, 101):
        with pytest.raises(InputError, match="are accepted"):
            worklist.receive(key, "b", length, io.BytesIO(bytes(length)))
    with pytest.raises(InputError, match="one case at a time"):
        worklist.receive(key, "b", 61, io.BytesIO(bytes(61)))
    for name in ("b", "c", "d"):
        worklist.receive(key, name, 20, io.BytesIO(bytes(20)))
    with pytest.raises(InputError, match="one case at a time"):
        worklist.receive(key, "e", 1, io.BytesIO(b"x"))
    with pytest.raises(InputError, match="twice"):
        worklist.receive(drop(worklist, "a"), "A", 1, io.BytesIO(b"x"))
    with pytest.raises(ConfigError, match="full"):
        worklist.open()
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 5


def test_a_file_that_came_in_part_leaves_nothing(worklist: Worklist, tmp_path: Path) -> None:
    """Its name is free again."""
    key = worklist.open().key
    with pytest.raises(InputError, match="only in part"):
        worklist.receive(key, "a.nii", 50, io.BytesIO(b"too short"))
    assert worklist.get(key).files == {}
    worklist.receive(key, "a.nii", 1, io.BytesIO(b"x"))


def test_a_disk_that_would_be_filled_is_said(tmp_path: Path) -> None:
    """Before a byte is written."""
    worklist = Worklist(tmp_path, lambda name: False, Limits(spare_bytes=1 << 60))
    with pytest.raises(OutputError, match="too full"):
        drop(worklist, "a.nii")


@pytest.mark.parametrize("name", ["", "taken", "..", ".x", "a/b", "a\\b", "x" * 101, "P1.", "a\nb"])
def test_a_case_name_that_cannot_be_one_or_is_taken_is_refused(worklist: Worklist, name: str) -> None:
    """It becomes the name of a folder and of files."""
    key = drop(worklist, "a.nii")
    with pytest.raises(InputError):
        worklist.start(key, name, {"t1c": "a.nii"})
    assert worklist.get(key).state == "collecting"


def test_two_cases_cannot_have_one_name(worklist: Worklist) -> None:
    """The second one's results would lie where the first one's are shown from."""
    worklist.start(drop(worklist, "a.nii"), "P1", {"t1c": "a.nii"})
    with pytest.raises(InputError, match="p1 already"):
        worklist.start(drop(worklist, "b.nii"), "p1", {"t1c": "b.nii"})


@pytest.mark.parametrize("chosen", [{"t1c": "absent"}, {"t9": "a.nii"}, {"t1c": "a.nii", "t1n": "a.nii"}])
def test_a_choice_that_makes_no_sense_is_refused(worklist: Worklist, chosen: dict[str, str]) -> None:
    """No such file, no such sequence, one file as two sequences."""
    with pytest.raises(InputError):
        worklist.start(drop(worklist, "a.nii"), "P1", chosen)


def run(worklist: Worklist, seen: list[Case], problem: Exception | None = None) -> None:
    stop = threading.Event()

    def work(case: Case, wanted: ReportOptions) -> Result:
        seen.append(case)
        stop.set()
        if problem is not None:
            raise problem
        return Result({"case": case.name}, {})

    worklist.work_on(work, stop)


def test_the_choice_of_the_user_counts(worklist: Worklist) -> None:
    """Whatever the names say; in the order of the sequences."""
    key, seen = drop(worklist, "P_t1.nii", "P_t2.nii"), []
    worklist.start(key, "P1", {"t2f": "P_t1.nii", "t1c": "P_t2.nii"})
    run(worklist, seen)
    files = worklist.get(key).files
    assert seen[0].paths == {"t1c": files["P_t2.nii"], "t2f": files["P_t1.nii"]}
    assert worklist.get(key).state == "done"


def test_a_zip_is_unpacked_and_its_scratch_goes_with_the_case(tmp_path: Path) -> None:
    """The images stay until the case is removed, because they are shown."""
    worklist, seen, content = Worklist(tmp_path, lambda name: False), [], io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        made.writestr("P1/t1c.nii", b"x")
    key = drop(worklist, "P1.zip", content=content.getvalue())
    assert worklist.suggested_name(worklist.get(key)) == "P1"
    worklist.start(key, "Q", {})
    run(worklist, seen)
    assert seen[0].name == "Q"
    assert seen[0].paths["t1c"].read_bytes() == b"x"
    worklist.remove(key)
    assert not list(tmp_path.iterdir())


def test_a_refusal_speaks_of_the_users_files(worklist: Worklist) -> None:
    """Not of the names that were made here."""
    key, seen = drop(worklist, "mine.nii"), []
    path = worklist.get(key).files["mine.nii"]
    worklist.start(key, "P1", {"t1c": "mine.nii"})
    run(worklist, seen, InputError(f"{path} is truncated; {path.name} too"))
    assert worklist.get(key).sentence == "mine.nii is truncated; mine.nii too"
    assert worklist.get(key).state == "failed"


def test_our_own_bug_is_one_failed_case(worklist: Worklist) -> None:
    """The worker goes on; no path is told."""
    key = drop(worklist, "a.nii")
    worklist.start(key, "P1", {"t1c": "a.nii"})
    run(worklist, [], ValueError("/secret/path"))
    assert "ValueError" in worklist.get(key).sentence
    assert "secret" not in worklist.get(key).sentence


def test_what_is_worked_on_cannot_be_removed_or_changed(worklist: Worklist) -> None:
    """Nor started again."""
    key = drop(worklist, "a.nii")
    worklist.start(key, "P1", {"t1c": "a.nii"})
    problems = []

    def work(case: Case, wanted: ReportOptions) -> Result:
        for attempt in (
            lambda: worklist.remove(key),
            lambda: worklist.receive(key, "b", 1, io.BytesIO(b"x")),
            lambda: worklist.start(key, "P2", {"t1c": "a.nii"}),
        ):
            with pytest.raises(InputError) as caught:
                attempt()
            problems.append(str(caught.value))
        stop.set()
        return Result({}, {})

    stop = threading.Event()
    worklist.work_on(work, stop)
    assert len(problems) == 3
    worklist.remove(key)
    with pytest.raises(InputError, match="not in the list"):
        worklist.get(key)

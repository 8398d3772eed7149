"""A USB stick with several studies: they are listed, one is chosen, and never two patients are mixed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from glialite_runtime.cases import Case
from glialite_runtime.cli import app
from glialite_runtime.clinic.arrivals import by_study, find_arrivals, open_arrival
from glialite_runtime.command import run
from glialite_runtime.dicom.headers import Header, Identity, Protocol
from glialite_runtime.dicom.parsing import study_of
from glialite_runtime.dicom.studies import Selected, select_study
from glialite_runtime.dicom.study import converted_study, read_study
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.workflow import Result

from tests.runtime.dicom.conftest import T1N, T2F, write_study

STICK = Path("stick")
LATER = {"StudyInstanceUID": "1.2.9.2", "StudyDate": "20260901", "StudyDescription": "MR follow-up"}
HOW = Protocol("MR", "", "", "", (), (), (), None, None, None, None, None, "", None, False, False, False)


def header(study: str, date: str = "20260301", patient: str = "P-17", series: str = "1", name: str = "A") -> Header:
    who = Identity(patient, name, "19700102", "", date, study, None, "MR head")
    return Header(Path(f"{study}-{series}"), f"{study}.{series}.1", series, series, "", who, HOW, None, None, (), None)


def test_one_study_needs_no_choice() -> None:
    """It has no label, and nothing is said of others."""
    files = (header("1.2"), header("1.2", series="2"))
    assert select_study(files, None, STICK) == Selected(files)


def test_several_studies_are_listed_by_date() -> None:
    """Date, description, series and files of each, and how to choose; of the patient, who is one, not a word."""
    files = [header("1.2.9", "20260901"), header("1.2.3"), header("1.2.3", series="2"), header("1.2.3", series="2")]
    with pytest.raises(InputError) as caught:
        select_study(files, None, STICK)
    lines = str(caught.value).splitlines()
    assert lines[0] == "stick holds 2 studies:"
    assert lines[1] == "  1  2026-03-01  'MR head'  2 series, 3 files  UID 1.2.3"
    assert lines[2].startswith("  2  2026-09-01")
    assert "--study N" in lines[3]
    assert "P-17" not in str(caught.value)


def test_studies_of_two_patients_are_told_apart_by_their_ids() -> None:
    """Two people scanned on one day: the ID is needed to choose; the name is not shown."""
    with pytest.raises(InputError, match=r"patient P-17[^P]+patient P-18") as caught:
        select_study([header("1.2", name="Mwangi"), header("1.3", patient="P-18", name="Otieno")], None, STICK)
    assert "Mwangi" not in str(caught.value)


@pytest.mark.parametrize(("wanted", "uid"), [("1", "1.2.30"), ("2", "1.2.9"), ("1.2.9", "1.2.9"), ("1.2.3", "1.2.30")])
def test_a_study_is_chosen_by_number_or_uid(wanted: str, uid: str) -> None:
    """By its place in the list, or by the beginning of its UID; its date tells it from the other."""
    chosen = select_study([header("1.2.9", "20260901"), header("1.2.30")], wanted, STICK)
    assert {one.identity.study_uid for one in chosen.headers} == {uid}
    assert chosen.label in ("20260301", "20260901")
    assert chosen.notes[0].startswith("The folder holds 2 studies; this is the one of 2026-0")


@pytest.mark.parametrize("wanted", ["0", "3", "1.2", "1.5", "", "all", "1.2.9.1"])
def test_a_choice_that_is_not_one_study_is_refused(wanted: str) -> None:
    """None by that number or name, or two that begin so: the list is shown again."""
    with pytest.raises(ConfigError, match=r"(?s)one is needed:.*1\.2\.9"):
        select_study([header("1.2.9"), header("1.2.3")], wanted, STICK)


def test_two_studies_of_one_day_have_different_labels() -> None:
    """Their results would overwrite each other otherwise."""
    files = [header("1.2.9"), header("1.2.3"), header("1.2.4", "")]
    assert [select_study(files, n, STICK).label for n in "123"] == ["undated", "20260301-1", "20260301-2"]


@pytest.mark.parametrize("wanted", [None, "1"])
def test_two_patients_in_one_study_are_refused(wanted: str | None) -> None:
    """Chosen or alone: a report for the wrong patient is the worst outcome."""
    with pytest.raises(InputError, match="more than one patient"):
        select_study([header("1.2"), header("1.2", patient="P-18")], wanted, STICK)


def test_a_damaged_study_does_not_stand_in_the_way_of_another() -> None:
    """The one that mixes two patients is refused when it is chosen, and only then."""
    files = [header("1.2"), header("1.2", patient="P-18"), header("1.3", "20260901")]
    assert len(select_study(files, "2", STICK).headers) == 1


def test_the_chosen_study_becomes_a_case_of_its_own(tmp_path: Path) -> None:
    """From files all in one heap: its series alone, a name of its own, and a note that there are others."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    folder = write_study(tmp_path / "stick", T1N, replace(T2F, number=15, tags=LATER))
    with pytest.raises(InputError, match="'MR follow-up'  1 series, 24 files"):
        read_study(folder)
    with converted_study(folder, tmp_path / "out", None, lambda study: study, "2") as case:
        assert case.name == "stick-20260901"
        assert list(case.paths) == ["t2f"]
        assert case.study is not None
        assert any("2 studies" in note for note in case.study.notes)


def test_an_unattended_program_says_how_to_choose(tmp_path: Path) -> None:
    """`watch` and `serve` cannot ask: the sentence lists the studies and names the commands."""
    folder = write_study(tmp_path / "in" / "stick", T1N, replace(T2F, number=15, tags=LATER))
    (arrival,) = find_arrivals(folder.parent)
    with pytest.raises(InputError, match="glialite segment FOLDER --study N"):
        open_arrival(arrival, tmp_path / "room")


def test_each_study_of_a_folder_is_a_case_by_itself(tmp_path: Path) -> None:
    """Called after folder and date; a folder with one study, or with none, stays what it is."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    write_study(tmp_path / "in" / "stick", T1N, replace(T2F, number=15, tags=LATER))
    write_study(tmp_path / "in" / "alone", replace(T1N, shape=(2, 8, 8)))
    (tmp_path / "in" / "text").mkdir()
    (tmp_path / "in" / "text" / "a.txt").write_text("")
    found = {arrival.name: arrival for arrival in by_study(find_arrivals(tmp_path / "in"))}
    assert list(found) == ["alone", "stick-20260301", "stick-20260901", "text"]
    case = open_arrival(found["stick-20260901"], tmp_path / "room")
    assert (case.name, list(case.paths)) == ("stick-20260901", ["t2f"])
    assert case.study is not None
    assert {one.series.identity.study_uid for one in case.study.chosen.values()} == {"1.2.9.2"}


def test_a_study_and_a_folder_of_one_name_are_refused(tmp_path: Path) -> None:
    """The results of two patients would lie in one place."""
    tiny = replace(T1N, shape=(1, 8, 8))
    write_study(tmp_path / "stick", tiny, replace(tiny, number=15, tags=LATER))
    write_study(tmp_path / "stick-20260901", tiny)
    found = by_study(find_arrivals(tmp_path))
    assert [bool(arrival.problem) for arrival in found] == [False, True, True]
    with pytest.raises(InputError, match="would overwrite each other"):
        open_arrival(found[1], tmp_path / "room")


def test_a_study_that_begins_as_another_is_found() -> None:
    """By its whole UID."""
    files = [header("1.2.9"), header("1.2.9.1")]
    assert select_study(files, "1.2.9", STICK).headers == (files[0],)


@pytest.mark.parametrize("content", [b"", bytes(200), b"\xff" * 100, b"1.2.840.10008.1.2.1.99"])
def test_files_that_are_no_images_name_no_study(tmp_path: Path, content: bytes) -> None:
    """Whatever stands behind the beginning of a DICOM file; what is deflated as a whole is not inflated."""
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + content)
    assert study_of(path) is None


def test_batch_works_on_each_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that cannot be converted does not stand in the way of the other."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    write_study(tmp_path / "in" / "stick", replace(T1N, shape=(2, 8, 8)), replace(T2F, number=15, tags=LATER))
    made = []

    def work(case: Case, *given: object) -> Result:
        made.append(case.name)
        return Result({}, case.name)

    monkeypatch.setattr("glialite_runtime.workflow.open_model", lambda *given, **options: None)
    monkeypatch.setattr("glialite_runtime.workflow.segment_case", work)
    assert run(app, ["batch", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 8
    assert made == ["stick-20260901"]
    assert "stick-20260301: no series of" in capsys.readouterr().err

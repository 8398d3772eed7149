"""What lies in a folder, and how its slices lie: by headers, never by file names."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from glialite_runtime.dicom.series import scan_folder
from glialite_runtime.errors import InputError

from tests.runtime.dicom.conftest import CORONAL, SAGITTAL, STUDY, T1N, T2W, images, tilted, write, write_study


def problem_of(folder: Path) -> str:
    (found,) = scan_folder(folder).series
    assert found.problem is not None
    return found.problem


def test_a_heap_of_files_becomes_series(study_folder: Path) -> None:
    """Four series in one folder under senseless names: each with its slices, spacing and protocol, sorted."""
    scan = scan_folder(study_folder)
    assert [(s.number, len(s.frames), s.spacing_mm, s.problem) for s in scan.series] == [
        (str(n), 24, pytest.approx(5), None) for n in (3, 4, 5, 6)
    ]
    assert scan.notes == ()
    heights = [frame.plane.position_mm[2] for frame in scan.series[0].frames]
    assert heights == sorted(heights)
    assert scan.series[2].protocol.ti_ms == 2500


def test_whose_it_is(study_folder: Path) -> None:
    """Patient ID, accession number, date and age are kept for the report."""
    who = scan_folder(study_folder).series[0].identity
    assert (who.patient_id, who.accession_number, who.study_date, who.age_years) == ("P-0017", "A4711", "20260301", 56)


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    """Without its eighth slice a series is no volume."""
    made = images(T1N)
    del made[7]
    assert "lacks 1 of its slices (first after slice 7)" in problem_of(write(tmp_path, T1N, made))


def test_a_dynamic_series_is_no_volume(tmp_path: Path) -> None:
    """Two time points at one place, under one series."""
    late = images(replace(T1N, number=33))
    for image in late:
        image.SeriesInstanceUID, image.SeriesNumber = images(T1N)[0].SeriesInstanceUID, 3
    write(tmp_path, T1N)
    assert "more than once (48 slices at 24 places)" in problem_of(write(tmp_path, T1N, late))


def test_two_echoes_become_two_stacks(tmp_path: Path) -> None:
    """Proton density and T2 of one dual-echo series are told apart by their echo time."""
    second = images(replace(T2W, number=44, te=20))
    for image in second:
        image.SeriesInstanceUID, image.SeriesNumber = images(T2W)[0].SeriesInstanceUID, 4
    write(tmp_path, T2W)
    found = scan_folder(write(tmp_path, T2W, second)).series
    assert [(s.number, s.protocol.te_ms, len(s.frames), s.problem) for s in found] == [
        ("4", 20, 24, None),
        ("4", 100, 24, None),
    ]


def test_a_localiser_of_three_directions_becomes_three_stacks(tmp_path: Path) -> None:
    """Three orientations under one series identifier do not become one volume."""
    for part, way in enumerate((T1N.orientation, SAGITTAL, CORONAL)):
        made = images(replace(T1N, number=10 + part, orientation=way, shape=(3, 48, 64)))
        for image in made:
            image.SeriesInstanceUID, image.SeriesNumber = "1.2.3", 1
        write(tmp_path, T1N, made)
    assert [len(s.frames) for s in scan_folder(tmp_path).series] == [3, 3, 3]


def test_a_sheared_stack_is_refused(tmp_path: Path) -> None:
    """Slices that shift sideways (a tilted gantry) cannot become a NIfTI file unchanged."""
    made = images(T1N)
    for n, image in enumerate(made):
        image.ImagePositionPatient = [-110, -80 + n, -60 + 5 * n]
    assert "sheared" in problem_of(write(tmp_path, T1N, made))


def test_a_shifted_slice_is_refused(tmp_path: Path) -> None:
    """One slice a millimetre aside, as after motion correction, or a damaged position."""
    made = images(T1N)
    made[9].ImagePositionPatient = [-109, -80, -15]
    assert "shifted" in problem_of(write(tmp_path, T1N, made))


def test_a_tilted_stack_is_fine(tmp_path: Path) -> None:
    """Oblique is not sheared."""
    (found,) = scan_folder(write(tmp_path, replace(T1N, orientation=tilted(25)))).series
    assert found.problem is None


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientID": "P-0018"}, "more than one patient"),
        ({"PatientID": ""}, "no patient ID"),
        ({"PatientName": "Otieno^B"}, "more than one patient"),
        ({"PatientBirthDate": "19810102"}, "born 19810102"),
        ({"StudyInstanceUID": "1.2.3", "StudyDate": "20240101"}, "holds 2 studies"),
    ],
)
def test_another_patient_or_study_is_refused(study_folder: Path, tags: dict[str, str], words: str) -> None:
    """One single foreign slice in a study of four series is enough."""
    write(study_folder, T1N, images(replace(T1N, number=9, tags=tags))[:1])
    with pytest.raises(InputError, match=words):
        scan_folder(study_folder)


def test_the_same_name_spelt_differently_is_one_patient(study_folder: Path) -> None:
    """Archives change case and carets."""
    write(study_folder, replace(T1N, number=9, tags={"PatientName": "MWANGI^a^^"}))
    assert len(scan_folder(study_folder).series) == 5


def test_copies_are_counted_once(study_folder: Path) -> None:
    """The same export twice on one stick."""
    write_study(study_folder / "again")
    scan = scan_folder(study_folder)
    assert [len(s.frames) for s in scan.series] == [24] * 4
    assert scan.notes == ("96 files are copies of others and were ignored.",)


def test_two_images_under_one_identifier_are_no_copies(tmp_path: Path) -> None:
    """A clash of identifiers spoils the series, whichever file came first."""
    made = images(T1N)
    made[5].SOPInstanceUID = made[4].SOPInstanceUID
    write(tmp_path / "a", T1N, made[:5])
    assert "different images under one identifier" in problem_of(write(tmp_path / "b", T1N, made[5:]).parent)


def test_a_truncated_slice_spoils_its_series_alone(study_folder: Path) -> None:
    """A file cut short on the stick: its series says which and why."""
    victim = scan_folder(study_folder).series[1].frames[3].path
    victim.write_bytes(victim.read_bytes()[:-1000])
    problems = [s.problem for s in scan_folder(study_folder).series]
    assert problems[0] is problems[2] is problems[3] is None
    what = "which is truncated: 48 × 64 pixels need 6,144 bytes, 5,144 are there"
    assert problems[1] == f"holds {victim.name}, {what}"


def test_other_files_are_ignored_and_counted(study_folder: Path) -> None:
    """Viewers, PDFs and text on a CD."""
    (study_folder / "viewer.exe").write_bytes(b"MZ" + bytes(5000))
    (study_folder / "empty").touch()
    (study_folder / "DICM").write_bytes(bytes(128) + b"DICM")
    scan = scan_folder(study_folder)
    assert len(scan.series) == 4
    assert scan.notes[0] == "2 files are not DICOM images and were ignored."
    assert "DICM" in scan.notes[1]


def test_a_link_is_refused(study_folder: Path, tmp_path: Path) -> None:
    """A link could lead to another patient's files, or to any file of the computer."""
    write(tmp_path / "elsewhere", T1N)
    (study_folder / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="more is a link"):
        scan_folder(study_folder)


def test_a_pipe_is_not_opened(study_folder: Path) -> None:
    """Reading a named pipe would wait for ever."""
    os.mkfifo(study_folder / "pipe")
    assert len(scan_folder(study_folder).series) == 4


def test_a_directory_file_is_not_followed(study_folder: Path) -> None:
    """A DICOMDIR that names a file outside the folder is ignored, and so is that file."""
    import pydicom

    directory = images(T1N)[0]
    directory.file_meta.MediaStorageSOPClassUID = directory.SOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    record = pydicom.dataset.Dataset()
    record.ReferencedFileID = ["X"]
    directory.DirectoryRecordSequence = [record]
    directory.save_as(study_folder / "DICOMDIR")
    content = (study_folder / "DICOMDIR").read_bytes()
    (study_folder / "DICOMDIR").write_bytes(content.replace(b"CS\x02\x00X ", b"CS\x0c\x00..\\..\\secret"))
    scan = scan_folder(study_folder)
    assert len(scan.series) == 4
    assert scan.notes == ("1 files are not DICOM images and were ignored.",)


@pytest.mark.parametrize("content", [b"", b"no DICOM"], ids=["empty", "text"])
def test_ten_thousand_tiny_files_are_quick(tmp_path: Path, content: bytes) -> None:
    """Two seconds at most, and a sentence."""
    for n in range(10_000):
        (tmp_path / f"{n}").write_bytes(content)
    started = time.process_time()
    with pytest.raises(InputError, match="holds no DICOM image"):
        scan_folder(tmp_path)
    assert time.process_time() - started < 2


def test_too_many_files_are_refused(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive's root given by mistake."""
    monkeypatch.setattr("glialite_runtime.dicom.series._MAX_FILES", 50)
    with pytest.raises(InputError, match="more than 50 files"):
        scan_folder(study_folder)


def test_no_folder(tmp_path: Path) -> None:
    """A path that does not exist."""
    with pytest.raises(InputError, match="is not a folder"):
        scan_folder(tmp_path / "nowhere")


def test_names_of_files_are_printed_and_nothing_else(tmp_path: Path) -> None:
    """A hostile description reaches nobody's terminal."""
    write_study(tmp_path, *STUDY[:1], replace(T2W, description="\x1b[2J\x1b[31mt2\x07"))
    assert scan_folder(tmp_path).series[1].protocol.description == "[2J[31mt2"

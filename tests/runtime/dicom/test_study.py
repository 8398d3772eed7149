"""A study becomes a case: what is chosen, what is shown, what is kept for the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from glialite_runtime.bundle import read_bundle
from glialite_runtime.cases import is_dicom_folder
from glialite_runtime.clinic.arrivals import find_arrivals, open_arrival
from glialite_runtime.dicom.frames import to_frames
from glialite_runtime.dicom.study import (
    Study,
    convert_study,
    converted_study,
    facts_of,
    read_study,
    source_of,
)
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import (
    BackendUnavailableError,
    GeometryError,
    InputError,
    MissingSequenceError,
    OutputError,
)
from glialite_runtime.predict import segment
from glialite_runtime.sequences import ET, SEQUENCES
from glialite_runtime.verify import verify_report
from glialite_runtime.workflow import open_model, segment_case

from tests.conftest import toy
from tests.runtime.dicom.conftest import SAGITTAL, T1C, T1N, T2F, T2W, images, tilted, write, write_study


def numbers(study: Study) -> dict[str, str]:
    return {sequence: found.series.number for sequence, found in study.chosen.items()}


def reason(study: Study, number: int) -> str:
    return " | ".join(found.reason for found in study.left_out if found.series.number == str(number))


def test_four_sequences_are_found(study_folder: Path) -> None:
    """In the order of the channels, without a doubt, nothing left out."""
    study = read_study(study_folder)
    assert numbers(study) == {"t1n": "3", "t1c": "6", "t2w": "4", "t2f": "5"}
    assert tuple(study.chosen) == SEQUENCES
    assert (study.doubtful, study.left_out, study.notes) == (False, (), ())


def test_a_real_life_study(study_folder: Path) -> None:
    """With localiser, diffusion, derived map, screen shot and a copy of T1: the same four, each other with a reason."""
    localiser = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write(study_folder, replace(T1N, number=1, shape=(3, 48, 64), tags=localiser))
    write(study_folder, replace(T2W, number=7, scanning=("EP", "SE"), tags={"DiffusionBValue": 1000.0}))
    write(study_folder, replace(T2W, number=8, tags={"ImageType": ["DERIVED", "SECONDARY", "ADC"]}))
    screen = replace(T1N, number=9, tags={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"})
    write(study_folder, screen, images(screen)[:1])
    study = read_study(study_folder)
    assert numbers(study) == {"t1n": "3", "t1c": "6", "t2w": "4", "t2f": "5"}
    assert "localiser" in reason(study, 1)
    assert "diffusion" in reason(study, 7)
    assert "computed from other images" in reason(study, 8)
    assert "no MR image" in reason(study, 9)


def test_the_finer_of_two_is_taken(study_folder: Path) -> None:
    """Thin slices over thick ones."""
    thick = replace(T2F, number=15, spacing_mm=7.0, shape=(20, 48, 64))
    study = read_study(write(study_folder, thick))
    assert numbers(study)["t2f"] == "5"
    assert reason(study, 15) == "is also t2f, coarser than series 5 (7.0 against 5.0 mm)"


def test_the_more_complete_of_two_is_taken(study_folder: Path) -> None:
    """The same protocol with fewer slices comes second."""
    study = read_study(write(study_folder, replace(T2F, number=15, shape=(19, 48, 64))))
    assert reason(study, 15) == "is also t2f, covering less than series 5 (95 against 120 mm)"


def test_the_repetition_is_taken(study_folder: Path) -> None:
    """Of two equal ones the later: a technician repeats what the patient has spoilt by moving."""
    study = read_study(write(study_folder, replace(T2F, number=15, time="110000")))
    assert numbers(study)["t2f"] == "15"
    assert "as good as series 15" in reason(study, 5)


def test_the_certain_one_is_taken(study_folder: Path) -> None:
    """A coarser series that is sure over a finer one whose description contradicts its header."""
    fine = replace(T2W, number=14, description="t1 tra", spacing_mm=4.0, shape=(30, 48, 64))
    study = read_study(write(study_folder, fine))
    assert numbers(study)["t2w"] == "4"
    assert "less certain" in reason(study, 14)


def test_a_series_with_a_missing_slice_gives_way(study_folder: Path) -> None:
    """An incomplete T1c is left out, and that t1c is lacking is said."""
    read_study(study_folder).chosen["t1c"].series.frames[7].path.unlink()
    study = read_study(study_folder)
    assert "t1c" not in study.chosen
    assert "lacks 1 of its slices (first after slice 7)" in reason(study, 6)
    assert "No series was found for t1c." in study.notes


def test_nothing_usable(tmp_path: Path) -> None:
    """No T1, T2, FLAIR at all: refused with the reason of each."""
    with pytest.raises(MissingSequenceError, match=r"series 4 is echo-planar"):
        read_study(write_study(tmp_path, replace(T2W, scanning=("EP",))))


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"PatientBirthDate": "20180501"}, "The patient is 7 years old; the model was made for adults."),
        ({"PatientBirthDate": "", "PatientAge": "009Y"}, "The patient is 9 years old; the model was made for adults."),
        ({"PatientID": "", "PatientName": ""}, "The study names no patient ID"),
    ],
)
def test_notes_about_the_patient(tmp_path: Path, tags: dict[str, str], note: str) -> None:
    """A child, and nobody in particular."""
    study = read_study(write_study(tmp_path, replace(T1N, tags=tags)))
    assert any(said.startswith(note) for said in study.notes)


def test_different_frames_of_reference_are_said(study_folder: Path) -> None:
    """The patient left the scanner in between."""
    again = replace(T2F, number=15, time="120000", tags={"FrameOfReferenceUID": "1.2.9"})
    assert any("frames of reference" in note for note in read_study(write(study_folder, again)).notes)


def test_a_study_becomes_a_case(tmp_path: Path) -> None:
    """Four series of four orientations and thicknesses become four files around the right place; nothing else stays."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    ways = [
        T1N,
        replace(T2W, spacing_mm=6.0),
        replace(T2F, orientation=tilted(15)),
        replace(T1C, orientation=SAGITTAL, shape=(40, 48, 60)),
    ]
    study = read_study(write_study(tmp_path / "in", *ways))
    case = convert_study(study, tmp_path / "out", "P17")
    assert case.name == "P17"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"P17-{sequence}.nii" for sequence in SEQUENCES}
    for sequence, series in zip(("t1n", "t2w", "t2f", "t1c"), ways, strict=True):
        image = nib.load(case.paths[sequence])
        assert sorted(image.shape) == sorted(series.shape)
        middle = np.mean([series.place(0, 0, 0), series.place(*(n - 1 for n in series.shape))], axis=0)
        centre = image.affine @ [*((np.array(image.shape) - 1) / 2), 1]
        np.testing.assert_allclose(centre[:3] * [-1, -1, 1], middle, atol=0.01)


def test_a_tumour_is_outlined_on_its_own_pixels(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    """From DICOM through conversion and network and back: the enhancing tumour lies on its slices, side and pixels."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    case = toy()
    for series, sequence in ((T1N, "t1n"), (T2W, "t2w"), (T2F, "t2f"), (T1C, "t1c")):
        data = case.images[sequence].transpose(2, 1, 0)  # the toy's axes are LPS, as are the slices'
        tilted_series = replace(series, shape=data.shape, pixel_mm=(3.0, 3.0), spacing_mm=3.0, orientation=tilted(9))
        write(tmp_path / "in", tilted_series, images(tilted_series, np.ascontiguousarray(data)))
    study = read_study(tmp_path / "in")
    opened = read_bundle(make_bundle(spacing_mm=3.0))
    found = segment(convert_study(study, tmp_path / "out", "P17"), opened, open_engine(opened))
    stored = found.volume.orientation.from_lps(found.labels)
    affine = found.volume.reference.affine
    frames = to_frames(stored, affine, source_of(study, stored.shape, affine))
    truth = case.labels.transpose(2, 1, 0) == ET
    assert 2 * (truth & (frames == ET)).sum() / (truth.sum() + (frames == ET).sum()) > 0.95


def test_results_go_back_to_the_study(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    """Beside the other files a SEG, a picture and a structured report, in the manifest; the page says whose it is."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    pytest.importorskip("highdicom", reason="highdicom is not installed (extra: dicom)")
    case = toy()
    for series, sequence in ((T1N, "t1n"), (T2W, "t2w"), (T2F, "t2f"), (T1C, "t1c")):
        data = case.images[sequence].transpose(2, 1, 0)
        lying = replace(series, shape=data.shape, pixel_mm=(3.0, 3.0), spacing_mm=3.0)
        write(tmp_path / "in", lying, images(lying, np.ascontiguousarray(data)))
    model = open_model(make_bundle(spacing_mm=3.0))
    out = tmp_path / "out"
    with converted_study(tmp_path / "in", out, "P17", lambda study: study) as found:
        first = segment_case(found, model, out)
        again = segment_case(found, model, out)
    assert "already done" in again.text
    assert "already done" not in first.text
    files = json.loads((out / "P17" / "P17-manifest.json").read_text())["files"]
    assert {name for name in files if name.endswith(".dcm")} == {f"P17-{n}.dcm" for n in ("seg", "pictures", "report")}
    assert pydicom.dcmread(out / "P17" / "P17-seg.dcm").PatientID == first.report["identity"]["patient_id"] == "P-0017"
    assert "P-0017" in (out / "P17" / "P17-report.html").read_text()
    assert verify_report(out / "P17" / "P17-report.json")["case"] == "P17"


def test_a_study_is_an_arrival_that_is_converted_where_there_is_room(study_folder: Path, tmp_path: Path) -> None:
    """What `batch`, `watch` and `serve` find in a folder; the case remembers its study, whose files stay alone."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    before = sorted(study_folder.iterdir())
    (arrival,) = (one for one in find_arrivals(study_folder.parent) if one.path == study_folder)
    assert arrival.needs_room
    case = open_arrival(arrival, tmp_path / "room")
    assert case.name == "study"
    assert case.study is not None
    assert set(case.paths) == set(SEQUENCES)
    assert all(path.is_relative_to(tmp_path / "room") for path in case.paths.values())
    assert sorted(study_folder.iterdir()) == before


def test_a_study_in_doubt_is_no_work_for_an_unattended_program(tmp_path: Path) -> None:
    """It must be confirmed by a person; the sentence says how."""
    folder = write_study(tmp_path / "in" / "P17", replace(T2W, description="T1 SE"))
    (arrival,) = find_arrivals(folder.parent)
    with pytest.raises(InputError, match="confirmed: run glialite segment"):
        open_arrival(arrival, tmp_path / "room")


def test_a_label_map_of_no_series(study_folder: Path) -> None:
    """One that was resampled cannot be given back to any series."""
    with pytest.raises(GeometryError, match="lies on none"):
        source_of(read_study(study_folder), (64, 48, 24), np.eye(4))


def test_converted_files_go_again(study_folder: Path, tmp_path: Path) -> None:
    """The case is named after its folder; nothing of the patient stays behind the results."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")
    with converted_study(study_folder, tmp_path / "out", None, lambda study: study) as case:
        assert case.name == "study"
        assert case.study is not None
        assert numbers(case.study) == {"t1n": "3", "t1c": "6", "t2w": "4", "t2f": "5"}
        assert all(path.is_file() for path in case.paths.values())
    assert list((tmp_path / "out").iterdir()) == []


def test_results_that_cannot_be_written(study_folder: Path, tmp_path: Path) -> None:
    """A file where the results should go."""
    (tmp_path / "out").touch()
    with (
        pytest.raises(OutputError, match="choose another folder"),
        converted_study(study_folder, tmp_path / "out", None, lambda study: study),
    ):
        pass


def test_a_name_that_is_none(study_folder: Path, tmp_path: Path) -> None:
    """Before anything is converted."""
    with pytest.raises(InputError, match="cannot be a file name"):
        convert_study(read_study(study_folder), tmp_path / "out", "../P17")
    assert not (tmp_path / "out").exists()


def test_facts_for_the_report(study_folder: Path) -> None:
    """Identifiers of patient, study and series; no path of a file."""
    facts = facts_of(read_study(study_folder))
    assert (facts["patient_id"], facts["accession_number"], facts["study_date"]) == ("P-0017", "A4711", "20260301")
    assert facts["study_uid"] == "1.2.826.0.1.3680043.10.543.1"
    assert facts["series"]["t1c"]["series_uid"] == "1.2.826.0.1.3680043.10.543.6.0"
    assert facts["series"]["t1c"]["frame_of_reference_uid"] == "1.2.826.0.1.3680043.10.543.2"
    assert str(study_folder) not in repr(facts)


def test_dicom_or_nifti(study_folder: Path, case_folder: Path, tmp_path: Path) -> None:
    """A folder with a NIfTI file is a case folder; DICOM is known by its first bytes, in sub-folders too."""
    assert is_dicom_folder(study_folder)
    assert is_dicom_folder(study_folder.parent)
    assert not is_dicom_folder(case_folder)
    (tmp_path / "empty").mkdir()
    assert not is_dicom_folder(tmp_path / "empty")


def test_without_pydicom(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BackendUnavailableError, match=r"glialite\[dicom\]"):
        read_study(study_folder)

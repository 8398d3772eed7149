"""The three files together: deterministic, whole or absent, and valid to somebody else's checker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

from glialite_runtime.dicom.outputs import Picture, write_dicom
from glialite_runtime.errors import BackendUnavailableError, InputError, OutputError
from glialite_runtime.picture import PLANES, draw
from pydicom import dcmread

from tests.runtime.dicom.mr_series import SHAPE, mr_series, report, tumour

NAMES = ["P17-seg.dcm", "P17-pictures.dcm", "P17-report.dcm"]
CARRIED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "AccessionNumber",
)


def picture() -> Picture:
    return Picture("FLAIR", draw(np.full(SHAPE, 5), tumour(), PLANES[0], 3, (4.0, 0.9, 1.1)))


def test_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    """Another process, another second, other timings: not a bit differs."""
    labels = tumour()
    first = write_dicom(tmp_path / "a" / "P17", mr_series(), labels, report(labels), [picture()])
    again = report(labels) | {"timings_s": {"network": 99.0}}
    second = write_dicom(tmp_path / "b" / "P17", mr_series(), labels, again, [picture()])
    assert [path.name for path in first] == NAMES
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100", None])
def test_every_file_carries_the_patient_of_the_source(tmp_path: Path, charset: str | None) -> None:
    """Whatever the character set that the name came in."""
    images = mr_series()
    for image in images:
        image.SpecificCharacterSet = charset
        image.PatientName, image.PatientID = "Müller^Zoë", "Nº 17"
    paths = write_dicom(tmp_path / "P17", images, tumour(), report(tumour()), [])
    for instance in map(dcmread, paths):
        assert {keyword: str(instance[keyword].value) for keyword in CARRIED} == {
            keyword: str(images[0][keyword].value) for keyword in CARRIED
        }


def test_the_three_files_are_three_series_of_one_study(tmp_path: Path) -> None:
    """Each with identifiers of its own."""
    made = [dcmread(p) for p in write_dicom(tmp_path / "P17", mr_series(), tumour(), report(tumour()), [])]
    assert {instance.StudyInstanceUID for instance in made} == {"1.2.3"}
    assert len({uid for i in made for uid in (i.SeriesInstanceUID, i.SOPInstanceUID)} | {"1.2.3.4"}) == 7


def test_a_case_without_a_tumour_leaves_no_segmentation(tmp_path: Path) -> None:
    """And an earlier one does not stay behind."""
    write_dicom(tmp_path / "P17", mr_series(), tumour(), report(tumour()), [])
    empty = np.zeros(SHAPE, np.uint8)
    paths = write_dicom(tmp_path / "P17", mr_series(), empty, report(empty), [])
    assert [path.name for path in paths] == NAMES[1:]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES[1:])


def test_two_patients_leave_no_file_at_all(tmp_path: Path) -> None:
    """Refused before anything is written."""
    images = mr_series()
    images[3].PatientID = "KNH-00018"
    with pytest.raises(InputError, match="different patients"):
        write_dicom(tmp_path / "P17", images, tumour(), report(tumour()), [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value"), [("patient_id", "KNH-00018"), ("patient_name", "Kipchoge^Ann"), ("study_uid", "1.2.33")]
)
def test_a_report_of_another_patient_is_refused(tmp_path: Path, field: str, value: str) -> None:
    """Two cases mixed up on the way: no file, and no name in the message."""
    own = {"patient_id": "KNH-00017", "patient_name": "Kipchoge^Zoë", "birth_date": "19800229", "study_uid": "1.2.3"}
    document = report(tumour()) | {"identity": own | {field: value}}
    with pytest.raises(InputError, match="the report and the DICOM series") as caught:
        write_dicom(tmp_path / "P17", mr_series(), tumour(), document, [])
    assert value not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert write_dicom(tmp_path / "P17", mr_series(), tumour(), document | {"identity": own}, [])


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    """Exit code 7, with the file's name."""
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError, match="P17-seg"):
        write_dicom(tmp_path / "out" / "P17", mr_series(), tumour(), report(tumour()), [])


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 5; the base installation has no highdicom."""
    monkeypatch.setitem(sys.modules, "highdicom", None)
    for name in ("segmentation", "secondary_capture", "structured_report"):
        monkeypatch.delitem(sys.modules, f"glialite_runtime.dicom.{name}", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"glialite\[dicom\]"):
        write_dicom(tmp_path / "P17", mr_series(), tumour(), report(tumour()), [])


def test_importing_the_module_imports_no_dicom_library() -> None:
    """The command line names it without waiting for it."""
    code = "import sys, glialite_runtime.dicom.outputs; print({'pydicom', 'highdicom', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips", "hitachi", "compressed_jpegls"])
def test_real_headers_give_outputs_in_the_place_of_their_images(tmp_path: Path, real_data: Path, vendor: str) -> None:
    """Anonymised series of five makers: frame of reference, thickness and accession number are missing."""
    images = [dcmread(path, stop_before_pixels=True) for path in (real_data / "dicom" / vendor).rglob("*.dcm")]
    normal = np.cross(*np.array(images[0].ImageOrientationPatient, float).reshape(2, 3))
    images.sort(key=lambda image: float(normal @ np.array(image.ImagePositionPatient, float)))
    labels = np.zeros((len(images), images[0].Rows, images[0].Columns), np.uint8)
    labels[1, 10:20, 12:30] = 2
    path = write_dicom(tmp_path / "P17", images, labels, report(labels), [])[0]
    seg = dcmread(path)
    (frame,) = seg.PerFrameFunctionalGroupsSequence
    (source,) = frame.DerivationImageSequence[0].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == images[1].SOPInstanceUID
    position = frame.PlanePositionSequence[0].ImagePositionPatient
    np.testing.assert_allclose(np.array(position, float), np.array(images[1].ImagePositionPatient, float), atol=1e-6)
    np.testing.assert_array_equal(seg.pixel_array, labels[1] > 0)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize("has_t1c", [True, False])
def test_dciodvfy_finds_no_error(tmp_path: Path, has_t1c: bool) -> None:
    """David Clunie's checker of the standard's modules, with values that the source lacks."""
    images = mr_series()
    for image in images:
        del image.PatientBirthDate, image.StudyID, image.SliceThickness
    labels = tumour() if has_t1c else np.where(tumour() > 0, 2, 0).astype(np.uint8)
    for path in write_dicom(tmp_path / "P17", images, labels, report(labels, has_t1c=has_t1c), [picture()]):
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr, done.stderr

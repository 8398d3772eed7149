"""An enhanced multi-frame study: from functional groups to sequences, and results back to its frames."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed (extra: dicom)")
pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")

from glialite_runtime.dicom.conversion import convert_series
from glialite_runtime.dicom.frames import source_datasets, to_frames
from glialite_runtime.dicom.outputs import write_dicom
from glialite_runtime.dicom.series import Series, scan_folder
from glialite_runtime.dicom.source_series import source_series
from glialite_runtime.dicom.study import converted_study, read_study
from glialite_runtime.errors import GeometryError, InputError
from glialite_runtime.workflow import open_model, segment_case
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from tests.conftest import toy
from tests.runtime.dicom.conftest import SAGITTAL, T1C, T1N, T2F, T2W, Written, pixels, tilted
from tests.runtime.dicom.enhanced import enhanced, write_enhanced
from tests.runtime.dicom.mr_series import report

SHUFFLED = [0, 7, 3, *range(8, 23), 1, 6, 2, 5, 4, 23]
WAYS: dict[str, tuple[Written, list[int] | None]] = {
    "axial": (T1N, None),
    "head first": (T1N, list(range(23, -1, -1))),
    "odd slices first": (T1N, [*range(0, 24, 2), *range(1, 24, 2)]),
    "in no order": (T1N, SHUFFLED),
    "tilted": (replace(T1N, orientation=tilted(17), spacing_mm=6.5), SHUFFLED),
    "sagittal": (replace(T1N, orientation=SAGITTAL, shape=(40, 40, 30)), None),
}


def only_series(folder: Path, *made: pydicom.Dataset) -> Series:
    (found,) = scan_folder(write_enhanced(folder, *made)).series
    return found


def marks(shape: tuple[int, int, int]) -> np.ndarray:
    """Return a label map (slice, row, column) that no flip or shift maps onto itself; slice 2 is left empty."""
    labels = np.zeros(shape, np.uint8)
    labels[3:8, 5:20, 8:18], labels[4:7, 8:15, 10:16], labels[5, 9:12, 11:13] = 2, 3, 1
    labels[1, 2, 3] = 2
    return labels


@pytest.mark.parametrize("way", WAYS)
def test_a_voxel_keeps_its_frame(tmp_path: Path, way: str) -> None:
    """Through conversion and back, pixel by pixel, whatever the order of the frames in the file."""
    series, order = WAYS[way]
    found = only_series(tmp_path / "dicom", enhanced(series, order=order))
    assert found.problem is None
    image = nib.load(convert_series(found, tmp_path / "out"))
    back = to_frames(np.asarray(image.dataobj), image.affine, found)
    np.testing.assert_array_equal(back, pixels(series))
    assert [frame.number - 1 for frame in found.frames] == list(np.argsort(order or range(series.shape[0])))


@pytest.mark.parametrize("way", WAYS)
def test_the_outline_names_the_frames_it_lies_on(tmp_path: Path, way: str) -> None:
    """Each frame of the SEG: the source's frame number, that frame's place, and the labels of that slice."""
    series, order = WAYS[way]
    file = enhanced(series, order=order)
    found, labels = only_series(tmp_path / "dicom", file), marks(series.shape)
    seg = pydicom.dcmread(write_dicom(tmp_path / "P17", source_datasets(found), labels, report(labels), [])[0])
    slices = []
    for n, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == file.SOPInstanceUID
        shown = file.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
        place = shown.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place, atol=1e-5)
        slice_ = (order or range(series.shape[0]))[source.ReferencedFrameNumber - 1]
        label = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(seg.pixel_array[n] > 0, labels[slice_] == label)
        slices.append(slice_)
    assert set(slices) == {1, *range(3, 8)}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    """All three results of a multi-frame source."""
    found, labels = only_series(tmp_path / "dicom", enhanced(T1N, order=SHUFFLED)), marks(T1N.shape)
    for path in write_dicom(tmp_path / "P17", source_datasets(found), labels, report(labels), []):
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr, done.stderr


def test_a_multiframe_study_goes_through_and_back(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    """Four files become four sequences without a doubt; SEG, picture and report refer to their T1n."""
    case = toy()
    made = []
    for series, sequence in ((T1N, "t1n"), (T2W, "t2w"), (T2F, "t2f"), (T1C, "t1c")):
        data = np.ascontiguousarray(case.images[sequence].transpose(2, 1, 0))
        made.append(enhanced(replace(series, shape=data.shape, pixel_mm=(3.0, 3.0), spacing_mm=3.0), data))
    study = read_study(write_enhanced(tmp_path / "in", *made))
    assert {sequence: one.series.number for sequence, one in study.chosen.items()} == {
        "t1n": "3", "t1c": "6", "t2w": "4", "t2f": "5"
    }  # fmt: skip
    assert (study.doubtful, study.left_out) == (False, ())
    with converted_study(tmp_path / "in", tmp_path / "out", "P17", lambda study: study) as found:
        done = segment_case(found, open_model(make_bundle(spacing_mm=3.0)), tmp_path / "out")
    assert "dicom" not in done.report
    assert {path.name for path in (tmp_path / "out" / "P17").glob("*.dcm")} == {
        f"P17-{name}.dcm" for name in ("seg", "pictures", "report")
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[3].PlanePositionSequence[0].__delattr__("ImagePositionPatient"), "no position"),
        (lambda f: f[3].__setattr__("PlanePositionSequence", f[4].PlanePositionSequence), "same place"),
        (lambda f: f.pop(), "23 images were given for a label map"),
        (lambda f: f.clear(), "no position"),
    ],
    ids=["a place is missing", "two at one place", "a frame less", "none"],
)
def test_a_source_whose_frames_do_not_fit_is_refused(change: Callable[..., object], words: str) -> None:
    """The outputs check the geometry themselves."""
    image = enhanced(T1N)
    change(image.PerFrameFunctionalGroupsSequence)
    with pytest.raises(GeometryError, match=words):
        source_series([image], T1N.shape)


def test_a_damaged_frame_is_refused() -> None:
    """An element of three bytes where a number of eight belongs."""
    image = enhanced(T1N)
    echo = image.SharedFunctionalGroupsSequence[0].MREchoSequence[0]
    echo[0x00189082] = RawDataElement(Tag(0x00189082), "FD", 3, b"abc", 0, False, True)
    with pytest.raises(InputError, match="cannot be read"):
        source_series([image], T1N.shape)


def test_two_multiframe_files_are_no_source() -> None:
    """A SEG can lie on one of them alone."""
    with pytest.raises(InputError, match="one enhanced multi-frame"):
        source_series([enhanced(T1N), enhanced(T1N)], T1N.shape)

"""Legacy converted enhanced MR: classic slices that an archive has put into one file, as highdicom does it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed (extra: dicom)")
pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")

import highdicom as hd
from glialite_runtime.dicom.conversion import convert_series
from glialite_runtime.dicom.frames import source_datasets, to_frames
from glialite_runtime.dicom.functional_groups import frame_values
from glialite_runtime.dicom.outputs import write_dicom
from glialite_runtime.dicom.parsing import read_header
from glialite_runtime.dicom.series import scan_folder
from glialite_runtime.dicom.study import converted_study, read_study
from glialite_runtime.errors import InputError
from glialite_runtime.workflow import open_model, segment_case

from tests.conftest import toy
from tests.runtime.dicom.conftest import T1C, T1N, T2F, T2W, Written, images, pixels, tilted
from tests.runtime.dicom.enhanced import write_enhanced
from tests.runtime.dicom.mr_series import report

SAID = ("tr_ms", "te_ms", "ti_ms", "scanning", "variant", "agent", "thickness_mm", "diffusion", "angiography")
LEGACY = "1.2.840.10008.5.1.4.1.1.4.4"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("highdicom").setLevel(logging.ERROR)


def converted(series: Written, data: np.ndarray | None = None, reverse: bool = False) -> pydicom.Dataset:
    """Return a series' slices in one file."""
    slices = images(series, data)
    return hd.legacy.LegacyConvertedEnhancedMRImage(
        slices[::-1] if reverse else slices,
        series_instance_uid=slices[0].SeriesInstanceUID,
        series_number=series.number,
        sop_instance_uid=f"1.2.826.0.1.3680043.10.543.{series.number}.900",
        instance_number=1,
    )


@pytest.mark.parametrize("series", [T1N, T2F, T1C], ids=["t1n", "t2f", "t1c"])
def test_it_says_what_its_slices_said(tmp_path: Path, series: Written) -> None:
    """Times, kind of echo and contrast agent come from the converted attributes; the acquisition from its frames."""
    classic, multi = tmp_path / "classic.dcm", tmp_path / "multi.dcm"
    images(series)[0].save_as(classic, enforce_file_format=True)
    converted(series).save_as(multi, enforce_file_format=True)
    first, second = read_header(classic), read_header(multi)
    assert first is not None
    assert second is not None
    assert second.protocol.sop_class_uid == LEGACY
    for field in SAID:
        assert getattr(second.protocol, field) == getattr(first.protocol, field), field
    assert (second.acquired, second.grid, second.problem) == (first.acquired, first.grid, None)
    assert len(second.planes) == series.shape[0]


@pytest.mark.parametrize("reverse", [False, True], ids=["feet first", "head first"])
def test_the_outline_names_the_frames_it_lies_on(tmp_path: Path, reverse: bool) -> None:
    """A tilted series through conversion and back, pixel by pixel; the SEG refers to the file, its kind and frames."""
    series = replace(T1N, orientation=tilted(17))
    file = converted(series, reverse=reverse)
    (found,) = scan_folder(write_enhanced(tmp_path / "dicom", file)).series
    assert found.problem is None
    image = nib.load(convert_series(found, tmp_path / "out"))
    np.testing.assert_array_equal(to_frames(np.asarray(image.dataobj), image.affine, found), pixels(series))
    labels = np.zeros(series.shape, np.uint8)
    labels[3:8, 5:20, 8:18], labels[4:6, 8:15, 10:16] = 2, 3
    paths = write_dicom(tmp_path / "P17", source_datasets(found), labels, report(labels), [])
    seg, slices = pydicom.dcmread(paths[0]), set()
    for n, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (LEGACY, file.SOPInstanceUID)
        shown = file.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
        place = shown.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place, atol=1e-5)
        at = [np.allclose(series.place(k, 0, 0), np.array(place, float), atol=1e-4) for k in range(series.shape[0])]
        slice_ = at.index(True)
        label = {1: 2, 2: 3}[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        np.testing.assert_array_equal(seg.pixel_array[n] > 0, labels[slice_] == label)
        slices.add(slice_)
    assert slices == set(range(3, 8))


def test_a_legacy_converted_study_goes_through_and_back(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    """A phantom's four files become four sequences without a doubt; SEG, picture and report are written."""
    case, made = toy(), []
    for series, sequence in ((T1N, "t1n"), (T2W, "t2w"), (T2F, "t2f"), (T1C, "t1c")):
        data = np.ascontiguousarray(case.images[sequence].transpose(2, 1, 0))
        made.append(converted(replace(series, shape=data.shape, pixel_mm=(3.0, 3.0), spacing_mm=3.0), data))
    study = read_study(write_enhanced(tmp_path / "in", *made))
    numbers = {sequence: one.series.number for sequence, one in study.chosen.items()}
    assert numbers == {"t1n": "3", "t1c": "6", "t2w": "4", "t2f": "5"}
    assert (study.doubtful, study.left_out) == (False, ())
    with converted_study(tmp_path / "in", tmp_path / "out", "P17", lambda study: study) as found:
        done = segment_case(found, open_model(make_bundle(spacing_mm=3.0)), tmp_path / "out")
    assert "dicom" not in done.report
    written = {path.name for path in (tmp_path / "out" / "P17").glob("*.dcm")}
    assert written == {f"P17-{name}.dcm" for name in ("seg", "pictures", "report")}


def item(**values: Any) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def test_what_is_assigned_counts_more() -> None:
    """An echo time of the functional group against one that was carried along."""
    image = item(
        PerFrameFunctionalGroupsSequence=[
            item(
                MREchoSequence=[item(EffectiveEchoTime=100.0)],
                UnassignedPerFrameConvertedAttributesSequence=[item(EchoTime=7.0, RepetitionTime=4000.0)],
                PixelMeasuresSequence=[item(SliceThickness=5.0)],
            )
        ],
        SharedFunctionalGroupsSequence=[
            item(UnassignedSharedConvertedAttributesSequence=[item(InversionTime=2500.0, SliceThickness=1.0)])
        ],
    )
    (values,) = frame_values(image)
    assert {key: float(values[key]) for key in ("EchoTime", "RepetitionTime", "InversionTime", "SliceThickness")} == {
        "EchoTime": 100.0, "RepetitionTime": 4000.0, "InversionTime": 2500.0, "SliceThickness": 5.0
    }  # fmt: skip


def test_a_flood_of_converted_attributes_is_refused() -> None:
    """Each is parsed when it is looked at."""
    flood = pydicom.Dataset()
    for number in range(1001):
        flood.add_new((0x0011, 0x1000 + number), "LO", "x")
    image = item(PerFrameFunctionalGroupsSequence=[item(UnassignedPerFrameConvertedAttributesSequence=[flood])])
    with pytest.raises(InputError, match="more than 1000 elements"):
        frame_values(image)

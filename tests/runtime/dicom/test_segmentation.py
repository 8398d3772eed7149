"""The DICOM SEG, read back: the same voxels in the same place, in words and codes that viewers know."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

import highdicom as hd
from glialite_runtime.dicom.concepts import segments
from glialite_runtime.dicom.instances import encoded
from glialite_runtime.dicom.segmentation import segmentation
from glialite_runtime.dicom.source_series import source_series
from pydicom import dcmread

from tests.runtime.dicom.mr_series import SHAPE, mr_series, report, tumour

TILT = np.deg2rad(17.0)
STACKS = {
    "axial": {},
    "reversed": {"step": (0, 0, -4.0)},
    "tilted gantry": {"step": (0, 1.3, 4.0)},
    "oblique": {
        "orientation": (1, 0, 0, 0, float(np.cos(TILT)), float(np.sin(TILT))),
        "step": (0, float(-5 * np.sin(TILT)), float(5 * np.cos(TILT))),
    },
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1), "step": (-4.0, 0, 0)},
}


def made(labels: npt.NDArray[np.uint8], document: dict[str, Any], **stack: Any) -> Any:
    """Return the SEG of a label map as it comes out of its file."""
    source = source_series(mr_series(**stack), SHAPE)
    return dcmread(io.BytesIO(encoded(segmentation(source, labels, segments(labels, document), document))))


def places(mask: npt.NDArray[np.bool_], frames: list[tuple[Any, Any, Any]]) -> set[tuple[float, ...]]:
    """Return the centres of a mask's voxels (frame, row, column) in the patient, mm; one position a frame."""
    found = set()
    for n, row, column in np.argwhere(mask):
        position, orientation, (between_rows, between_columns) = (np.array(v, float) for v in frames[n])
        at = position + column * between_columns * orientation[:3] + row * between_rows * orientation[3:]
        found.add(tuple(np.round(at, 3) + 0.0))
    return found


@pytest.mark.parametrize("stack", STACKS)
def test_every_segment_lies_where_its_label_lies(stack: str) -> None:
    """Voxel by voxel, in mm in the patient, from the headers of the SEG and of the source alone."""
    labels = tumour()
    images = mr_series(**STACKS[stack])
    seg = made(labels, report(labels), **STACKS[stack])
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    frames = seg.PerFrameFunctionalGroupsSequence
    at = [(frame.PlanePositionSequence[0].ImagePositionPatient, orientation, spacing) for frame in frames]
    numbers = np.array([frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in frames])
    source = [(i.ImagePositionPatient, i.ImageOrientationPatient, i.PixelSpacing) for i in images]
    for number, label in ((1, 1), (2, 2), (3, 3)):
        mask = (seg.pixel_array > 0) & (numbers == number)[:, None, None]
        assert places(mask, at) == places(labels == label, source)


@pytest.mark.parametrize("stack", STACKS)
def test_each_frame_names_the_image_it_was_drawn_on(stack: str) -> None:
    """Highdicom's own reader gives the label map back, asked for by the source's instances."""
    labels = tumour()
    images = mr_series(**STACKS[stack])
    seg = hd.seg.Segmentation.from_dataset(made(labels, report(labels), **STACKS[stack]))
    again = seg.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images], combine_segments=True, ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    np.testing.assert_array_equal(again, labels)
    assert seg.FrameOfReferenceUID == images[0].FrameOfReferenceUID


def test_segments_are_the_labels_of_brats_with_their_codes() -> None:
    """What a viewer lists, and what a program looks for."""
    labels = tumour()
    seg = hd.seg.Segmentation.from_dataset(made(labels, report(labels)))
    found = [seg.get_segment_description(n) for n in seg.segment_numbers]
    assert [d.segment_label[:4] for d in found] == ["NETC", "SNFH", "ET: "]
    assert [d.segmented_property_type.value for d in found] == ["C81175", "79654002", "C113842"]
    assert {d.segmented_property_category.value for d in found} == {"49755003"}
    assert [d.algorithm_identification.version for d in found] == ["glioma-s " + "ab" * 8] * 3
    assert found[2].RecommendedDisplayCIELabValue == list(hd.color.CIELabColor.from_rgb(255, 64, 96).value)
    assert seg.SegmentsOverlap == "NO"
    assert "not for diagnosis" in seg.SeriesDescription


def test_a_label_without_voxels_is_no_segment() -> None:
    """Numbers then follow the order of what is there; names stay."""
    labels = tumour()
    labels[labels == 1] = 3
    seg = hd.seg.Segmentation.from_dataset(made(labels, report(labels)))
    assert [seg.get_segment_description(n).segment_label[:4] for n in (1, 2)] == ["SNFH", "ET: "]
    assert seg.number_of_segments == 2


def test_without_contrast_the_only_segment_is_the_whole_tumour() -> None:
    """Label 2 then stands for everything; calling it oedema would be wrong."""
    labels = np.where(tumour() > 0, 2, 0).astype(np.uint8)
    seg = hd.seg.Segmentation.from_dataset(made(labels, report(labels, has_t1c=False)))
    assert seg.number_of_segments == 1
    assert seg.get_segment_description(1).segment_label == "WT: whole tumour"
    assert seg.pixel_array.sum() == (labels > 0).sum()


def test_an_outline_corrected_by_hand_is_not_called_automatic() -> None:
    """Viewers show how a segment came about."""
    labels = tumour()
    document = report(labels)
    assert made(labels, document).SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    document["correction"] = {}
    assert made(labels, document).SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_frames_without_voxels_are_left_out() -> None:
    """Three segments on nine slices need ten frames here, not 27."""
    labels = tumour()
    assert made(labels, report(labels)).NumberOfFrames == sum((labels == n).any((1, 2)).sum() for n in (1, 2, 3)) == 10

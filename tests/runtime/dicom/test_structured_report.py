"""The volumes as TID 1500, read back."""

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
from glialite_runtime.dicom.structured_report import structured_report
from pydicom import dcmread

from tests.runtime.dicom.mr_series import SHAPE, mr_series, report, tumour


def made(labels: npt.NDArray[np.uint8], document: dict[str, Any]) -> tuple[Any, Any]:
    """Return the report as it comes out of its file, and its SEG."""
    source = source_series(mr_series(), SHAPE)
    found = segments(labels, document)
    seg = segmentation(source, labels, found, document) if found else None
    sr = structured_report(source, found, document, seg)
    return hd.sr.ComprehensiveSR.from_dataset(dcmread(io.BytesIO(encoded(sr)))), seg


def groups(sr: Any) -> dict[str, Any]:
    """Return region -> measurement group."""
    content = sr.content
    all_groups = [
        *content.get_image_measurement_groups(),
        *content.get_volumetric_roi_measurement_groups(),
    ]
    return {group.tracking_identifier.split("(")[1][:2]: group for group in all_groups}


def test_every_region_has_its_volume_in_millilitres() -> None:
    """The numbers of the JSON report, with the limits of their intervals in the same unit."""
    document = report(tumour())
    found = groups(made(tumour(), document)[0])
    assert set(found) == {"WT", "TC", "ET"}
    for region, group in found.items():
        (volume,) = group.get_measurements(hd.sr.CodedConcept("118565006", "SCT", "Volume"))
        limits = {
            item.ConceptNameCodeSequence[0].CodeMeaning[0]: item.MeasuredValueSequence[0]
            for item in volume[0].ContentSequence
            if item.ValueType == "NUM"
        }
        interval = document["volume_intervals_ml"][region]
        assert volume.value == pytest.approx(document["volumes_ml"][region])
        assert volume.unit.value == "mL"
        assert float(limits["+"].NumericValue) + volume.value == pytest.approx(interval["high"])
        assert volume.value - float(limits["-"].NumericValue) == pytest.approx(interval["low"])
        assert {limit.MeasurementUnitsCodeSequence[0].CodeValue for limit in limits.values()} == {"mL"}


def test_each_region_points_at_its_segments() -> None:
    """ET is one segment and a region of interest; the tumour core is segments 1 and 3, the whole tumour all three."""
    sr, seg = made(tumour(), report(tumour()))
    found = groups(sr)
    assert found["ET"].referenced_segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == 3
    for region, numbers in (("TC", [1, 3]), ("WT", [1, 2, 3])):
        (image,) = found[region].source_images
        assert image.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert list(image.ReferencedSOPSequence[0].ReferencedSegmentNumber) == numbers


def test_segments_and_images_are_listed_as_evidence() -> None:
    """An archive finds from the report what it was measured on."""
    sr, seg = made(tumour(), report(tumour()))
    listed = {
        item.ReferencedSOPInstanceUID
        for study in sr.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert seg.SOPInstanceUID in listed


def test_nobody_has_verified_it_and_it_says_so() -> None:
    """Machine-made: preliminary, unverified, with the warning in words."""
    sr, _ = made(tumour(), report(tumour()))
    assert (sr.VerificationFlag, sr.PreliminaryFlag, sr.CompletionFlag) == ("UNVERIFIED", "PRELIMINARY", "COMPLETE")
    comment = sr.ContentSequence[-1].TextValue
    assert comment.startswith("Not for diagnosis")
    assert "Whole tumour (WT): 2.1 mL. True volume expected between (90 % of cases): 1.7 to 2.8 mL." in comment


def test_without_a_tumour_there_are_volumes_and_no_reference() -> None:
    """0 mL, no SEG to point at, and no all-clear."""
    labels = np.zeros(SHAPE, np.uint8)
    sr, seg = made(labels, report(labels))
    assert seg is None
    assert [g.get_measurements()[0].value for g in groups(sr).values()] == [0, 0, 0]
    assert "No tumour was outlined" in sr.ContentSequence[-1].TextValue


def test_without_contrast_only_the_whole_tumour_is_measured() -> None:
    """What cannot be told apart is not a number; the comment says why."""
    labels = np.where(tumour() > 0, 2, 0).astype(np.uint8)
    sr, _ = made(labels, report(labels, has_t1c=False))
    found = groups(sr)
    assert set(found) == {"WT"}
    assert found["WT"].referenced_segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == 1
    assert "Enhancing tumour (ET): not reported: without a T1 with contrast" in sr.ContentSequence[-1].TextValue


def test_a_bundle_without_intervals_gives_plain_volumes() -> None:
    """An older bundle brings none."""
    document = report(tumour()) | {"volume_intervals_ml": {}}
    volume = groups(made(tumour(), document)[0])["WT"].get_measurements()[0]
    assert all(item.ValueType != "NUM" for item in volume[0].ContentSequence)

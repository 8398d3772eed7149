"""Identifiers, times and identity of the DICOM outputs."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

from glialite_runtime.dicom.instances import made_by, stamped
from glialite_runtime.dicom.source_series import source_series
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tests.runtime.dicom.mr_series import SHAPE, mr_series, report, tumour


def uid(document: dict[str, Any], *further: bytes) -> str:
    return made_by(source_series(mr_series(), SHAPE), document, *further).uid("segmentation")


def test_the_same_report_gives_the_same_identifier() -> None:
    """Whatever the run took; and it is one that DICOM allows."""
    first, second = report(tumour()), report(tumour()) | {"timings_s": {"network": 9.9}}
    assert uid(first, b"labels") == uid(second, b"labels")
    assert UID(uid(first, b"labels")).is_valid


@pytest.mark.parametrize("changed", [{"created": "2024-03-02T08:15:31+00:00"}, {"case": "P18"}, {"volumes_ml": {}}])
def test_anything_else_gives_another(changed: dict[str, Any]) -> None:
    """Two files under one identifier would be one file to an archive."""
    document = report(tumour())
    assert uid(document | changed) != uid(document)
    assert uid(document, b"a", b"b") != uid(document, b"ab")


@pytest.mark.parametrize(
    ("zone", "time"),
    [("+0300", "111530"), ("-0230", "054530"), ("", "081530"), ("0300", "081530"), ("+9999", "081530")],
)
def test_times_are_those_of_the_study(zone: str, time: str) -> None:
    """The source's time zone where it states a sensible one, else UTC."""
    images = mr_series()
    for image in images:
        image.add_new("TimezoneOffsetFromUTC", "SH", zone)
    source = source_series(images, SHAPE)
    instance = Dataset()
    instance.ContentTime, instance.ContentDate = "000000", "19990101"
    stamped(instance, source, made_by(source, report(tumour())))
    assert (instance.ContentDate, instance.ContentTime) == ("20240302", time)


def test_values_that_the_standard_forbids_are_carried_letter_by_letter() -> None:
    """An archive that sent an overlong accession number files the result under the same one."""
    odd = {
        "AccessionNumber": "KNH/2024/0000000000017",
        "PatientID": "P 17" * 20,
        "PatientBirthDate": "29.02.1980",
        "PatientSex": "Female",
        "StudyTime": "25:61",
    }
    images = mr_series()
    for image in images:
        for keyword, value in odd.items():
            image[keyword].value = value
    source = source_series(images, SHAPE)
    instance = stamped(Dataset(), source, made_by(source, report(tumour())))
    assert {keyword: instance[keyword].value for keyword in odd} == odd


def test_a_bundle_with_a_long_name_still_fits() -> None:
    """DICOM allows 64 characters, and takes a backslash for the end of a value."""
    document = report(tumour())
    document["bundle"]["name"] = "a\\b" * 40
    maker = made_by(source_series(mr_series(), SHAPE), document)
    assert len(maker.bundle) == 64
    assert "\\" not in maker.bundle

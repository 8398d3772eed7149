"""What may become the source of DICOM outputs, and what is taken over from it."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

from glialite_runtime.dicom.source_series import TYPE_2, source_series
from glialite_runtime.errors import GeometryError, InputError

from tests.runtime.dicom.mr_series import SHAPE, mr_series

IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDescription")


def test_a_stand_in_knows_geometry_and_nothing_of_the_patient() -> None:
    """The library that computes from it cannot be confused by a header: only checked values are left."""
    source = source_series(mr_series(), SHAPE)
    assert [float(image.ImagePositionPatient[2]) for image in source.images] == [12.0 + 4 * n for n in range(9)]
    assert not any("Kipchoge" in str(image) or "PixelData" in image for image in source.images)
    assert source.text("PatientName") == "Kipchoge^Zoë"


def test_the_images_given_are_not_changed() -> None:
    """Repairs are made on copies."""
    images = mr_series()
    for image in images:
        del image.PatientBirthDate, image.SliceThickness
    before = copy.deepcopy(images)
    source_series(images, SHAPE)
    assert images == before


@pytest.mark.parametrize(
    ("keyword", "value", "says"),
    [
        ("PatientID", "KNH-00018", "different patients"),
        ("PatientName", "Kipchoge^Ann", "different patients"),
        ("PatientBirthDate", "19800228", "different patients"),
        ("PatientSex", "M", "different patients"),
        ("IssuerOfPatientID", "Other hospital", "different patients"),
        ("StudyInstanceUID", "1.2.4", "different studies"),
        ("AccessionNumber", "ACC-6", "different studies"),
        ("SeriesInstanceUID", "1.2.3.5", "different series"),
        ("FrameOfReferenceUID", "1.2.3.8", "different frames of reference"),
    ],
)
def test_two_of_what_there_is_one_are_refused(keyword: str, value: str, says: str) -> None:
    """One image of another patient, study, series or frame of reference is enough; the message names no patient."""
    images = mr_series()
    setattr(images[4], keyword, value)
    with pytest.raises(InputError, match=says) as caught:
        source_series(images, SHAPE)
    assert value not in str(caught.value)


def test_a_patient_missing_in_one_image_is_another_patient() -> None:
    """An image without an identifier may be anybody's."""
    images = mr_series()
    del images[8].PatientID
    with pytest.raises(InputError, match="different patients"):
        source_series(images, SHAPE)


@pytest.mark.parametrize("keyword", TYPE_2)
def test_a_missing_type_2_element_is_left_empty_and_logged_by_name(
    keyword: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which element was empty, and nothing about the patient."""
    images = mr_series()
    for image in images:
        delattr(image, keyword)
    with caplog.at_level(logging.INFO):
        source = source_series(images, SHAPE)
    assert source.text(keyword) == ""
    assert keyword in caplog.text
    assert not any(word in caplog.text for word in ("Kipchoge", "KNH", "ACC-5"))


@pytest.mark.parametrize("thickness", [None, "", 0, -3])
def test_a_missing_thickness_becomes_the_distance_between_slices(thickness: Any) -> None:
    """Along the normal: a sheared stack's steps are longer than its slices are apart."""
    images = mr_series(step=(0, 1.5, 4.0))
    for image in images:
        image.SliceThickness = thickness
    assert source_series(images, SHAPE).thickness_mm == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", [0.0, 0.0]),
        ("ImagePositionPatient", ["nan", "0", "0"]),
        ("ImageOrientationPatient", [0, 0, 0, 0, 1, 0]),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("PixelSpacing", [0.9, -1.1]),
        ("PixelSpacing", None),
        ("Rows", 23),
        ("Columns", None),
    ],
)
def test_an_image_that_does_not_fit_the_stack_is_refused(keyword: str, value: Any) -> None:
    """Size, spacing, directions and positions are finite, there, and the same in every image."""
    images = mr_series()
    for image in images[3:]:
        setattr(image, keyword, value)
    with pytest.raises(GeometryError):
        source_series(images, SHAPE)


def test_slices_in_the_order_of_file_names_are_refused() -> None:
    """An unsorted series would put the label map's slices on the wrong images."""
    images = mr_series()
    images[1], images[2] = images[2], images[1]
    with pytest.raises(GeometryError, match="not sorted"):
        source_series(images, SHAPE)


def test_two_images_at_one_place_are_refused() -> None:
    """A second echo in the same series."""
    images = mr_series()
    images[5].ImagePositionPatient = images[4].ImagePositionPatient
    with pytest.raises(GeometryError, match="same place"):
        source_series(images, SHAPE)


def test_a_series_without_a_frame_of_reference_gets_one_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Anonymisers remove it; the same series gets the same one, another series another, and the log says so."""
    found = []
    for series in ("1.2.3.4", "1.2.3.4", "1.2.3.5"):
        images = mr_series()
        for image in images:
            del image.FrameOfReferenceUID
            image.SeriesInstanceUID = series
        with caplog.at_level(logging.INFO):
            found.append(source_series(images, SHAPE).images[0].FrameOfReferenceUID)
    assert found[0] == found[1] != found[2]
    assert "FrameOfReferenceUID" in caplog.text
    del images[0].SeriesInstanceUID
    with pytest.raises(InputError, match="different series"):
        source_series(images, SHAPE)


def test_one_image_given_twice_is_refused() -> None:
    """A file copied twice would be referenced twice."""
    images = mr_series()
    images[5].SOPInstanceUID = images[4].SOPInstanceUID
    with pytest.raises(InputError, match="same SOP Instance UID"):
        source_series(images, SHAPE)


def test_another_number_of_slices_is_refused() -> None:
    """A label map of another series."""
    with pytest.raises(GeometryError, match="9 images"):
        source_series(mr_series(), (10, *SHAPE[1:]))
    with pytest.raises(InputError, match="no DICOM images"):
        source_series([], SHAPE)


def test_what_is_no_classic_mr_image_is_refused() -> None:
    """CT, and MR with many frames in one file."""
    images = mr_series()
    images[0].SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(InputError, match="CT Image Storage"):
        source_series(images, SHAPE)
    images = mr_series()
    images[0].NumberOfFrames = 1
    assert source_series(images, SHAPE)
    images[0].NumberOfFrames = 9
    with pytest.raises(InputError, match="classic MR"):
        source_series(images, SHAPE)


@pytest.mark.parametrize("uid", ["", "../../etc", "1.2.3 4", "1..2", "1" * 65, "1.2.٣"])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    """An archive files by UID; a leading zero, which some scanners write, is let through."""
    images = mr_series()
    for image in images:
        image["StudyInstanceUID"].value = uid
    with pytest.raises(InputError, match="UID"):
        source_series(images, SHAPE)
    for image in images:
        image["StudyInstanceUID"].value = "1.02.3"
    assert source_series(images, SHAPE).images[0].StudyInstanceUID == "1.02.3"


def test_a_patient_that_cannot_be_read_is_refused() -> None:
    """Bytes that the declared character set does not have: a guessed name would be another patient's."""
    images = mr_series()
    for image in images:
        image._dict[image["PatientID"].tag] = _raw(image, image["PatientID"].tag, b"KNH-\xe917")
    with pytest.raises(InputError, match="PatientID of the series has letters"):
        source_series(images, SHAPE)


def test_hostile_headers_give_a_source_or_a_sentence() -> None:
    """Random bytes in any element that is read: an InputError, or a source that is still whole."""
    random = np.random.default_rng(7)
    keywords = [*TYPE_2, "Rows", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"]
    refused = 0
    for _ in range(100):
        images = mr_series((3, *SHAPE[1:]))
        keyword = keywords[random.integers(len(keywords))]
        junk = random.integers(0, 256, random.integers(0, 70)).astype(np.uint8).tobytes()
        for image in images:
            tag = image.data_element(keyword).tag
            image._dict[tag] = _raw(image, tag, junk)
        try:
            assert len(source_series(images, (3, *SHAPE[1:])).images) == 3
        except InputError:
            refused += 1
    assert 0 < refused < 100


def _raw(image: Any, tag: Any, value: bytes) -> Any:
    """Return an element as it comes out of a file, with other bytes."""
    from pydicom.dataelem import RawDataElement

    return RawDataElement(tag, image[tag].VR, len(value), value, 0, False, True)

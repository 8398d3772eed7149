"""The page for archives and viewers that know nothing of segments."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

from glialite_runtime.dicom import secondary_capture as module
from glialite_runtime.dicom.instances import encoded
from glialite_runtime.dicom.outputs import Picture
from glialite_runtime.dicom.secondary_capture import secondary_capture
from glialite_runtime.dicom.source_series import source_series
from glialite_runtime.picture import PLANES, draw
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.runtime.dicom.mr_series import SHAPE, mr_series, report, tumour


def pictures(count: int) -> list[Picture]:
    """Return pictures of different sizes, drawn as for the HTML page."""
    scan = np.random.default_rng(1).integers(1, 900, SHAPE)
    drawn = [draw(scan, tumour(), plane, 3, (4.0, 0.9, 1.1)) for plane in PLANES]
    return [Picture(f"T1 with contrast, {PLANES[n % 3].name}, slice 4", drawn[n % 3]) for n in range(count)]


def written(lines: list[tuple[str, Any]]) -> str:
    return "\n".join(text for text, _ in lines)


def head(document: dict[str, Any], images: list[Dataset] | None = None) -> str:
    return written(module._head(source_series(images or mr_series(), SHAPE), document))


def test_the_pictures_stand_on_the_page_as_they_were_drawn() -> None:
    """Pixel by pixel, letters for left and right included."""
    shown = pictures(4)
    made = secondary_capture(source_series(mr_series(), SHAPE), report(tumour()), shown)
    page = dcmread(io.BytesIO(encoded(made))).pixel_array
    for picture in shown:
        drawn = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
        rows, columns = drawn.shape[:2]
        views = np.lib.stride_tricks.sliding_window_view(page[..., 0], (rows, columns))
        candidates = np.argwhere(views[..., 0, 0] == drawn[0, 0, 0])
        assert any(np.array_equal(page[r : r + rows, c : c + columns], drawn) for r, c in candidates)


def test_the_page_belongs_to_the_patients_study_and_to_a_series_of_its_own() -> None:
    """And says that words are burned in, and by whom."""
    made = secondary_capture(source_series(mr_series(), SHAPE), report(tumour()), pictures(1))
    assert (made.PatientID, made.AccessionNumber, made.StudyInstanceUID) == ("KNH-00017", "ACC-5", "1.2.3")
    assert made.SeriesInstanceUID not in ("1.2.3.4", made.SOPInstanceUID)
    assert (made.Modality, made.BurnedInAnnotation, made.PatientName) == ("OT", "YES", "Kipchoge^Zoë")


def test_patient_warning_and_volumes_are_written_on_the_page() -> None:
    """Whoever sees the picture alone knows whose it is and what it is not for."""
    text = head(report(tumour()))
    assert "Not for diagnosis" in text
    assert "trained on synthetic patients only" in text
    assert "Patient ID: KNH-00017   Accession number: ACC-5   Study date: 2024-03-01" in text
    assert "Whole tumour (WT): 2.1 mL. True volume expected between (90 % of cases): 1.7 to 2.8 mL" in text


def test_an_identifier_that_cannot_be_drawn_is_not_drawn_in_part() -> None:
    """The page's letters are English; a question mark in an identifier would make it somebody else's."""
    images = mr_series()
    for image in images:
        image.PatientID, image.AccessionNumber = "ሀ-17", ""
    text = head(report(tumour()), images)
    assert "Patient ID: (see the header of this image)" in text
    assert "Accession number: -" in text


def test_what_is_not_reported_and_what_was_not_found_is_said() -> None:
    """Without contrast no core; without a tumour no all-clear."""
    without = head(report(np.where(tumour() > 0, 2, 0).astype(np.uint8), has_t1c=False))
    assert "Tumour core (TC): not reported: without a T1 with contrast" in without
    assert "No tumour was outlined" in head(report(np.zeros(SHAPE, np.uint8)))
    assert "No tumour was outlined" not in head(report(tumour()))


def test_a_long_line_is_broken_and_none_of_it_lost() -> None:
    """Each word is drawn inside the page: a narrower page is a longer one."""
    line = [("word " * 60, (255, 255, 255))]
    narrow, wide = (np.asarray(module._text(line, width)) for width in (200, 4000))
    assert narrow.shape[0] > 8 * wide.shape[0]
    assert narrow[:, -module._GAP_PX + 2 :].max() == 0
    drawn = [picture.max(axis=2).astype(float).sum() for picture in (narrow, wide)]
    assert drawn[0] == pytest.approx(drawn[1], rel=0.02)


def test_without_pictures_the_page_still_says_everything() -> None:
    """A page of text alone."""
    made = secondary_capture(source_series(mr_series(), SHAPE), report(tumour()), [])
    assert made.pixel_array.max() == 255

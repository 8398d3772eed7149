"""The page: what it must say, in which language, and what it must never do."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glialite_runtime.cases import find_case
from glialite_runtime.errors import ConfigError
from glialite_runtime.findings import Frame, findings_of
from glialite_runtime.page.layout import render
from glialite_runtime.page.words import LANGUAGES, Words
from glialite_runtime.volume import Volume, load_volume

IDENTITY = {"patient_id": "KNH-1", "accession_number": "A-7", "study_date": "20261104", "patient_name": "MWANGI^Grace"}


class Checker(HTMLParser):
    """Collects text, and fails on tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "line", "rect") or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += f" {data}"


def text_of(page: str) -> str:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return " ".join(checker.text.split())


@pytest.fixture
def volume(case_folder: Path) -> Volume:
    return load_volume(find_case(case_folder))


@pytest.fixture
def labels(volume: Volume) -> np.ndarray:
    labels = np.zeros(volume.channels[0].shape, np.uint8)
    labels[20:30, 24:34, 34:46] = 2
    labels[22:28, 26:32, 36:42] = 3
    return labels


def document(labels: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Return a whole report of a label map."""
    frame = Frame((2.0, 2.0, 2.0), 8.0, ((4, 6, 6), (44, 58, 54)))
    base = {
        "case": "P01",
        "identity": IDENTITY,
        "created": "2026-11-21T10:00:00+00:00",
        "software": "GliaLite 0.1.0",
        **findings_of(labels, frame, has_t1c=True),
        "volume_intervals_ml": {r: {"rate": 0.9, "low": 1.0, "high": 20.5} for r in ("WT", "TC", "ET")},
        "sequences": {"present": ["t1n", "t1c", "t2w", "t2f"], "missing": []},
        "quality": {"verdict": "good", "notes": [], "findings": []},
        "bundle": {
            "name": "S",
            "sha256": "ab" * 32,
            "trained_on": "Trained on 60 cases.",
            "intended_use": "Research use.",
            "golden_crop": "bit for bit",
            "precision": "int8",
        },
    }
    return base | changes


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_says_what_every_page_must_say(volume: Volume, labels: np.ndarray, language: str) -> None:
    """Whose scan, not for diagnosis, no tumour is not normal, convention, volume with interval, model, languages."""
    words = Words(language)
    text = text_of(render(document(labels), volume, labels, language))
    for key in ("not_for_diagnosis", "nothing_outlined_general", "convention", "note.scope.children", "side.left"):
        assert words.say(key) in text
    assert all(value in text for value in ("MWANGI Grace", "KNH-1", "A-7", "2026-11-04"))
    assert words.say("range_ml", low=words.number(1.0), high=words.number(20.5)) in text
    assert "GliaLite 0.1.0" in text
    assert "abababababababab" in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_that_nobody_reviewed_says_so_in_both_languages(
    volume: Volume, labels: np.ndarray, language: str
) -> None:
    """The English page has no such sentence."""
    text = text_of(render(document(labels), volume, labels, language))
    assert (Words("en").say("unreviewed") in text) == (language != "en")
    assert (Words(language).say("unreviewed") in text) == (language != "en")


def test_the_identity_is_in_the_head_that_is_repeated_on_every_sheet(volume: Volume, labels: np.ndarray) -> None:
    """Browsers print a table's head on each sheet of paper."""
    page = render(document(labels), volume, labels)
    head = page[page.index("<thead>") : page.index("</thead>")]
    assert all(value in head for value in ("P01", "KNH-1", "A-7", "2026-11-04", "Not for diagnosis"))


def test_without_an_identity_there_is_room_to_write_one(volume: Volume, labels: np.ndarray) -> None:
    """Nothing is invented."""
    text = text_of(render(document(labels, identity={}), volume, labels))
    assert Words("en").say("identity_absent") in text


def test_hostile_text_stays_text(volume: Volume, labels: np.ndarray) -> None:
    """Names, notes and the bundle's own words cannot bring tags, addresses to load, or turned-around letters."""
    evil = "<script src=http://x>'\"&\u202e"
    hostile = document(
        labels,
        case=evil,
        identity=dict.fromkeys(IDENTITY, evil),
        quality={"verdict": "check", "notes": [evil], "findings": [{"key": evil, "values": {}, "text": evil}]},
        created=evil,
        software=evil,
    )
    hostile["bundle"] |= {"name": evil, "trained_on": evil, "intended_use": evil, "precision": evil}
    hostile["bundle"]["golden_crop"] = "differs"
    page = render(hostile, volume, labels)
    assert not re.search(r"<script|<link|@import|url\(|src=\"(?!data:image/png;base64,)", page)
    text_of(page)


def test_a_model_of_synthetic_patients_says_so_in_a_box(volume: Volume, labels: np.ndarray) -> None:
    """Only where the bundle says so; wholly and partly are told apart."""
    said = {}
    for trained_on in ("Trained on 31 synthetic patients only.", "60 real and 31 synthetic patients.", "60 patients."):
        found = document(labels)
        found["bundle"]["trained_on"] = trained_on
        text = text_of(render(found, volume, labels))
        said[trained_on] = [key for key in ("synthetic_only", "synthetic_partly") if Words("en").say(key) in text]
    assert list(said.values()) == [["synthetic_only"], ["synthetic_partly"], []]


def test_no_tumour_is_not_called_normal(volume: Volume, labels: np.ndarray) -> None:
    """An empty map has its own warning, and pictures of the middle of the brain."""
    text = text_of(render(document(labels * 0), volume, labels * 0))
    assert Words("en").say("nothing_outlined") in text
    assert Words("en").say("pictures_middle") in text


def test_missing_sequences_are_said_with_what_follows(volume: Volume, labels: np.ndarray) -> None:
    """Without T1c the core is not reported, not zero."""
    frame = Frame((2.0, 2.0, 2.0), 8.0, ((4, 6, 6), (44, 58, 54)))
    found = document(labels, **findings_of(labels, frame, has_t1c=False), volume_intervals_ml={})
    found["sequences"] = {"present": ["t1n", "t2w", "t2f"], "missing": ["t1c"]}
    text = text_of(render(found, volume, labels))
    assert "Missing: T1 with contrast." in text
    assert text.count(Words("en").say("without_t1c")) == 3  # TC and ET in mL, the diameters of ET


def test_notes_of_the_gate_are_listed(volume: Volume, labels: np.ndarray) -> None:
    """The verdict in words, then each note."""
    findings = [{"key": "geometry.thick", "values": {"mm": 5.5}, "text": "…"}]
    quality = {"verdict": "check", "notes": ["…"], "findings": findings}
    text = text_of(render(document(labels, quality=quality), volume, labels, "pt"))
    assert Words("pt").say("verdict.check") in text
    assert "5,5 mm de espessura" in text


def test_uncertain_voxels_are_flagged_for_review(volume: Volume, labels: np.ndarray) -> None:
    """Where they are many; a report without the figure says nothing."""
    parts = {"WT": {"ml": 3.25, "share": 0.4, "review": True}, "ET": {"ml": 0.1, "share": 0.02, "review": False}}
    text = text_of(render(document(labels, uncertainty=parts), volume, labels, "fr"))
    assert (
        "3,2 mL sont proches de la limite entre tumeur et non-tumeur (40 % de tout ce qui peut en faire partie)" in text
    )
    assert text.count(Words("fr").say("uncertainty_review")) == 1
    assert Words("fr").say("uncertainty") not in text_of(render(document(labels), volume, labels, "fr"))


def test_a_child_is_warned_of(volume: Volume, labels: np.ndarray) -> None:
    """When the input tells the age."""
    text = text_of(render(document(labels, identity={"age_years": 9}), volume, labels))
    assert "the patient is 9 years old" in text


def test_a_page_without_the_images_says_so(labels: np.ndarray) -> None:
    """A corrected outline can be reported without the scan at hand."""
    page = render(document(labels), None, labels)
    assert "data:image" not in page
    assert Words("en").say("pictures_absent") in text_of(page)


def test_an_unknown_language_is_refused(labels: np.ndarray) -> None:
    """Not replaced by English."""
    with pytest.raises(ConfigError):
        render(document(labels), None, labels, "xx")

"""The report as one page that any archive shows: a DICOM Secondary Capture, for viewers that cannot draw a SEG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any, Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from glialite_runtime.dicom.instances import MANUFACTURER, NOT_FOR_DIAGNOSIS, Maker, made_by, stamped
from glialite_runtime.dicom.outputs import Picture
from glialite_runtime.dicom.source_series import SourceSeries
from glialite_runtime.dicom.statements import WORDS, quality_statements, volume_statement, warnings
from glialite_runtime.notes import NOT_FOR
from glialite_runtime.page.identity import readable_date
from glialite_runtime.picture import COLOURS
from glialite_runtime.sequences import REGIONS

__all__ = ["SERIES_NUMBER", "secondary_capture"]

SERIES_NUMBER: Final = 9002

_COLUMNS: Final = 3  # axial, coronal, sagittal
_GAP_PX: Final = 8
_LETTER_PX: Final = 20  # of the font that Pillow brings, which has the letters of English alone
_LINE_PX: Final = 28
_NARROWEST_PX: Final = 1000
_WHITE: Final = (255, 255, 255)
_GREY: Final = (170, 170, 170)

_BURNED_IN: Final = {"patient_id": "PatientID", "accession_number": "AccessionNumber", "study_date": "StudyDate"}

_Line = tuple[str, tuple[int, int, int]]


def secondary_capture(source: SourceSeries, document: dict[str, Any], pictures: Sequence[Picture]) -> hd.sc.SCImage:
    """Return the page: warning, patient, volumes, pictures, where it comes from.

    Parameters
    ----------
    source : SourceSeries
        The series that was segmented.
    document : dict
        The JSON report.
    pictures : sequence of Picture
        Three a row, in reading order; without any the page holds the text alone.

    Returns
    -------
    SCImage
        Colour, 8 bits, in a series of its own within the patient's study.
    """
    page = _page(_head(source, document), pictures, _foot(document, made_by(source, document)))
    maker = made_by(source, document, page.tobytes())
    image = source.images[0]
    made = hd.sc.SCImage(
        pixel_array=page,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        study_instance_uid=image.StudyInstanceUID,
        series_instance_uid=maker.uid("picture series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=maker.uid("picture"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "P"),
        series_description=f"{MANUFACTURER} pictures ({NOT_FOR_DIAGNOSIS})",
        manufacturer_model_name=MANUFACTURER,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    made.PatientOrientation = []  # the pictures of the page differ in it; each has its letters
    made.BurnedInAnnotation, made.BodyPartExamined = "YES", "BRAIN"
    return stamped(made, source, maker)


def _head(source: SourceSeries, document: dict[str, Any]) -> list[_Line]:
    carried = {field: source.text(keyword) for field, keyword in _BURNED_IN.items()}
    who = "   ".join(f"{WORDS.say(field)}: {_drawable(readable_date(value))}" for field, value in carried.items())
    lines = [(WORDS.say("title"), _WHITE), (who, _WHITE)]
    lines += [(text, _WHITE) for text in warnings(document)]
    lines += [(volume_statement(region, document), COLOURS[region]) for region in REGIONS]
    return lines + [(text, _WHITE) for text in quality_statements(document)]


def _drawable(value: str) -> str:
    """Return a value that the page's letters can show, else where to find it: half an identifier is worse than none."""
    if not value:
        return "-"
    return value if value.isascii() and value.isprintable() else "(see the header of this image)"


def _foot(document: dict[str, Any], maker: Maker) -> list[_Line]:
    bundle = document["bundle"]
    limits = [WORDS.note(asdict(note)) for note in NOT_FOR] + [WORDS.say("nothing_outlined_general")]
    return [
        (WORDS.say("convention"), _GREY),
        (" ".join(limits), _GREY),
        (f"{WORDS.say('model')}: {maker.bundle}; {bundle['trained_on']} {bundle['intended_use']}", _GREY),
        (f"{WORDS.say('software')}: {maker.software}; {WORDS.say('made')} {maker.made:%Y-%m-%d %H:%M %z}", _GREY),
    ]


def _page(head: list[_Line], pictures: Sequence[Picture], foot: list[_Line]) -> npt.NDArray[np.uint8]:
    """Return the page as an array (row, column, red-green-blue)."""
    images = [Image.open(BytesIO(picture.png)).convert("RGB") for picture in pictures]
    rows = [range(start, min(start + _COLUMNS, len(images))) for start in range(0, len(images), _COLUMNS)]
    cell = max([image.width + _GAP_PX for image in images] + [_NARROWEST_PX // _COLUMNS])
    width = _COLUMNS * cell + _GAP_PX
    parts = [_text(head, width)]
    for row in rows:
        band = Image.new("RGB", (width, max(images[n].height for n in row)))
        texts = [_text([(pictures[n].caption, _GREY)], cell) for n in row]
        captions = Image.new("RGB", (width, max(text.height for text in texts)))
        for column, n in enumerate(row):
            middle = column * cell + (cell - images[n].width) // 2
            band.paste(images[n], (middle, band.height - images[n].height))
            captions.paste(texts[column], (column * cell, 0))
        parts += [band, captions]
    parts.append(_text(foot, width))
    page = Image.new("RGB", (width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return np.asarray(page)


def _text(lines: list[_Line], width: int) -> Image.Image:
    """Return lines of text on black, broken between words, as a picture of `width` pixels."""
    font = ImageFont.load_default(_LETTER_PX)
    broken: list[_Line] = []
    for text, colour in lines:
        words = text.encode("ascii", "replace").decode().split(" ")
        line = words[0]
        for word in words[1:]:
            if font.getlength(f"{line} {word}") > width - 2 * _GAP_PX:
                broken.append((line, colour))
                line = word
            else:
                line += f" {word}"
        broken.append((line, colour))
    picture = Image.new("RGB", (width, len(broken) * _LINE_PX))
    drawing = ImageDraw.Draw(picture)
    for n, (line, colour) in enumerate(broken):
        drawing.text((_GAP_PX, n * _LINE_PX), line, colour, font)
    return picture

"""Whose scan it is, as a page shows it: cleaned, in a fixed order, never invented."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["IDENTITY_FIELDS", "clean", "readable_date", "shown_identity"]

IDENTITY_FIELDS: Final = ("patient_name", "patient_id", "birth_date", "accession_number", "study_date")
"""What a page shows of an identity, where it is there."""

_LONGEST: Final = 64  # DICOM's longest identifier
_SPACES: Final = ("Zs", "Zl", "Zp", "Cc")


def clean(text: object) -> str:
    """Return text on one line without characters that are invisible or turn others around, cut after 64."""
    spaced = "".join(" " if unicodedata.category(c) in _SPACES else c for c in str(text))
    kept = "".join(c for c in spaced if not unicodedata.category(c).startswith("C"))
    kept = " ".join(kept.split())
    return kept if len(kept) <= _LONGEST else kept[: _LONGEST - 1] + "…"


def readable_date(text: str) -> str:
    """Return DICOM's 20260131 as 2026-01-31, which reads the same in every language; anything else as it is."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if re.fullmatch(r"\d{8}", text) else text


def shown_identity(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of an identity that have a value, cleaned, in the order of `IDENTITY_FIELDS`."""
    found = {}
    for field in IDENTITY_FIELDS:
        text = clean(identity.get(field) or "")
        if field == "patient_name":
            text = " ".join(text.replace("^", " ").split())  # DICOM: family^given
        if text:
            found[field] = readable_date(text) if field.endswith("date") else text
    return found

"""What all DICOM outputs share: identifiers and times that follow from the report, patient and study unchanged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from typing import Any, Final, TypeVar
from uuid import NAMESPACE_OID, uuid5

from pydicom import config, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from glialite_runtime.dicom.source_series import SourceSeries

__all__ = ["MANUFACTURER", "NOT_FOR_DIAGNOSIS", "SCHEME", "Maker", "encoded", "made_by", "stamped"]

MANUFACTURER: Final = "GliaLite"
NOT_FOR_DIAGNOSIS: Final = "Research use, not for diagnosis"
SCHEME: Final = "99GLIALITE"
"""Designator of our own codes, where no published one says what is meant."""

_DATES: Final = ("InstanceCreationDate", "SeriesDate", "ContentDate", "DateOfSecondaryCapture")
_TIMES: Final = ("InstanceCreationTime", "SeriesTime", "ContentTime", "TimeOfSecondaryCapture")
_LONGEST: Final = 64  # characters of a DICOM LO
_SEPARATOR: Final = "\\"  # of the values of an element
_VOLATILE: Final = "timings_s"  # the one entry of a report that says nothing about the result


_Instance = TypeVar("_Instance", bound=Dataset)


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made the outputs of one report, and when.

    Attributes
    ----------
    software : str
        Name and version.
    bundle : str
        Name of the model and the first 16 digits of its SHA-256.
    made : datetime
        When the report was made, in the study's time zone, else in UTC.
    content : str
        SHA-256 of the report and of the source images' UIDs; all identifiers follow from it.
    """

    software: str
    bundle: str
    made: datetime
    content: str

    def uid(self, role: str) -> str:
        """Return the identifier of a role; the same report gives the same one.

        Source: ITU-T X.667 and DICOM PS3.5 B.2, UIDs derived from a UUID.
        """
        return f"2.25.{uuid5(NAMESPACE_OID, f'{MANUFACTURER} {self.content} {role}').int}"


def made_by(source: SourceSeries, document: dict[str, Any], *further: bytes) -> Maker:
    """Return who made the outputs of a report (the JSON document); `further` bytes also decide the identifiers."""
    result = {key: value for key, value in document.items() if key != _VOLATILE}
    digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode())
    for content in (*(str(image.SOPInstanceUID).encode() for image in source.images), *further):
        digest.update(len(content).to_bytes(8, "big") + content)
    bundle = document["bundle"]
    return Maker(
        software=document["software"][:_LONGEST],
        bundle=f"{bundle['name'].replace(_SEPARATOR, '/')[: _LONGEST - 17]} {bundle['sha256'][:16]}",
        made=datetime.fromisoformat(document["created"]).astimezone(_zone(source.text("TimezoneOffsetFromUTC"))),
        content=digest.hexdigest(),
    )


def _zone(offset: str) -> timezone:
    """Return a time zone such as +0200; UTC for anything else."""
    sign, digits = offset[:1], offset[1:]
    if sign in ("+", "-") and len(digits) == 4 and digits.isascii() and digits.isdigit() and int(digits) <= 1400:
        minutes = int(digits[:2]) * 60 + int(digits[2:])
        return timezone(timedelta(minutes=-minutes if sign == "-" else minutes))
    return UTC


def stamped(instance: _Instance, source: SourceSeries, maker: Maker) -> _Instance:
    """Return an object that highdicom has made, with patient and study, software, times and identifiers put into it.

    highdicom reads the clock and draws identifiers by chance; both are replaced here, so that the same report gives
    the same bytes.
    """
    for keyword in instance.dir():
        if keyword in _DATES:
            setattr(instance, keyword, f"{maker.made:%Y%m%d}")
        elif keyword in _TIMES:
            setattr(instance, keyword, f"{maker.made:%H%M%S}")
    for equipment in instance.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = f"{maker.made:%Y%m%d%H%M%S}"
    for organization in (
        *instance.get("DimensionOrganizationSequence", []),
        *instance.get("DimensionIndexSequence", []),
    ):
        organization.DimensionOrganizationUID = maker.uid("dimensions")
    instance.SoftwareVersions = [maker.software, maker.bundle]
    instance.SpecificCharacterSet = "ISO_IR 192"
    for keyword, element in source.carried.items():
        instance[keyword] = DataElement(element.tag, element.VR, element.value, validation_mode=config.IGNORE)
    return instance


def encoded(instance: Dataset) -> bytes:
    """Return a DICOM object as the bytes of a file."""
    stream = BytesIO()
    dcmwrite(stream, instance, enforce_file_format=True)
    return stream.getvalue()

"""The report of a case as a document for machines: what JSON and CSV hold and the page shows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glialite_runtime.bundle import Bundle
from glialite_runtime.errors import InputError
from glialite_runtime.files import sha256_bytes, sha256_file
from glialite_runtime.findings import Frame, describe
from glialite_runtime.nifti import Image
from glialite_runtime.page.words import words_in
from glialite_runtime.sequences import REGIONS, SEQUENCES

if TYPE_CHECKING:
    from glialite_runtime.predict import Segmentation

__all__ = ["ReportOptions", "document_of", "frame_of", "read_json", "table_of"]

_WITHOUT_T1C: Final = "cannot be told apart without a contrast-enhanced T1 (t1c)"
_MAX_JSON_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report is to be like.

    Attributes
    ----------
    language : str
        Of the page; a key of `words.LANGUAGES`. JSON and CSV are the same in every language.
    identity : mapping
        Whose scan it is, as the input says: the fields of `identity.IDENTITY_FIELDS`, `age_years`; empty when unknown.
    prior : Path or None
        ``<case>-report.json`` of an earlier study of the same patient.
    raw : bool
        The scans are as the scanner made them: they are aligned and the brain is found first.
    brain_mask : Path or None
        With `raw`: a mask of the brain on the T1c scan, in place of the one that the atlas gives.
    """

    language: str = "en"
    identity: Mapping[str, Any] = field(default_factory=dict)
    prior: Path | None = None
    raw: bool = False
    brain_mask: Path | None = None

    def __post_init__(self) -> None:
        words_in(self.language)

    @property
    def fingerprint(self) -> dict[str, str | bool | None]:
        """What of the options decides the files written, without a patient's name."""
        return {
            "language": self.language,
            "identity": sha256_bytes(json.dumps(dict(self.identity), sort_keys=True).encode()),
            "prior": sha256_file(self.prior) if self.prior is not None and self.prior.is_file() else None,
            "raw": self.raw,
            "brain_mask": sha256_file(self.brain_mask) if self.brain_mask and self.brain_mask.is_file() else None,
        }


def document_of(segmentation: Segmentation, bundle: Bundle, options: ReportOptions) -> dict[str, Any]:
    """Return the report of a segmented case, without what is known only when it is written (input hashes, times)."""
    volume, manifest = segmentation.volume, bundle.manifest
    measured, frame = segmentation.measured, segmentation.measured.frame
    found = describe(measured.labels, frame, segmentation.volumes_ml, segmentation.lesions)
    return {
        "case": segmentation.case.name,
        "identity": dict(options.identity),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "language": options.language,
        **found,
        "uncertainty": segmentation.uncertainty,
        "volume_intervals_ml": _intervals_ml(segmentation.volumes_ml, bundle),
        "not_reported": {} if "t1c" in volume.sequences else {"TC": _WITHOUT_T1C, "ET": _WITHOUT_T1C},
        "sequences": {
            "present": list(volume.sequences),
            "missing": [s for s in SEQUENCES if s not in volume.sequences],
        },
        "quality": asdict(segmentation.quality),
        "bundle": {
            "name": manifest.name,
            "sha256": bundle.identity,
            "signature": bundle.signature,
            "trained_on": manifest.trained_on,
            "intended_use": manifest.intended_use,
            **asdict(segmentation.network),
            "decision": manifest.decision.to_json(),
        },
        "alignment": segmentation.alignment,
        "voxel_mm3": frame.voxel_mm3,
        "brain_box_zyx": [list(corner) for corner in frame.brain_box],
    }


def frame_of(document: Mapping[str, Any], mask: Image) -> Frame:
    """Return the frame of a report that was written: voxels as its mask has them, the brain's box as it says."""
    (z, y, x), (z_end, y_end, x_end) = ((int(n) for n in corner) for corner in document["brain_box_zyx"])
    return Frame.of(mask, ((z, y, x), (z_end, y_end, x_end)))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises
    ------
    InputError
        It is absent, unreasonably large, or no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: the case was never finished; segment it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); segment the case again") from error
    return document


def _intervals_ml(volumes: dict[str, float | None], bundle: Bundle) -> dict[str, dict[str, float]]:
    """Return region -> `rate`, `low` and `high` in mL; empty for a bundle that brings none."""
    reliability = bundle.manifest.reliability
    if reliability is None:
        return {}
    found = {}
    for (region, ml), interval in zip(volumes.items(), reliability.volume_intervals, strict=True):
        if ml is not None:
            low, high = interval.around(ml)
            found[region] = {"rate": interval.rate, "low": round(low, 3), "high": round(high, 3)}
    return found


def table_of(document: dict[str, Any]) -> str:
    """Return a report as CSV: a row a region, an empty field where nothing can be said."""
    identity, correction = document["identity"], document.get("correction")
    whose = {name: identity.get(name) for name in ("patient_id", "accession_number", "study_date")}
    rows = []
    for region in REGIONS:
        interval = document["volume_intervals_ml"].get(region, {})
        lines = document["diameters"].get(region) or {}
        rows.append(
            {
                "case": document["case"],
                **whose,
                "region": region,
                "volume_ml": document["volumes_ml"][region],
                "low_ml": interval.get("low"),
                "high_ml": interval.get("high"),
                "longest_mm": lines.get("longest_mm"),
                "perpendicular_mm": lines.get("perpendicular_mm"),
                "product_mm2": lines.get("product_mm2"),
                "hemisphere": document["hemisphere"],
                "quality": document["quality"]["verdict"],
                "automatic_ml": correction["automatic_ml"][region] if correction else None,
                "dice": correction["dice"][region] if correction else None,
                "software": document["software"],
                "bundle": document["bundle"]["sha256"],
                "created": document["created"],
            }
        )
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _cell(value: object) -> object:
    """Return a cell that a spreadsheet takes for text: a name that starts like a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value

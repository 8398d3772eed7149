"""Temperatures and volume intervals that `distill evaluate --fit-on` fitted, for a bundle of the same student alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glialite_distill.cohort import site_of
from glialite_distill.evaluate_pictures import PICTURES
from glialite_runtime.bundle import Reliability
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import sha256_bytes
from glialite_runtime.measure import VolumeInterval
from glialite_runtime.sequences import REGIONS

from glialite_export.measured import measured_section
from glialite_export.pack import PHANTOM_SITE

__all__ = ["Fitted", "load_fitted"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a bundle is to carry.

    Attributes
    ----------
    reliability : Reliability
        Temperatures and intervals.
    record : mapping
        For provenance: `of` says whose outlines it was fitted on, `cases` on which.
    measured : str
        For the model card: how good the model was in that evaluation.
    pictures : mapping of str to bytes
        Of that evaluation, by their names in the bundle.
    """

    reliability: Reliability
    record: Mapping[str, Any]
    measured: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def load_fitted(path: Path, student_sha256: str, build_key: str) -> Fitted:
    """Return what an evaluation fitted for this student.

    What was fitted for the bundle itself, as the clinic runs it, goes before what was fitted for the student in FP32.
    Pictures of the same model that lie beside the file come along; slices of a scan only of synthetic patients.

    Parameters
    ----------
    path : Path
        JSON of `distill evaluate --fit-on`, printed with `--json` or written beside its `--csv`.
    student_sha256, build_key : str
        Of the student's file, and of the build that it becomes.

    Raises
    ------
    ConfigError
        The file is no such result, is damaged, or holds nothing about this student; a picture is not the one drawn.
    """
    try:
        document = json.loads(path.read_bytes())
        fitted = document["fitted"]
        whose = {name: (one.get("student_sha256"), one.get("build_key")) for name, one in fitted.items()}
        built = [name for name, (_, key) in whose.items() if key == build_key]
        own = [name for name, (student, key) in whose.items() if student == student_sha256 and key is None]
        if not (built or own):
            raise ConfigError(
                f"{path} holds what was fitted for {', '.join(fitted) or 'no model'}, and none of it is this student "
                "or the bundle built from it with these options; run distill evaluate --fit-on with one of them"
            )
        name = (built or own)[0]
        record = {"of": "INT8" if built else "FP32", "cases": list(fitted[name]["cases"])}
        pictures = _pictures(path, document, name)
        section = measured_section(document.get("cases", ()), name, pictures)
        return Fitted(_parse(fitted[name]), record, section, pictures)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no result of distill evaluate --fit-on ({error!r}); give what it printed with --json, or the "
            ".json beside its --csv"
        ) from error


def _pictures(path: Path, document: Mapping[str, Any], model: str) -> dict[str, bytes]:
    """Return the pictures of a model that lie beside a result, each as it was drawn."""
    if document.get("pictured") != model:
        return {}
    drawn = document.get("files", {})
    synthetic = all(site_of(row["case"]) == PHANTOM_SITE for row in document["cases"])
    found = {}
    for kind in PICTURES:
        picture = path.with_name(f"{path.stem}-{kind}.png")
        if not picture.is_file() or picture.name not in drawn:
            continue
        if kind == "worst" and not synthetic:  # no patient's image travels with a bundle
            continue
        found[f"{kind}.png"] = picture.read_bytes()
        if sha256_bytes(found[f"{kind}.png"]) != drawn[picture.name]:
            raise ConfigError(
                f"{picture} is not the picture that was drawn with {path.name}; run the same distill evaluate again, "
                "or take the picture away"
            )
    return found


def _parse(found: Mapping[str, Any]) -> Reliability:
    wt, tc, et = (float(found["temperature"][region]) for region in REGIONS)
    count, limits = len(found["cases"]), [found["volume_intervals"][region] for region in REGIONS]
    first, second, third = (VolumeInterval(float(i["rate"]), count, float(i["low"]), float(i["high"])) for i in limits)
    return Reliability((wt, tc, et), (first, second, third))

"""An earlier study of the same patient beside this one: what changed, and how much of it the method cannot tell.

The noise floor of a change is what both volumes can be wrong by, added up. With error intervals from the bundle that is
the distance from the earlier volume to the end of its interval on one side, and from this volume to the end of its own
on the other: a change beyond it is one that the two intervals cannot explain. By the union bound both hold in at least
2 · rate - 1 of the cases, whether or not the two errors depend on each other. Without intervals it is what both
outlines change by when they move by half a voxel everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import InputError
from glialite_runtime.files import sha256_file
from glialite_runtime.measure import tumour_box
from glialite_runtime.metrics import region_masks
from glialite_runtime.page.identity import clean
from glialite_runtime.report import read_json
from glialite_runtime.sequences import REGIONS
from glialite_runtime.verify import read_mask, verify_report

__all__ = ["compare", "outline_noise_ml"]

_BRATS_CASE: Final = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d{3}")


def compare(document: dict[str, Any], labels: npt.NDArray[np.uint8], prior: Path) -> dict[str, Any]:
    """Return what a report says of the change since an earlier one.

    Parameters
    ----------
    document : dict
        This case's report, with `inputs`.
    labels : uint8 array (z, y, x)
        Its label map.
    prior : Path
        ``<case>-report.json`` of the earlier study, or ``<case>-corrected-report.json``.

    Raises
    ------
    InputError
        There is no readable report, it is of another patient, or it is of the very same images.
    CheckFailedError
        A file of the earlier report was changed since it was written.
    """
    verify_report(prior)
    try:
        return _comparison(document, labels, read_json(prior), prior)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"{prior} is damaged ({error!r}); segment that case again") from error


def _comparison(
    document: dict[str, Any], labels: npt.NDArray[np.uint8], earlier: dict[str, Any], prior: Path
) -> dict[str, Any]:
    patient = _patient(document, earlier, prior)
    if earlier["inputs"] == document["inputs"]:
        raise InputError(f"{prior} is of the very same images; give the report of an earlier study with --prior")
    intervals = _both_intervals(document, earlier)
    noise = {} if intervals else _outline_noise(document, labels, earlier, prior)
    regions = {}
    for region in REGIONS:
        then, now = earlier["volumes_ml"][region], document["volumes_ml"][region]
        if then is None or now is None:
            continue
        change = now - then
        floor = max(_interval_noise(change, intervals[region]) if intervals else noise[region], 0.0)
        regions[region] = {
            "earlier_ml": then,
            "now_ml": now,
            "change_ml": round(change, 3),
            "noise_floor_ml": round(floor, 3),
            "larger": abs(change) > floor,
        }
    rates = [i["rate"] for pair in intervals.values() for i in pair]
    return {
        "prior": {
            "case": earlier["case"],
            "study_date": _identity(earlier).get("study_date"),
            "created": earlier["created"],
            "bundle": earlier["bundle"]["sha256"],
            "report_sha256": sha256_file(prior),
        },
        "patient": patient,
        "noise_floor": "intervals" if intervals else "outline",
        "percent": round(100 * min(rates)) if rates else None,
        "regions": regions,
        "remarks": _remarks(document, earlier),
    }


def _identity(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document.get("identity") or {}


def _patient(document: Mapping[str, Any], earlier: Mapping[str, Any], prior: Path) -> str:
    """Return "same" when both carry one patient ID, "unconfirmed" when that cannot be told; refuse another patient."""
    for field in ("patient_id", "birth_date"):
        here, there = (clean(_identity(d).get(field) or "").upper() for d in (document, earlier))
        if here and there and here != there:
            raise InputError(
                f"{prior} is of another patient ({field} {there}, not {here}): nothing was compared and nothing written"
            )
    if clean(_identity(document).get("patient_id") or "") and clean(_identity(earlier).get("patient_id") or ""):
        return "same"
    names = [found[1] for d in (earlier, document) if (found := _BRATS_CASE.fullmatch(str(d["case"])))]
    if len(set(names)) > 1:
        raise InputError(
            f"{prior} is of another patient ({names[0]}, not {names[1]}): nothing was compared and nothing written"
        )
    return "unconfirmed"


_Intervals = dict[str, tuple[dict[str, float], dict[str, float]]]


def _both_intervals(document: Mapping[str, Any], earlier: Mapping[str, Any]) -> _Intervals:
    """Return region -> the earlier interval and this one, each with its volume; empty unless every region has both."""
    found = {}
    for region in REGIONS:
        if document["volumes_ml"][region] is None or earlier["volumes_ml"][region] is None:
            continue
        pair = [d["volume_intervals_ml"].get(region) for d in (earlier, document)]
        if None in pair:
            return {}
        then, now = (i | {"ml": d["volumes_ml"][region]} for i, d in zip(pair, (earlier, document), strict=True))
        found[region] = (then, now)
    return found


def _interval_noise(change: float, pair: tuple[dict[str, float], dict[str, float]]) -> float:
    then, now = pair
    if change >= 0:
        return (then["high"] - then["ml"]) + (now["ml"] - now["low"])
    return (then["ml"] - then["low"]) + (now["high"] - now["ml"])


def _outline_noise(
    document: Mapping[str, Any], labels: npt.NDArray[np.uint8], earlier: Mapping[str, Any], prior: Path
) -> dict[str, float]:
    mask, _ = read_mask(prior.with_name(prior.name.removesuffix("-report.json") + "-seg.nii.gz"))
    here, there = outline_noise_ml(labels, document["voxel_mm3"]), outline_noise_ml(mask, earlier["voxel_mm3"])
    return {region: here[region] + there[region] for region in REGIONS}


def outline_noise_ml(labels: npt.NDArray[np.uint8], voxel_mm3: float) -> dict[str, float]:
    """Return region -> mL between the outline of a label map and the same half a voxel further out.

    Faces between a voxel of the region and one outside, times half a voxel. Steps of a slanting outline count as they
    are, so it is on the large side.
    """
    inside = np.pad(labels[tumour_box(labels)], 1)
    found = {}
    for region, mask in zip(REGIONS, region_masks(inside), strict=True):
        faces = sum(int(np.count_nonzero(np.diff(mask, axis=axis))) for axis in range(3))
        found[region] = faces * voxel_mm3 / 2000
    return found


def _remarks(document: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a reader must know before believing a change: keys of the string table with their values."""
    found: list[dict[str, Any]] = []
    if "correction" in earlier:
        found.append({"key": "by_hand", "values": {}})
    elif earlier["bundle"]["sha256"] != document["bundle"]["sha256"] or earlier["software"] != document["software"]:
        found.append({"key": "other_model", "values": {}})
    voxels = {"earlier": float(earlier["voxel_mm3"]), "now": float(document["voxel_mm3"])}
    if abs(voxels["earlier"] / voxels["now"] - 1) > 0.01:
        found.append({"key": "other_voxels", "values": voxels})
    if earlier["sequences"]["present"] != document["sequences"]["present"]:
        found.append({"key": "other_sequences", "values": {}})
    then, now = (str(_identity(d).get("study_date") or "") for d in (earlier, document))
    if then and now and then > now:
        found.append({"key": "order", "values": {}})
    return found

"""Check what was written: a report against its mask, a bundle against its golden crop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.bundle import Bundle
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import CheckFailedError, InputError
from glialite_runtime.files import sha256_file
from glialite_runtime.findings import findings_of
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.nifti import Image, read
from glialite_runtime.report import frame_of, read_json
from glialite_runtime.sequences import LABEL_CONVENTIONS, REGIONS, to_brats2023
from glialite_runtime.volume import Orientation

__all__ = ["overlap", "read_mask", "selftest", "verify_report"]

_DERIVED: Final = ("volumes_ml", "hemisphere", "left_share", "diameters", "lesions", "lesions_not_listed")


def verify_report(report: Path) -> dict[str, Any]:
    """Derive everything measured in a report again from its mask and check every hash of its manifest.

    Parameters
    ----------
    report : Path
        ``<case>-report.json`` or ``<case>-corrected-report.json``, with its mask and manifest beside it.

    Returns
    -------
    dict
        Case, files checked, volumes in mL; for a corrected report also its overlap with the automatic outline.

    Raises
    ------
    InputError
        There is no readable report or manifest.
    CheckFailedError
        A file was changed, or something measured does not follow from the mask.
    """
    if not report.name.endswith("-report.json"):
        raise InputError(f"{report} is not a report; give a file named <case>-report.json")
    stem = report.name.removesuffix("-report.json")
    manifest = read_json(report.with_name(f"{stem}-manifest.json"))
    document = read_json(report)
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise InputError(f"the manifest of {report} is damaged (it lists no files); segment the case again")
    mask_path = report.with_name(f"{stem}-seg.nii.gz")
    _check_hashes(report.parent, files, {report.name, mask_path.name})
    labels, image = read_mask(mask_path)
    try:
        found = _derived(document, labels, image)
        different = [key for key in _DERIVED if found[key] != document[key]]
        if "correction" in document:
            automatic, _ = read_mask(report.with_name(str(document["correction"]["automatic_mask"])))
            found["dice"] = overlap(labels, automatic)
            different += [] if found["dice"] == document["correction"]["dice"] else ["dice"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{report} is damaged ({error!r}); segment the case again") from error
    if different:
        stated = document["volumes_ml"]
        raise CheckFailedError(
            f"{report}: it says {stated} mL, the mask holds {found['volumes_ml']} mL; what does not follow from the "
            f"mask: {', '.join(different)}"
        )
    result = {"case": stem, "files": sorted(files), "volumes_ml": found["volumes_ml"]}
    return result | ({"dice": found["dice"]} if "dice" in found else {})


def _check_hashes(folder: Path, files: Mapping[str, Any], needed: set[str]) -> None:
    problems = []
    for name in sorted({*map(str, files), *needed}):
        path = folder / Path(name).name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif files.get(name) != sha256_file(path):
            problems.append(f"{name} was changed after it was written")
    if problems:
        raise CheckFailedError(f"{folder}: " + "; ".join(problems))


def _derived(document: Mapping[str, Any], labels: npt.NDArray[np.uint8], image: Image) -> dict[str, Any]:
    """Return what a mask says, as JSON would give it back: tuples as lists."""
    frame = frame_of(document, image)
    found = findings_of(labels, frame, has_t1c=document["volumes_ml"]["TC"] is not None)
    found["lesions"] = [lesion | {"centre_zyx": list(lesion["centre_zyx"])} for lesion in found["lesions"]]
    return found


def read_mask(path: Path) -> tuple[npt.NDArray[np.uint8], Image]:
    """Return a label map (z, y, x) in LPS and its image.

    Raises
    ------
    InputError
        It cannot be read (see `nifti.read`), or holds other values than 0, 1, 2 and 3.
    """
    image = read(path)
    data = Orientation.of(image.affine).to_lps(image.data)
    if data.dtype == np.uint8 and data.max() <= max(LABEL_CONVENTIONS["brats2023"]):
        return data, image
    return to_brats2023(data, "brats2023"), image


def overlap(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> dict[str, float | None]:
    """Return region -> Dice of two label maps of one shape, None where both are empty."""
    found: dict[str, float | None] = {}
    for region, score in zip(REGIONS, dice_per_region(first, second), strict=True):
        found[region] = round(score, 4) if np.isfinite(score) else None
    return found


def selftest(bundle: Bundle, threads: int = 0) -> dict[str, Any]:
    """Run a bundle's golden crop and compare its logits bit for bit.

    Returns
    -------
    dict
        The bundle's name and the seconds that the crop took.

    Raises
    ------
    CheckFailedError
        The network gives other numbers here than where the bundle was made.
    """
    image, expected = bundle.golden()
    engine = open_engine(bundle, threads)
    started = time.perf_counter()
    got = engine.logits(image)
    seconds = time.perf_counter() - started
    if all(graph.target == "gpu" for graph in bundle.manifest.graphs):  # opening it has compared the golden crop
        return {"bundle": bundle.manifest.name, "golden_crop": engine.golden_crop, "seconds": round(seconds, 3)}
    if not np.array_equal(got, expected):
        largest = float(np.abs(got - expected).max()) if got.shape == expected.shape else float("inf")
        raise CheckFailedError(
            f"the golden crop of {bundle.manifest.name} comes out differently on this computer (largest difference "
            f"{largest:.3g}): the same weights are used dequantised, in FP32, instead, and every report says so; "
            "please report the processor's name"
        )
    return {"bundle": bundle.manifest.name, "bit_identical": True, "seconds": round(seconds, 3)}

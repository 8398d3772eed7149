"""Check what was written: a report against its mask, a bundle against its golden crop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from glialite_runtime.bundle import Bundle
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import CheckFailedError, InputError
from glialite_runtime.files import sha256_file
from glialite_runtime.measure import volumes_ml
from glialite_runtime.nifti import read

__all__ = ["selftest", "verify_report"]


def verify_report(report: Path) -> dict[str, Any]:
    """Derive the volumes of a report again from its mask and check every hash of its manifest.

    Parameters
    ----------
    report : Path
        ``<case>-report.json``, with its mask and manifest beside it.

    Returns
    -------
    dict
        Case, files checked, volumes in mL.

    Raises
    ------
    InputError
        There is no readable report or manifest.
    CheckFailedError
        A file was changed, or a volume does not follow from the mask.
    """
    if not report.name.endswith("-report.json"):
        raise InputError(f"{report} is not a report; give a file named <case>-report.json")
    stem = report.name.removesuffix("-report.json")
    manifest_path = report.with_name(f"{stem}-manifest.json")
    try:
        document = json.loads(report.read_bytes())
        manifest = json.loads(manifest_path.read_bytes())
        files, stated = dict(manifest["files"]), dict(document["volumes_ml"])
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: the case was never finished; segment it again") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{report} or its manifest is damaged ({error}); segment the case again") from error
    problems = []
    for name in sorted({*files, report.name, f"{stem}-seg.nii.gz"}):
        path = report.parent / Path(name).name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif files.get(name) != sha256_file(path):
            problems.append(f"{name} was changed after it was written")
    if problems:
        raise CheckFailedError(f"{report.parent}: " + "; ".join(problems))
    mask = read(report.with_name(f"{stem}-seg.nii.gz"))
    voxel_mm3 = float(abs(np.linalg.det(mask.affine[:3, :3])))
    counted = volumes_ml(mask.data.astype(np.uint8), voxel_mm3, has_t1c=stated.get("TC") is not None)
    if counted != stated:
        raise CheckFailedError(f"{report}: it says {stated} mL, the mask holds {counted} mL")
    return {"case": stem, "files": sorted(files), "volumes_ml": counted}


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

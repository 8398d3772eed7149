"""The one use case: a case's files become a segmentation, and the segmentation becomes files."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime import __version__
from glialite_runtime.bundle import Bundle
from glialite_runtime.cases import Case
from glialite_runtime.decode import decode, decode_above
from glialite_runtime.engine import Engine
from glialite_runtime.files import remove, sha256_file, write_bytes, write_json
from glialite_runtime.intake import Quality, inspect_volume
from glialite_runtime.measure import Lesion, lesions, volumes_ml
from glialite_runtime.nifti import write_labels
from glialite_runtime.preprocess import preprocess, restore_logits, uncrop
from glialite_runtime.report import render
from glialite_runtime.volume import Volume, load_volume

__all__ = ["NetworkRun", "Outputs", "Segmentation", "finished", "outputs_of", "segment", "write"]

_LISTED_ML: Final = 0.05  # smaller components are counted, not listed


@dataclass(frozen=True, slots=True)
class NetworkRun:
    """How the network ran.

    Attributes
    ----------
    precision : str
        See `Engine.precision`.
    golden_crop : str
        See `Engine.golden_crop`.
    kernels : str
        See `Engine.kernels`.
    """

    precision: str
    golden_crop: str
    kernels: str


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A segmented case.

    Attributes
    ----------
    case : Case
        Its files.
    volume : Volume
        Its images in LPS.
    labels : uint8 array (z, y, x)
        BraTS-2023 label values on the grid of `volume`.
    volumes_ml : dict
        Region -> mL, None where the sequences do not allow it.
    lesions : tuple of Lesion
        Components of the whole tumour, largest first.
    quality : Quality
        What the intake gate found.
    network : NetworkRun
        How the network ran.
    timings_s : dict
        Stage -> seconds.
    """

    case: Case
    volume: Volume
    labels: npt.NDArray[np.uint8]
    volumes_ml: dict[str, float | None]
    lesions: tuple[Lesion, ...]
    quality: Quality
    network: NetworkRun
    timings_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the files of one case go; the manifest is written last and is the commit marker."""

    labels: Path
    report: Path
    page: Path
    manifest: Path


def outputs_of(case: Case, out: Path) -> Outputs:
    """Return the output paths of a case under `out`: ``<out>/<case>/<case>-…``."""
    folder = out / case.name
    return Outputs(
        labels=folder / f"{case.name}-seg.nii.gz",
        report=folder / f"{case.name}-report.json",
        page=folder / f"{case.name}-report.html",
        manifest=folder / f"{case.name}-manifest.json",
    )


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.timings_s: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.timings_s[stage] = round(now - self._last, 4)
        self._last = now


def segment(case: Case, bundle: Bundle, engine: Engine) -> Segmentation:
    """Segment one case.

    Raises
    ------
    InputError
        The case cannot be segmented; the intake gate says why.
    """
    clock = _Clock()
    volume = load_volume(case)
    clock.lap("read")
    manifest = bundle.manifest
    quality = inspect_volume(volume, manifest.accepted_sequences)
    image, geometry = preprocess(volume, manifest.spacing_mm, engine.divisor)
    clock.lap("preprocess")
    ran = NetworkRun(engine.precision, engine.golden_crop, engine.kernels)
    same_grid = geometry.network_shape == tuple(b - a for a, b in zip(geometry.start, geometry.stop, strict=True))
    rule, has_t1c = manifest.decision, "t1c" in volume.sequences
    if same_grid:
        z, y, x = geometry.network_shape
        above = engine.above(image, rule.logit_thresholds)[:, :z, :y, :x]
    else:
        logits = engine.logits(image)
    del image
    clock.lap("network")
    if same_grid:
        cropped = decode_above(above, rule, volume.voxel_mm3, has_t1c=has_t1c)
    else:
        cropped = decode(restore_logits(logits, geometry), rule, volume.voxel_mm3, has_t1c=has_t1c)
    labels = uncrop(cropped, geometry)
    found = lesions(labels, volume.voxel_mm3, has_t1c=has_t1c)
    volumes = volumes_ml(labels, volume.voxel_mm3, has_t1c=has_t1c)
    clock.lap("postprocess")
    return Segmentation(case, volume, labels, volumes, found, quality, ran, clock.timings_s)


def _fingerprint(case: Case, bundle: Bundle) -> dict[str, Any]:
    return {
        "software": f"GliaLite {__version__}",
        "bundle": bundle.identity,
        "inputs": {sequence: sha256_file(path) for sequence, path in case.paths.items()},
    }


def finished(case: Case, bundle: Bundle, out: Path) -> bool:
    """Return whether the outputs of exactly these inputs and this bundle are there and unchanged."""
    outputs = outputs_of(case, out)
    try:
        manifest = json.loads(outputs.manifest.read_bytes())
        hashes = {name: sha256_file(outputs.manifest.parent / name) for name in manifest["files"]}
        same_files = hashes == manifest["files"] and outputs.labels.name in hashes
        return same_files and {k: manifest[k] for k in ("software", "bundle", "inputs")} == _fingerprint(case, bundle)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(segmentation: Segmentation, bundle: Bundle, out: Path) -> Outputs:
    """Write label map, JSON, page and, last, the manifest of their hashes.

    Raises
    ------
    OutputError
        The folder cannot be written; nothing half-written is left under a final name.
    """
    clock = _Clock()
    outputs = outputs_of(segmentation.case, out)
    remove(outputs.manifest)  # from here until the new one is written the outputs do not count as finished
    volume = segmentation.volume
    write_labels(outputs.labels, volume.orientation.from_lps(segmentation.labels), volume.reference)
    clock.lap("write labels")
    fingerprint = _fingerprint(segmentation.case, bundle)
    listed = [x for x in segmentation.lesions if (x.volumes_ml["WT"] or 0) >= _LISTED_ML]
    document: dict[str, Any] = {
        "case": segmentation.case.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": fingerprint["software"],
        "volumes_ml": segmentation.volumes_ml,
        "volume_intervals_ml": _intervals_ml(segmentation.volumes_ml, bundle),
        "not_reported": _not_reported(volume),
        "lesions": [asdict(lesion) for lesion in listed],
        "lesions_not_listed": len(segmentation.lesions) - len(listed),
        "quality": asdict(segmentation.quality),
        "bundle": {
            "name": bundle.manifest.name,
            "sha256": bundle.identity,
            "trained_on": bundle.manifest.trained_on,
            "intended_use": bundle.manifest.intended_use,
            **asdict(segmentation.network),
            "decision": {k: v for k, v in asdict(bundle.manifest.decision).items() if k != "logit_thresholds"},
        },
        "inputs": fingerprint["inputs"],
        "voxel_mm3": volume.voxel_mm3,
    }
    page = render(document, volume, segmentation.labels)
    clock.lap("report")
    document["timings_s"] = segmentation.timings_s | clock.timings_s
    write_bytes(outputs.page, page.encode())
    write_json(outputs.report, document)
    files = {p.name: sha256_file(p) for p in (outputs.labels, outputs.report, outputs.page)}
    write_json(outputs.manifest, {"case": segmentation.case.name, **fingerprint, "files": files})
    return outputs


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


def _not_reported(volume: Volume) -> dict[str, str]:
    if "t1c" in volume.sequences:
        return {}
    reason = "cannot be told apart without a contrast-enhanced T1 (t1c)"
    return {"TC": reason, "ET": reason}

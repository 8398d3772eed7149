"""A label map corrected by hand, measured again beside the automatic one; neither replaces the other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime import __version__
from glialite_runtime.cases import Case
from glialite_runtime.errors import GeometryError, InputError
from glialite_runtime.files import json_bytes, remove, sha256_bytes, sha256_file, write_bytes, write_json
from glialite_runtime.findings import findings_of
from glialite_runtime.label_files import write_label_map
from glialite_runtime.nifti import Image, read_header
from glialite_runtime.page.layout import render
from glialite_runtime.report import frame_of, read_json, table_of
from glialite_runtime.trust.audit_log import LOG, Event, append, inputs_hash
from glialite_runtime.verify import overlap, read_mask, verify_report
from glialite_runtime.volume import Orientation, Volume, load_volume

__all__ = ["correct"]

_MAX_SHIFT_MM: Final = 0.1


def correct(report: Path, mask: Path, scans: Case | None = None, language: str | None = None) -> Path:
    """Measure a label map that somebody has corrected, and write ``<case>-corrected-…`` beside the report.

    The automatic report stays as it is. The corrected one holds the volumes of both, their overlap and the hashes of
    both masks; `verify.verify_report` checks it like any other. A second correction replaces the first.

    Parameters
    ----------
    report : Path
        ``<case>-report.json`` of the automatic outline.
    mask : Path
        NIfTI with BraTS-2023 labels on the same grid, its axes stored in any order.
    scans : Case, optional
        The very images of the report, for the page's pictures; without them it has none.
    language : str, optional
        Of the page; by default the report's.

    Returns
    -------
    Path
        ``<case>-corrected-report.json``.

    Raises
    ------
    InputError
        The report or the mask cannot be read, the report is a corrected one itself, the mask holds other values than
        0 to 3, or `scans` are other images.
    GeometryError
        The mask lies on another grid.
    CheckFailedError
        The automatic report was changed since it was written.
    OutputError
        The folder cannot be written.
    """
    verify_report(report)
    document = read_json(report)
    if "correction" in document:
        raise InputError(f"{report} is a corrected report already; give the automatic one, without -corrected-")
    stem = report.name.removesuffix("-report.json")
    automatic_path = report.with_name(f"{stem}-seg.nii.gz")
    automatic, like = read_mask(automatic_path)
    labels = _corrected_labels(mask, like)
    volume = _same_scans(scans, document) if scans is not None else None
    corrected = _document(document, labels, like)
    corrected["language"] = language or document["language"]
    corrected["correction"] = {
        "automatic_mask": automatic_path.name,
        "automatic_sha256": sha256_file(automatic_path),
        "automatic_report_sha256": sha256_file(report),
        "automatic_ml": document["volumes_ml"],
        "given_sha256": sha256_file(mask),
        "dice": overlap(labels, automatic),
    }
    page = render(corrected, volume, labels, corrected["language"])
    return _write(report, corrected, page, labels, like)


def _corrected_labels(mask: Path, like: Image) -> npt.NDArray[np.uint8]:
    """Return a corrected mask (z, y, x) in LPS after comparing its grid with that of the automatic one."""
    _, shape, affine = read_header(mask)  # before anything is inflated
    orientation, expected = Orientation.of(affine), Orientation.of(like.affine)
    there = tuple(shape[axis] for axis in orientation.order)
    wanted = tuple(like.data.shape[axis] for axis in expected.order)
    advice = "export the corrected outline again with the scan as its reference volume"
    if there != wanted:
        raise GeometryError(
            f"{mask} has {there} voxels along right-left, front-back, bottom-top, not {wanted}: {advice}"
        )
    header_only = replace(like, data=np.broadcast_to(np.uint8(0), shape), affine=affine)
    corners = np.array([[i, j, k, 1] for i in (0, there[0]) for j in (0, there[1]) for k in (0, there[2])])
    moved = corners @ (orientation.lps_affine(header_only) - expected.lps_affine(like)).T
    shift = float(np.linalg.norm(moved, axis=1).max())
    if shift > _MAX_SHIFT_MM:
        raise GeometryError(f"{mask} lies up to {shift:.1f} mm away from the scan: {advice}")
    return read_mask(mask)[0]


def _same_scans(scans: Case, document: dict[str, Any]) -> Volume:
    given = {sequence: sha256_file(path) for sequence, path in scans.paths.items() if path.is_file()}
    if given != document["inputs"]:
        raise InputError(
            f"the images of {scans.name} are not those of the report (their hashes differ); give the very files that "
            "were outlined, or leave them out for a page without pictures"
        )
    return load_volume(scans)


def _document(document: dict[str, Any], labels: npt.NDArray[np.uint8], like: Image) -> dict[str, Any]:
    """Return the report of the corrected mask: what is measured anew, the rest as it was; the model's error is gone."""
    found = findings_of(labels, frame_of(document, like), has_t1c=document["volumes_ml"]["TC"] is not None)
    kept = {key: value for key, value in document.items() if key not in ("comparison", "timings_s", "uncertainty")}
    made = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": f"GliaLite {__version__}",
        "volume_intervals_ml": {},
    }
    return kept | found | made


def _write(report: Path, corrected: dict[str, Any], page: str, labels: npt.NDArray[np.uint8], like: Image) -> Path:
    """Write mask, JSON, CSV and page of a correction and, last, the manifest that binds them to the automatic one."""
    stem = report.name.removesuffix("-report.json")
    mask_path, made, table, page_path, manifest = (
        report.with_name(f"{stem}-corrected-{ending}")
        for ending in ("seg.nii.gz", "report.json", "report.csv", "report.html", "manifest.json")
    )
    remove(manifest)
    write_label_map(mask_path, Orientation.of(like.affine).from_lps(labels), like)
    write_json(made, corrected)
    write_bytes(table, table_of(corrected).encode())
    write_bytes(page_path, page.encode())
    bound = (report, report.with_name(f"{stem}-seg.nii.gz"), mask_path, made, table, page_path)
    content = json_bytes(
        {
            "case": corrected["case"],
            "software": corrected["software"],
            "files": {p.name: sha256_file(p) for p in bound},
        }
    )
    folder = report.parents[1]
    if (folder / LOG).exists():
        inputs, bundle = inputs_hash(corrected["inputs"]), corrected["bundle"]["sha256"]
        append(folder, Event("correct", "good", inputs, bundle, 0.0, sha256_bytes(content)))
    write_bytes(manifest, content)
    return made

"""The one use case: a case's files become a segmentation, and the segmentation becomes files."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime import __version__
from glialite_runtime.bundle import Bundle
from glialite_runtime.cases import Case
from glialite_runtime.comparison import compare
from glialite_runtime.decode import decode_above
from glialite_runtime.engine import Engine
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.files import json_bytes, remove, sha256_bytes, sha256_file, write_bytes, write_json
from glialite_runtime.findings import Frame
from glialite_runtime.intake import Quality, inspect_volume
from glialite_runtime.label_files import itk_snap_labels, slicer_colours, write_label_map
from glialite_runtime.measure import Lesion, lesions, volumes_ml
from glialite_runtime.nifti import Image
from glialite_runtime.page.figures import drawn
from glialite_runtime.page.layout import render
from glialite_runtime.page.words import words_in
from glialite_runtime.preprocess import preprocess, restore_logits, uncrop
from glialite_runtime.report import ReportOptions, document_of, table_of
from glialite_runtime.sequences import SNFH
from glialite_runtime.trust.audit_log import Event, append, inputs_hash
from glialite_runtime.uncertainty import UNCERTAIN_LOGIT, bands_of, uncertainty
from glialite_runtime.volume import Orientation, Volume, load_volume

if TYPE_CHECKING:
    from glialite_runtime.dicom.study import Study
    from glialite_runtime.space.pipeline import PreparedCase

__all__ = ["Measured", "NetworkRun", "Outputs", "Segmentation", "finished", "outputs_of", "segment", "write"]

_DEFAULT: Final = ReportOptions()


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
class Measured:
    """An outline on the scan itself, on which it is measured and written.

    Attributes
    ----------
    labels : uint8 array (z, y, x)
        BraTS-2023 label values in LPS.
    frame : Frame
        Voxels, and the brain's box.
    orientation, reference : Orientation, Image
        How the scan's file lies.
    """

    labels: npt.NDArray[np.uint8]
    frame: Frame
    orientation: Orientation
    reference: Image


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
    measured : Measured
        The same outline on the scan itself; the two differ for raw scans alone.
    volumes_ml : dict
        Region -> mL, None where the sequences do not allow it.
    lesions : tuple of Lesion
        Components of the whole tumour, largest first.
    uncertainty : dict
        See `uncertainty.uncertainty`.
    quality : Quality
        What the intake gate found.
    network : NetworkRun
        How the network ran.
    alignment : dict or None
        How raw scans were brought to the model's space, ready for JSON.
    timings_s : dict
        Stage -> seconds.
    """

    case: Case
    volume: Volume
    labels: npt.NDArray[np.uint8]
    measured: Measured
    volumes_ml: dict[str, float | None]
    lesions: tuple[Lesion, ...]
    uncertainty: dict[str, dict[str, float | bool]]
    quality: Quality
    network: NetworkRun
    alignment: dict[str, Any] | None
    timings_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the files of one case go; the manifest is written last and is the commit marker."""

    labels: Path
    slicer_colours: Path
    itk_snap_labels: Path
    report: Path
    table: Path
    page: Path
    manifest: Path

    @property
    def checked(self) -> tuple[Path, ...]:
        """The files whose hashes the manifest holds."""
        return (self.labels, self.slicer_colours, self.itk_snap_labels, self.report, self.table, self.page)


def outputs_of(case: Case, out: Path) -> Outputs:
    """Return the output paths of a case under `out`: ``<out>/<case>/<case>-…``."""
    folder = out / case.name
    return Outputs(
        labels=folder / f"{case.name}-seg.nii.gz",
        slicer_colours=folder / f"{case.name}-seg.ctbl",
        itk_snap_labels=folder / f"{case.name}-seg-itksnap.txt",
        report=folder / f"{case.name}-report.json",
        table=folder / f"{case.name}-report.csv",
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


def segment(case: Case, bundle: Bundle, engine: Engine, raw: PreparedCase | None = None) -> Segmentation:
    """Segment one case; with `raw`, what its raw scans became in the model's space, measured on the scans themselves.

    Raises
    ------
    InputError
        The case cannot be segmented; the intake gate says why.
    """
    clock = _Clock()
    volume = load_volume(case) if raw is None else raw.volume
    clock.lap("read")
    manifest = bundle.manifest
    quality = inspect_volume(volume, manifest.accepted_sequences, manifest.intensity)
    image, geometry = preprocess(volume, manifest.spacing_mm, engine.divisor)
    clock.lap("preprocess")
    ran = NetworkRun(engine.precision, engine.golden_crop, engine.kernels)
    same_grid = geometry.network_shape == tuple(b - a for a, b in zip(geometry.start, geometry.stop, strict=True))
    rule, has_t1c = manifest.decision, "t1c" in volume.sequences
    margin = UNCERTAIN_LOGIT * rule.temperature
    if same_grid:
        z, y, x = geometry.network_shape
        bands = engine.bands(image, rule.logit_thresholds, margin)[:, :z, :y, :x]
    else:
        logits = engine.logits(image)
    del image
    clock.lap("network")
    if not same_grid:
        bands = bands_of(restore_logits(logits, geometry), rule.logit_thresholds, margin)
    labels = uncrop(decode_above(bands >= 2, rule, volume.voxel_mm3, has_t1c=has_t1c), geometry)
    if raw is None:
        frame = Frame(volume.spacing_mm, volume.voxel_mm3, (geometry.start, geometry.stop))
        measured = Measured(labels, frame, volume.orientation, volume.reference)
    else:
        measured = _on_the_scan(labels, raw)
        findings = (*quality.findings, *raw.notes)
        quality = replace(quality, verdict="check", notes=tuple(n.text for n in findings), findings=findings)
    voxel_mm3 = measured.frame.voxel_mm3
    found = lesions(measured.labels, voxel_mm3, has_t1c=has_t1c, midline_x=measured.frame.midline_x)
    volumes = volumes_ml(measured.labels, voxel_mm3, has_t1c=has_t1c)
    unsure = uncertainty(bands, labels[geometry.crop], volume.voxel_mm3, has_t1c=has_t1c)
    clock.lap("postprocess")
    alignment = None if raw is None else raw.to_json()
    return Segmentation(
        case, volume, labels, measured, volumes, found, unsure, quality, ran, alignment, clock.timings_s
    )


def _on_the_scan(labels: npt.NDArray[np.uint8], raw: PreparedCase) -> Measured:
    """Return an outline, and where the brain lies, on the raw scan that the others were laid on."""
    from glialite_runtime.space.pipeline import back_to_original  # noqa: PLC0415 - raw scans alone

    own, image = back_to_original(labels, raw)
    brain = np.any([channel != 0 for channel in raw.volume.channels], axis=0)
    orientation = Orientation.of(image.affine)
    inside = np.argwhere(orientation.to_lps(back_to_original(brain.astype(np.uint8) * np.uint8(SNFH), raw)[0]))
    (z, y, x), (z_end, y_end, x_end) = ((int(n) for n in corner) for corner in (inside.min(0), inside.max(0) + 1))
    frame = Frame.of(image, ((z, y, x), (z_end, y_end, x_end)))
    return Measured(orientation.to_lps(own), frame, orientation, image)


def _fingerprint(case: Case, bundle: Bundle, options: ReportOptions) -> dict[str, Any]:
    return {
        "software": f"GliaLite {__version__}",
        "bundle": bundle.identity,
        "inputs": {sequence: sha256_file(path) for sequence, path in case.paths.items()},
        "options": options.fingerprint,
    }


def finished(case: Case, bundle: Bundle, out: Path, options: ReportOptions = _DEFAULT) -> bool:
    """Return whether the outputs of exactly these inputs, bundle and options are there and unchanged."""
    outputs = outputs_of(case, out)
    try:
        manifest = json.loads(outputs.manifest.read_bytes())
        hashes = {name: sha256_file(outputs.manifest.parent / name) for name in manifest["files"]}
        same_files = hashes == manifest["files"] and outputs.labels.name in hashes
        wanted = _fingerprint(case, bundle, options)
        return same_files and {k: manifest[k] for k in wanted} == wanted
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(segmentation: Segmentation, bundle: Bundle, out: Path, options: ReportOptions = _DEFAULT) -> Outputs:
    """Write label map with its colours, JSON, CSV, page and, last, the manifest of their hashes.

    Raises
    ------
    ConfigError
        The earlier report would be overwritten.
    InputError, CheckFailedError
        The earlier report cannot be compared with; see `comparison.compare`.
    OutputError
        The folder cannot be written; nothing half-written is left under a final name.
    """
    clock = _Clock()
    outputs = outputs_of(segmentation.case, out)
    if options.prior is not None and options.prior.absolute().parent == outputs.report.absolute().parent:
        raise ConfigError(
            f"the earlier report {options.prior} would be overwritten; choose another --out, or another --case"
        )
    fingerprint = _fingerprint(segmentation.case, bundle, options)
    document = document_of(segmentation, bundle, options)
    document |= {"software": fingerprint["software"], "inputs": fingerprint["inputs"]}
    if options.prior is not None:
        document["comparison"] = compare(document, segmentation.measured.labels, options.prior)
    page = render(document, segmentation.volume, segmentation.labels, options.language)
    clock.lap("report")
    remove(outputs.manifest)  # from here until the new one is written the outputs do not count as finished
    measured = segmentation.measured
    write_label_map(outputs.labels, measured.orientation.from_lps(measured.labels), measured.reference)
    clock.lap("write labels")
    document["timings_s"] = segmentation.timings_s | clock.timings_s
    write_bytes(outputs.slicer_colours, slicer_colours().encode())
    write_bytes(outputs.itk_snap_labels, itk_snap_labels().encode())
    write_bytes(outputs.table, table_of(document).encode())
    write_bytes(outputs.page, page.encode())
    study = segmentation.case.study
    dicom = () if study is None else _write_dicom(segmentation, study, document, outputs)
    write_json(outputs.report, document)
    files = {path.name: sha256_file(path) for path in (*outputs.checked, *dicom)}
    manifest = json_bytes({"case": segmentation.case.name, **fingerprint, "files": files})
    seconds = round(sum(document["timings_s"].values()), 3)
    inputs = inputs_hash(fingerprint["inputs"])
    event = Event("segment", segmentation.quality.verdict, inputs, bundle.identity, seconds, sha256_bytes(manifest))
    append(out, event)  # before the commit marker: no result without its entry
    write_bytes(outputs.manifest, manifest)
    return outputs


def _write_dicom(
    segmentation: Segmentation, study: Study, document: dict[str, Any], outputs: Outputs
) -> tuple[Path, ...]:
    """Write the results that go back to the archive; `document` says why where the study cannot take them."""
    from glialite_runtime.dicom.frames import source_datasets, to_frames  # noqa: PLC0415 - the extra `dicom`
    from glialite_runtime.dicom.outputs import Picture, write_dicom  # noqa: PLC0415
    from glialite_runtime.dicom.study import source_of  # noqa: PLC0415

    measured = segmentation.measured
    own, affine = measured.orientation.from_lps(measured.labels), measured.reference.affine
    try:
        series = source_of(study, own.shape, affine)
        pictures = [Picture(*picture) for picture in drawn(segmentation.volume, segmentation.labels, words_in("en"))]
        stem = outputs.labels.with_name(segmentation.case.name)
        return write_dicom(stem, source_datasets(series), to_frames(own, affine, series), document, pictures)
    except InputError as error:  # a kind of series that cannot be referred to: the other results stand
        document["dicom"] = {"not_written": str(error)}
        return ()

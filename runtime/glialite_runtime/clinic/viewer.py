"""Slices of a finished case for the page: 8-bit greys and labels, cut on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.cases import Case
from glialite_runtime.errors import CheckFailedError, InputError
from glialite_runtime.nifti import read
from glialite_runtime.picture import PLANES, largest_slices
from glialite_runtime.volume import Orientation, Volume, load_volume

__all__ = ["Scan", "cut", "describe", "load_scan"]

_PERCENTILES: Final = (1, 99.5)  # of the brain, as on the printed page
_MARGIN: Final = 4  # voxels
_EVERY: Final = 3  # voxels that the percentiles are taken from, along each axis


@dataclass(frozen=True, slots=True)
class Scan:
    """A case and its label map, ready to be cut.

    Attributes
    ----------
    volume : Volume
        The images in LPS.
    labels : uint8 array (z, y, x)
        Label map on the same grid.
    limits : dict
        Sequence -> the values that become grey 1 and grey 255.
    box : tuple of slice
        Along z, y, x: the brain with a margin, which slices are cropped to.
    """

    volume: Volume
    labels: npt.NDArray[np.uint8]
    limits: dict[str, tuple[float, float]]
    box: tuple[slice, slice, slice]


def load_scan(case: Case, labels: Path, alignment: Mapping[str, Any] | None = None) -> Scan:
    """Read a case and its label map.

    Parameters
    ----------
    case : Case
        The images.
    labels : Path
        The label map, on the grid of the images.
    alignment : mapping, optional
        Of the report of raw scans: the label map lies on the scan that is its `reference`, and the others are laid on
        it for the eye.

    Raises
    ------
    InputError
        A file cannot be read any more.
    CheckFailedError
        The label map is not on the grid of the images.
    """
    volume = load_volume(case) if alignment is None else _on_reference(case, alignment)
    stored = read(labels)
    if stored.data.shape != volume.reference.data.shape:
        raise CheckFailedError(f"{labels.name} does not lie on the images of {case.name}; segment the case again")
    turned = np.asarray(volume.orientation.to_lps(stored.data), np.uint8)
    limits = {s: _limits(channel) for s, channel in zip(volume.sequences, volume.channels, strict=True)}
    return Scan(volume, turned, limits, _box(volume))


def _on_reference(case: Case, alignment: Mapping[str, Any]) -> Volume:
    """Return raw scans on the grid of their reference, which is left as it is; the others trilinearly."""
    from glialite_runtime.space.transform import Scan as Placed  # noqa: PLC0415 - raw scans alone
    from glialite_runtime.space.transform import inverse, resample  # noqa: PLC0415

    name, to_scan = alignment["reference"], {s: np.array(m) for s, m in alignment["to_scan_mm"].items()}
    reference = read(case.paths[name])
    orientation = Orientation.of(reference.affine)
    grid = orientation.lps_affine(reference)
    channels: dict[str, npt.NDArray[Any]] = {name: orientation.to_lps(reference.data)}
    everywhere = np.ones(channels[name].shape, np.bool_)
    for sequence, path in case.paths.items():
        if sequence == name:
            continue
        image = read(path)
        own = Orientation.of(image.affine)
        placed = Placed(np.ascontiguousarray(own.to_lps(image.data)), own.lps_affine(image))
        channels[sequence], _ = resample(placed, to_scan[sequence] @ inverse(to_scan[name]), everywhere, grid)
    ordered = tuple(channels[sequence] for sequence in case.paths)
    return Volume(tuple(case.paths), ordered, orientation.spacing_mm(reference), orientation, reference)


def _limits(channel: npt.NDArray[Any]) -> tuple[float, float]:
    some = channel[::_EVERY, ::_EVERY, ::_EVERY]
    inside = some[some != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(inside, _PERCENTILES))
    return low, max(high, low + 1e-6)


def _box(volume: Volume) -> tuple[slice, slice, slice]:
    """Return where any sequence is not 0, with a margin; everything when all are 0 everywhere."""
    found = []
    for axis, size in enumerate(volume.channels[0].shape):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(np.any([channel.any(axis=others) for channel in volume.channels], axis=0))
        found.append(
            slice(max(int(hit[0]) - _MARGIN, 0), min(int(hit[-1]) + 1 + _MARGIN, size)) if hit.size else slice(0, size)
        )
    return found[0], found[1], found[2]


def describe(scan: Scan) -> dict[str, Any]:
    """Return what the page must know to ask for slices: sequences, planes with their size in mm, where to begin."""
    start = largest_slices(scan.labels, scan.volume.channels[0] != 0)
    planes = {}
    for plane in PLANES:
        rows, columns = (a for a in range(3) if a != plane.axis)
        planes[plane.name] = {
            "slices": scan.labels.shape[plane.axis],
            "start": start[plane.axis],
            "rows": scan.box[rows].stop - scan.box[rows].start,
            "columns": scan.box[columns].stop - scan.box[columns].start,
            "row_mm": scan.volume.spacing_mm[rows],
            "column_mm": scan.volume.spacing_mm[columns],
            "left": plane.edges[0],
            "right": plane.edges[1],
        }
    return {"sequences": list(scan.volume.sequences), "planes": planes}


def cut(scan: Scan, sequence: str, plane_name: str, at: int) -> bytes:
    """Return one slice, cropped: its greys, a byte a pixel, row by row with the head up, then its labels likewise.

    Grey 0 is outside of the brain. The patient's right is on the left.

    Raises
    ------
    InputError
        No such sequence, plane or slice.
    """
    plane = next((p for p in PLANES if p.name == plane_name), None)
    if plane is None or sequence not in scan.limits or not 0 <= at < scan.labels.shape[plane.axis]:
        raise InputError(f"there is no slice {at} of {sequence!r}, {plane_name!r}")
    low, high = scan.limits[sequence]
    channel = scan.volume.channels[scan.volume.sequences.index(sequence)]
    within = tuple(slice(at, at + 1) if axis == plane.axis else cropped for axis, cropped in enumerate(scan.box))
    image = channel[within].squeeze(plane.axis)
    grey = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1) * 254 + 1
    grey[image == 0] = 0
    labels = scan.labels[within].squeeze(plane.axis)
    if plane.upside_down:
        grey, labels = grey[::-1], labels[::-1]
    return grey.astype(np.uint8).tobytes() + labels.tobytes()

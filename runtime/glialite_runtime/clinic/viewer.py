"""Slices of a finished case for the page: 8-bit greys and labels, cut on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.cases import Case
from glialite_runtime.errors import CheckFailedError, InputError
from glialite_runtime.nifti import read
from glialite_runtime.picture import PLANES, largest_slices
from glialite_runtime.volume import Volume, load_volume

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


def load_scan(case: Case, labels: Path) -> Scan:
    """Read a case and its label map.

    Raises
    ------
    InputError
        A file cannot be read any more.
    CheckFailedError
        The label map is not on the grid of the images.
    """
    volume = load_volume(case)
    stored = read(labels)
    if stored.data.shape != volume.reference.data.shape:
        raise CheckFailedError(f"{labels.name} does not lie on the images of {case.name}; segment the case again")
    turned = np.asarray(volume.orientation.to_lps(stored.data), np.uint8)
    limits = {s: _limits(channel) for s, channel in zip(volume.sequences, volume.channels, strict=True)}
    return Scan(volume, turned, limits, _box(volume))


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

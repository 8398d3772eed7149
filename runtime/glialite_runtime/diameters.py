"""Largest perpendicular diameters of a region in an axial slice, as radiologists measure a tumour with two lines.

In every axial slice each 8-connected part of the region is measured from outer edge to outer edge, necrosis included:
the longest line between two points of its convex hull, and the longest line across the hull at a right angle to it.
The part with the largest product of the two stands for the region. A voxel counts as a diamond through the middles of
its edges, so that one voxel of 1 mm measures 1 mm.

Source: RANO 2.0 (Wen et al., J Clin Oncol 2023, doi:10.1200/JCO.23.01059) for the product of perpendicular diameters
and for 10 mm as the least that is measurable; AutoRANO (Chang et al., Neuro-Oncology 2019, doi:10.1093/neuonc/noz106)
for taking it from a label map. Unlike AutoRANO, lines may cross a hole or a bay: enhancing tumour is mostly a rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.decode import components

__all__ = ["MEASURABLE_MM", "Diameters", "largest_diameters"]

MEASURABLE_MM: Final = 10.0
"""Both diameters must reach it to be measurable by RANO."""


@dataclass(frozen=True, slots=True)
class Diameters:
    """Two perpendicular lines in one axial slice.

    Attributes
    ----------
    longest_mm, perpendicular_mm : float
        Their lengths, rounded to 0.1 mm.
    product_mm2 : float
        The bidimensional product, of the lengths before rounding, to 1 mm².
    slice_z : int
        Index of the slice along z of the image in LPS.
    measurable : bool
        Both reach `MEASURABLE_MM`.
    """

    longest_mm: float
    perpendicular_mm: float
    product_mm2: float
    slice_z: int
    measurable: bool


def largest_diameters(mask: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> Diameters | None:
    """Return the perpendicular diameters with the largest product of a mask (z, y, x); None when it is empty.

    Parameters
    ----------
    mask : bool array (z, y, x)
        A region in LPS.
    spacing_mm : tuple of float
        Voxel size along z, y, x; z does not matter.
    """
    bounds = _bounds_mm2(mask, spacing_mm[1:])
    best, found = 0.0, None
    for z in np.argsort(-bounds, kind="stable"):
        if bounds[z] <= best:
            break
        rows, columns = (np.flatnonzero(mask[z].any(axis=axis)) for axis in (1, 0))
        plane = mask[z, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        labelled, count = _parts(plane)
        for part in range(1, count + 1):
            inside = labelled == part
            if _bounds_mm2(inside[None], spacing_mm[1:])[0] <= best:
                continue
            hull = _hull_mm(inside, spacing_mm[1:])
            if 2 * _area_mm2(hull) <= best:
                continue
            longest, across = _perpendicular(hull)
            if longest * across > best:
                best, found = longest * across, (longest, across, int(z))
    if found is None:
        return None
    longest, across, z = found
    measurable = min(longest, across) >= MEASURABLE_MM
    return Diameters(round(longest, 1), round(across, 1), float(round(best)), int(z), measurable)


def _parts(plane: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.integer], int]:
    """Return the 8-connected parts of a plane (row, column): 26-connected ones of a volume of one slice."""
    labelled, count = components(plane[None])
    return labelled[0], count


def _bounds_mm2(mask: npt.NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return for each slice what no product in it exceeds: twice the area of its bounding box; 0 where it is empty.

    The hull of two perpendicular lines has at least half the area that their product is, and it lies in the part's.
    """
    area = np.full(mask.shape[0], 2.0)
    for axis, mm in zip((2, 1), spacing_mm, strict=True):
        hit = np.asarray(mask.any(axis=axis))
        area *= np.where(hit.any(axis=1), (hit.shape[1] - hit.argmax(axis=1) - hit[:, ::-1].argmax(axis=1)) * mm, 0)
    return area * (1 + 1e-9)  # rounding must not hide a slice


def _hull_mm(part: npt.NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return the convex hull (corner, (y, x)) in mm of one part of a plane, in order around it.

    Its rows are all filled somewhere, for it is connected, but rows above and below it may be empty.
    """
    rows = np.flatnonzero(part.any(axis=1))
    first, last = part[rows].argmax(axis=1), part.shape[1] - 1 - part[rows, ::-1].argmax(axis=1)
    sides = []
    for edge, sign in ((first, 1), (last, -1)):  # the right side is the left side of the mirror image
        middle = 2 * sign * edge
        above, below = np.append(middle, middle[-1]), np.append(middle[0], middle)
        levels = np.empty(2 * len(rows) + 1, np.int64)  # in half rows: between two rows, through a row, …
        levels[::2], levels[1::2] = np.minimum(above, below), middle - 1
        sides.append([(y, sign * x) for y, x in _left_chain(levels.tolist())])
    corners = np.array(sides[0] + sides[1][::-1], np.float64) / 2
    return corners * np.array(spacing_mm)


def _area_mm2(hull: npt.NDArray[np.float64]) -> float:
    y, x = hull.T
    return abs(float(y @ np.roll(x, -1) - x @ np.roll(y, -1))) / 2 * (1 + 1e-9)


def _left_chain(edge: list[int]) -> list[tuple[int, int]]:
    """Return the corners (row, column) of the convex hull on the left of one column a row, from top to bottom."""
    chain: list[tuple[int, int]] = []
    for y, x in enumerate(edge):
        while len(chain) > 1:
            (y0, x0), (y1, x1) = chain[-2:]
            if (x1 - x0) * (y - y0) < (x - x0) * (y1 - y0):
                break
            chain.pop()
        chain.append((y, x))
    return chain


def _perpendicular(hull: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the longest line between two corners of a hull and the longest across it at a right angle, both in mm.

    Of several longest lines, the one with the longer line across it.
    """
    difference = hull[:, None] - hull[None]
    length = np.hypot(difference[..., 0], difference[..., 1])
    longest = float(length.max())
    across = 0.0
    for i, j in np.argwhere(np.triu(length >= longest * (1 - 1e-9))):
        across = max(across, _longest_across(hull, difference[i, j] / longest))
    return longest, across


def _longest_across(hull: npt.NDArray[np.float64], direction: npt.NDArray[np.float64]) -> float:
    """Return the length of the longest chord of a hull at a right angle to a direction; it starts at a corner."""
    along = hull @ direction
    aside = hull @ np.array([-direction[1], direction[0]])
    along_next, aside_next = np.roll(along, -1), np.roll(aside, -1)
    run = along_next - along
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (along[:, None] - along[None]) / run[None]  # (corner, edge)
    part = np.where(run[None] == 0, np.where(along[:, None] == along[None], 0.0, -1.0), part)
    hit = (part >= -1e-12) & (part <= 1 + 1e-12)
    at = aside[None] + part * (aside_next - aside)[None]
    return float((np.where(hit, at, -np.inf).max(axis=1) - np.where(hit, at, np.inf).min(axis=1)).max())

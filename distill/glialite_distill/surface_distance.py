"""Distances between the surfaces of two segmentations: HD95 and the normalised surface Dice (NSD) of BraTS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "NSD_TOLERANCES_MM",
    "Overlap",
    "Surface",
    "bounding_box",
    "hd95_mm",
    "normalised_surface_dice",
    "surface_of",
]

NSD_TOLERANCES_MM: Final = (0.5, 1.0)

_CORNERS: Final = tuple(product((0, 1), repeat=3))  # of a 2×2×2 cell; the first is the highest bit of its code
_BITS: Final = tuple(128 >> n for n in range(8))
_BEYOND: Final = 1.001  # a search radius of the tolerance itself would miss what lies exactly there

Points = npt.NDArray[np.float64]
Parts = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How well two segmentations agree: Dice, HD95 in mm, NSD at 0.5 and at 1 mm."""

    dice: float
    hd95_mm: float
    nsd_half: float
    nsd_one: float


@dataclass(frozen=True, slots=True)
class Surface:
    """The surface of a segmentation, part by part.

    Attributes
    ----------
    surfels_mm : float64 array (n, 3)
        Corners where eight voxels meet of which some, not all, are inside.
    areas_mm2 : float64 array (n,)
        Area of the surface that passes there.
    surfel_parts : int array (n,)
        Part that each belongs to.
    edge_mm : float64 array (m, 3)
        Centres of the voxels inside that have one of their six neighbours outside.
    edge_parts : int array (m,)
        Part that each belongs to.
    """

    surfels_mm: Points
    areas_mm2: Points
    surfel_parts: Parts
    edge_mm: Points
    edge_parts: Parts

    def only(self, parts: Sequence[int]) -> Surface:
        """Return the surface of some of the parts."""
        surfels, edge = np.isin(self.surfel_parts, parts), np.isin(self.edge_parts, parts)
        return Surface(
            self.surfels_mm[surfels],
            self.areas_mm2[surfels],
            self.surfel_parts[surfels],
            self.edge_mm[edge],
            self.edge_parts[edge],
        )


def bounding_box(mask: npt.NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice]:
    """Return where a mask lies, with a margin that ends at the array; one voxel where the mask is empty."""
    found = []
    for axis, size in enumerate(mask.shape):
        at = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(at[0]), int(at[-1])) if at.size else (0, 0)
        found.append(slice(max(first - margin, 0), min(last + 1 + margin, size)))
    return found[0], found[1], found[2]


@cache
def _surfel_areas(spacing_mm: tuple[float, float, float]) -> Points:
    """Return the area in mm² of the surface through a cell, for each of the 256 ways in which its corners are inside.

    Marching cubes draws some cells and their complements differently; the smaller surface is taken.
    Source: Lorensen and Cline, SIGGRAPH 1987; areas of cells as weights: Nikolov et al., arXiv 1809.04430.
    """
    from skimage.measure import marching_cubes, mesh_surface_area  # noqa: PLC0415 - a second, needed once

    areas = np.zeros(256)
    for code in range(1, 255):
        cell = np.array([bool(code & bit) for bit in _BITS], np.float64).reshape(2, 2, 2)
        vertices, faces, *_ = marching_cubes(cell, 0.5, spacing=spacing_mm, method="lorensen")
        areas[code] = mesh_surface_area(vertices, faces)
    return np.minimum(areas, areas[::-1])


def surface_of(parts: Parts, spacing_mm: tuple[float, float, float], *, numbers_as_values: bool = False) -> Surface:
    """Return the surface of a map of parts; nothing lies outside the array.

    Parameters
    ----------
    parts : int array, three axes
        0 outside; voxels that touch, also by a corner, are of one part. Empty maps give empty surfaces.
    spacing_mm : tuple of float
        Voxel size along the axes.
    numbers_as_values : bool
        Count a voxel inside by its part's number instead of 1, modulo 256. Surfels then appear inside of all parts but
        the first; this is no surface, but what the whole-image HD95 of BraTS 2024 is computed from.
    """
    box = bounding_box(parts > 0)
    parts = parts[box]
    padded = np.pad(parts, 1)
    inside = (padded > 0).view(np.uint8)
    values = padded.astype(np.uint8) if numbers_as_values else inside
    cells = tuple(n - 1 for n in inside.shape)
    codes = np.zeros(cells, np.uint8)
    for corner, bit in zip(_CORNERS, _BITS, strict=True):
        codes += values[tuple(slice(c, c + n) for c, n in zip(corner, cells, strict=True))] * np.uint8(bit)
    at = np.nonzero((codes != 0) & (codes != 255))
    corners = [padded[tuple(a + c for a, c in zip(at, corner, strict=True))] for corner in _CORNERS]

    core = inside[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + core.shape[axis])
            core &= inside[tuple(window)]
    edge = np.nonzero((core == 0) & (parts > 0))
    origin, step = np.array([s.start for s in box]), np.asarray(spacing_mm, np.float64)
    return Surface(
        (np.stack(at, axis=1) + origin) * step,
        _surfel_areas(spacing_mm)[codes[at]],
        np.maximum.reduce(corners),
        (np.stack(edge, axis=1) + origin) * step,
        parts[edge],
    )


def _nearest_mm(points: Points, others: Points, limit_mm: float = np.inf) -> npt.NDArray[np.float64]:
    """Return the distance of each point to the nearest of the others; infinite beyond the limit."""
    from scipy.spatial import KDTree  # noqa: PLC0415 - half a second that `--help` need not pay

    tree: Any = KDTree(others, balanced_tree=False, compact_nodes=False)
    distances: npt.NDArray[np.float64] = tree.query(points, distance_upper_bound=limit_mm, workers=-1)[0]
    return distances


def _percentile95(distances: Points, areas: Points) -> float:
    order = np.argsort(distances, kind="stable")
    covered = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order[min(int(np.searchsorted(covered, 0.95)), len(order) - 1)]])


def hd95_mm(first: Surface, second: Surface) -> float:
    """Return the 95th percentile Hausdorff distance in mm: of each surface by area, then the larger of the two.

    0 when both surfaces are empty, infinite when one is.

    Source: Nikolov et al., arXiv 1809.04430 (the definition that BraTS uses).
    """
    if not len(first.surfels_mm) or not len(second.surfels_mm):
        return 0.0 if len(first.surfels_mm) == len(second.surfels_mm) else float("inf")
    there = _nearest_mm(first.surfels_mm, second.surfels_mm)
    back = _nearest_mm(second.surfels_mm, first.surfels_mm)
    return max(_percentile95(there, first.areas_mm2), _percentile95(back, second.areas_mm2))


def normalised_surface_dice(first: Surface, second: Surface) -> tuple[float, float]:
    """Return the NSD at the tolerances of `NSD_TOLERANCES_MM`.

    Of the edge voxels of each segmentation, the fraction that has an edge voxel of the other within the tolerance; the
    mean of the two. 1 when both are empty, 0 when one is.

    Source: the variant of BraTS 2024, which is nnU-Net v1's, not the one of Nikolov et al. that weighs by area.
    """
    if not len(first.edge_mm) or not len(second.edge_mm):
        value = float(len(first.edge_mm) == len(second.edge_mm))
        return value, value
    limit = max(NSD_TOLERANCES_MM) * _BEYOND
    there = _nearest_mm(first.edge_mm, second.edge_mm, limit)
    back = _nearest_mm(second.edge_mm, first.edge_mm, limit)
    half, whole = (float(np.mean(there <= t) + np.mean(back <= t)) / 2 for t in NSD_TOLERANCES_MM)
    return half, whole

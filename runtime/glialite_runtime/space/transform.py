"""Scans as arrays with an affine: shrink them, look values up at points in millimetres, resample them onto a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BRATS_AFFINE",
    "BRATS_SHAPE",
    "Scan",
    "brats_affine",
    "inverse",
    "moved",
    "resample",
    "sample",
    "sample_slope",
    "shrink",
    "smooth",
]

Array = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

BRATS_SHAPE: Final = (155, 240, 240)
"""Voxels (z, y, x) of a BraTS case."""

_OUTSIDE: Final = 0.5  # voxels beyond the outermost centres that still count as seen: half of a voxel


def brats_affine(spacing_mm: float = 1.0) -> Matrix:
    """Return the affine of BraTS space: index (x, y, z) in LPS to RAS+ mm, the corner where BraTS has it."""
    half = 0.5 * (spacing_mm - 1)
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -half, 239 - half, half
    return affine


BRATS_AFFINE: Final = brats_affine()


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse of a matrix in float64."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


@dataclass(frozen=True, slots=True)
class Scan:
    """An image and where it lies.

    Attributes
    ----------
    data : array (z, y, x)
        Voxels.
    affine : float64 array (4, 4)
        Index (x, y, z) to RAS+ mm.
    """

    data: npt.NDArray[Any]
    affine: Matrix

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along z, y, x."""
        x, y, z = (float(v) for v in np.sqrt((self.affine[:3, :3] ** 2).sum(0)))
        return z, y, x

    @property
    def to_index(self) -> Matrix:
        """The matrix (3, 4) from RAS+ mm to index (z, y, x)."""
        return inverse(self.affine)[2::-1]


def shrink(scan: Scan, spacing_mm: float) -> Scan:
    """Return the scan with voxels of about `spacing_mm`: means of whole blocks; an axis that is coarse enough stays.

    Voxels at the far end that do not fill a block are left out. The result is contiguous; float32 when anything shrank.
    """
    factors = [
        max(1, min(n, round(spacing_mm / have))) for n, have in zip(scan.data.shape, scan.spacing_mm, strict=True)
    ]
    data = scan.data
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        count = data.shape[axis] // factor
        kept = np.moveaxis(data, axis, 0)[: count * factor]
        total = kept[::factor].astype(np.float32)
        for offset in range(1, factor):
            total += kept[offset::factor]
        total *= np.float32(1 / factor)
        data = np.moveaxis(total, 0, axis)
    affine = scan.affine.copy()
    for column, factor in enumerate(reversed(factors)):
        affine[:3, 3] += affine[:3, column] * (factor - 1) / 2
        affine[:3, column] *= factor
    return Scan(np.ascontiguousarray(data), affine)


def smooth(data: Array, passes: tuple[int, int, int]) -> Array:
    """Return the image (z, y, x) smoothed `passes` times along each axis with the weights ¼ ½ ¼, ends repeated."""
    out = data
    for axis, count in enumerate(passes):
        for _ in range(count if data.shape[axis] > 1 else 0):
            rows = np.moveaxis(out, axis, 0)
            blurred = np.float32(0.5) * rows
            blurred[1:] += np.float32(0.25) * rows[:-1]
            blurred[:-1] += np.float32(0.25) * rows[1:]
            blurred[0] += np.float32(0.25) * rows[0]
            blurred[-1] += np.float32(0.25) * rows[-1]
            out = np.moveaxis(blurred, 0, axis)
    return np.ascontiguousarray(out)


def moved(matrix: Matrix, points: Array) -> list[Array]:
    """Return the coordinates, three arrays (n,), of points (3, n) under a matrix; sums in a fixed order, no BLAS."""
    m = matrix.astype(np.float32)
    return [m[r, 0] * points[0] + m[r, 1] * points[1] + m[r, 2] * points[2] + m[r, 3] for r in range(3)]


def _corners(scan: Scan, points: Array) -> tuple[list[npt.NDArray[np.int32]], list[Array], npt.NDArray[np.bool_]]:
    """Return the voxel below each point and the way to the next one, by axis, and whether the scan covers the point."""
    seen = np.ones(points.shape[1], np.bool_)
    lower, fraction = [], []
    for at, size in zip(moved(scan.to_index, points), scan.data.shape, strict=True):
        seen &= (at > -_OUTSIDE) & (at < size - 1 + _OUTSIDE)
        np.clip(at, 0, size - 1, out=at)
        below = np.minimum(at.astype(np.int32), max(size - 2, 0))
        lower.append(below)
        fraction.append(at - below)
    return lower, fraction, seen


def sample(scan: Scan, points: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Look a scan up at points, trilinearly.

    Parameters
    ----------
    scan : Scan
        Its data must be contiguous.
    points : float32 array (3, n)
        RAS+ mm.

    Returns
    -------
    float32 array (n,)
        Values; edge values beyond the edge.
    bool array (n,)
        Whether the scan covers the point.
    """
    lower, fraction, seen = _corners(scan, points)
    return _trilinear(scan.data, lower, fraction)[0], seen


def sample_slope(scan: Scan, points: Array) -> tuple[Array, npt.NDArray[np.bool_], Array]:
    """Do as `sample`, and return as well the derivative of the value by the point, (3, n), per mm."""
    lower, fraction, seen = _corners(scan, points)
    values, by_index = _trilinear(scan.data, lower, fraction)
    m = scan.to_index.astype(np.float32)
    return (
        values,
        seen,
        np.stack([m[0, c] * by_index[0] + m[1, c] * by_index[1] + m[2, c] * by_index[2] for c in range(3)]),
    )


def _trilinear(
    data: npt.NDArray[Any], lower: list[npt.NDArray[np.int32]], fraction: list[Array]
) -> tuple[Array, list[Array]]:
    """Return values (n,) and their derivatives by index (z, y, x)."""
    nz, ny, nx = data.shape
    flat, start = data.reshape(-1), (lower[0] * ny + lower[1]) * nx + lower[2]
    sz, sy, sx = (ny * nx if nz > 1 else 0), (nx if ny > 1 else 0), (1 if nx > 1 else 0)
    fz, fy, fx = fraction
    rows, steps = [], []
    for offset in (0, sy, sz, sz + sy):
        first = flat.take(start + offset).astype(np.float32, copy=False)
        step = flat.take(start + offset + sx).astype(np.float32, copy=False) - first
        rows.append(first + fx * step)
        steps.append(step)
    dy = rows[1] - rows[0], rows[3] - rows[2]
    planes = rows[0] + fy * dy[0], rows[2] + fy * dy[1]
    dx = steps[0] + fy * (steps[1] - steps[0]), steps[2] + fy * (steps[3] - steps[2])
    dz = planes[1] - planes[0]
    return planes[0] + fz * dz, [dz, dy[0] + fz * (dy[1] - dy[0]), dx[0] + fz * (dx[1] - dx[0])]


def resample(
    scan: Scan, to_scan: Matrix, where: npt.NDArray[np.bool_], affine: Matrix
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Bring a scan onto a grid, trilinearly, plane by plane; only where it is wanted.

    Parameters
    ----------
    scan : Scan
        What to resample; contiguous.
    to_scan : float64 array (4, 4)
        From mm of the grid to mm of the scan.
    where : bool array (z, y, x)
        Voxels of the grid to compute; the others become 0.
    affine : float64 array (4, 4)
        Of the grid: index (x, y, z) to mm.

    Returns
    -------
    float32 array (z, y, x)
        Values; 0 where the scan does not reach.
    bool array (z, y, x)
        Which wanted voxels the scan covers.
    """
    out, covered = np.zeros(where.shape, np.float32), np.zeros(where.shape, np.bool_)
    matrix = to_scan @ affine
    for z, wanted in enumerate(where):
        at = np.flatnonzero(wanted)
        if not at.size:
            continue
        y, x = np.divmod(at.astype(np.int32), where.shape[2])
        index = np.stack((x, y, np.full_like(x, z))).astype(np.float32)
        values, seen = sample(scan, np.stack(moved(matrix, index)))
        out[z].reshape(-1)[at] = np.where(seen, values, 0)
        covered[z].reshape(-1)[at] = seen
    return out, covered

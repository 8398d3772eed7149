"""Grids in millimetres, seeded streams and smooth random fields: the ground that the phantoms stand on.

Everything random lives on lattices fixed in millimetres, so the same patient comes out at every voxel size (1 to 2 mm).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["FIELD_OF_VIEW_MM", "Grid", "band_field", "linear_matrix", "separable", "sigmoid", "smooth_field", "stream"]

Array = npt.NDArray[np.float32]

FIELD_OF_VIEW_MM: Final = (155.0, 240.0, 240.0)
"""Extent of a BraTS case, (z, y, x)."""

_SPLINE_SD: Final = float(np.sqrt(151.0 / 315.0) ** 3)
"""SD of a cubic B-spline field with unit-normal coefficients, averaged over positions."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Centres of voxels along the three axes, in mm of the BraTS frame (voxel (0, 0, 0) of the 1 mm case is at 0)."""

    z: Array
    y: Array
    x: Array

    @classmethod
    def whole(cls, spacing_mm: float) -> Grid:
        """Return the grid of a whole case: 155×240×240 voxels of 1 mm, 78×120×120 of 2 mm."""
        counts = (int(-(-extent // spacing_mm)) for extent in FIELD_OF_VIEW_MM)
        z, y, x = (((np.arange(n) + 0.5) * spacing_mm - 0.5).astype(np.float32) for n in counts)
        return cls(z, y, x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels, (z, y, x)."""
        return self.z.size, self.y.size, self.x.size

    @property
    def axes(self) -> tuple[Array, Array, Array]:
        """Coordinates of the three axes, mm."""
        return self.z, self.y, self.x

    @property
    def spacing_mm(self) -> float:
        """Edge of a voxel, mm."""
        return float(self.x[1] - self.x[0])

    def crop(self, box: tuple[slice, slice, slice]) -> Grid:
        """Return the part of the grid that lies in `box` (voxel indices)."""
        return Grid(self.z[box[0]], self.y[box[1]], self.x[box[2]])


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of one purpose; drawing more for one purpose never shifts another's."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))))


def sigmoid(level: Array) -> Array:
    """Return 1 / (1 + exp(−level)) without overflow, float32."""
    out = np.multiply(level, np.float32(0.5), dtype=np.float32)
    np.tanh(out, out=out)
    out += np.float32(1.0)
    out *= np.float32(0.5)
    return out


def separable(volume: Array, matrices: tuple[Array, Array, Array]) -> Array:
    """Apply one matrix along each axis: out[k, j, i] = Σ Z[k, c] Y[j, b] X[i, a] volume[c, b, a]."""
    mz, my, mx = matrices
    out = np.matmul(my, np.matmul(volume, mx.T))
    return np.ascontiguousarray((mz @ out.reshape(out.shape[0], -1)).reshape(mz.shape[0], *out.shape[1:]))


def linear_matrix(target_mm: Array, source_mm: Array) -> Array:
    """Return the matrix that interpolates linearly from `source_mm` (evenly spaced) to `target_mm`; ends are held."""
    step = float(source_mm[1] - source_mm[0])
    position = np.clip((target_mm - source_mm[0]) / step, 0, source_mm.size - 1)
    below = np.minimum(position.astype(np.int64), source_mm.size - 2)
    weight = (position - below).astype(np.float32)
    out = np.zeros((target_mm.size, source_mm.size), np.float32)
    rows = np.arange(target_mm.size)
    out[rows, below] = 1 - weight
    out[rows, below + 1] = weight
    return out


def _spline_matrix(coordinates_mm: Array, scale_mm: float, knots: int) -> Array:
    position = coordinates_mm / scale_mm + 1.5
    base = np.floor(position).astype(np.int64)
    u = (position - base).astype(np.float64)
    weights = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    out = np.zeros((coordinates_mm.size, knots), np.float32)
    rows = np.arange(coordinates_mm.size)
    for offset, weight in enumerate(weights):
        out[rows, np.clip(base - 1 + offset, 0, knots - 1)] += (weight / 6).astype(np.float32)
    return out


def smooth_field(rng: np.random.Generator, grid: Grid, scale_mm: float) -> Array:
    """Return a smooth random field with mean 0 and SD 1: a cubic B-spline whose knots lie `scale_mm` apart.

    The knots cover the whole field of view and are drawn before the grid is looked at, so a crop or another voxel
    size shows the same field.

    Returns
    -------
    array (z, y, x) float32
    """
    knots = [int(np.ceil(extent / scale_mm)) + 4 for extent in FIELD_OF_VIEW_MM]
    coefficients = rng.standard_normal(knots, np.float32) / np.float32(_SPLINE_SD)
    mz, my, mx = (_spline_matrix(axis, scale_mm, n) for axis, n in zip(grid.axes, knots, strict=True))
    return separable(coefficients, (mz, my, mx))


def band_field(rng: np.random.Generator, grid: Grid, scales_mm: tuple[float, ...], falloff: float = 0.6) -> Array:
    """Return a sum of smooth fields, each next scale weighted by `falloff`, mean 0 and SD 1."""
    weights = np.array([falloff**k for k in range(len(scales_mm))], np.float32)
    weights /= np.sqrt((weights**2).sum())
    out = np.zeros(grid.shape, np.float32)
    for weight, scale in zip(weights, scales_mm, strict=True):
        out += weight * smooth_field(rng, grid, scale)
    return out

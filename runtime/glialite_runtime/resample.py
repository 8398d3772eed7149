"""Change the voxel size of an image with one small matrix an axis: no SciPy, no temporary of twice the size.

A separable interpolation is a matrix along each axis, applied as a matrix product. Libraries add up such products in an
order of their own, which differs between processors and numbers of threads. So image and matrices are rounded to whole
numbers first, small enough for every sum to stay below 2^53: float64 then adds without rounding, in whatever order, and
the result has the same bits everywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["resize", "shape_at"]

_IMAGE_BITS: Final = 26  # of the largest voxel; a cubic spline overshoots by less than 2 bits over two axes
_MATRIX_BITS: Final = 22  # behind the point; 26 + 2 + 22 + 1 for the sum along the last axis is 51
_PADDING: Final = 12  # voxels repeated beyond each end before the spline is fitted, as SciPy does for mode="nearest"


def shape_at(
    shape: tuple[int, int, int], spacing_mm: tuple[float, ...], wanted_mm: tuple[float, ...]
) -> tuple[int, int, int]:
    """Return the shape (z, y, x) of an image when its voxels become `wanted_mm`; nnU-Net's rounding.

    Spacings within 1 % count as equal, so that a header's rounding never costs an interpolation.
    """
    z, y, x = (
        n if abs(have / want - 1) < 0.01 else max(1, round(n * have / want))
        for n, have, want in zip(shape, spacing_mm, wanted_mm, strict=True)
    )
    return z, y, x


@lru_cache(maxsize=32)
def _matrix(size_in: int, size_out: int, order: int) -> npt.NDArray[np.float64]:
    """Return the interpolation matrix (size_out, size_in) in whole multiples of 2^-22, times 2^22.

    Voxel centres are aligned, ends repeated. Every step is arithmetic value by value, so alike on every processor.
    """
    at = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    matrix = np.zeros((size_out, size_in))
    base = np.floor(at).astype(int)
    t = at - base
    if order == 1:
        for offset, weight in enumerate((1 - t, t)):
            np.add.at(matrix, (np.arange(size_out), np.clip(base + offset, 0, size_in - 1)), weight)
    else:
        coefficients = _spline_coefficients(size_in)
        s = 1 - t
        cubic = (s * s * s, (3 * t - 6) * t * t + 4, (3 * s - 6) * s * s + 4, t * t * t)
        for offset, weight in enumerate(cubic, start=_PADDING - 1):
            matrix += weight[:, None] / 6 * coefficients[base + offset]
    return np.rint(np.ldexp(matrix, _MATRIX_BITS))


def _spline_coefficients(size: int) -> npt.NDArray[np.float64]:
    """Return the cubic B-spline coefficients (size + 2 · padding, size) of each unit vector, its ends repeated.

    Solves (c[i-1] + 4 c[i] + c[i+1]) / 6 = value[i], mirrored at the ends, by elimination along the diagonals.
    """
    n = size + 2 * _PADDING
    values = np.zeros((n, size))
    values[np.arange(n), np.clip(np.arange(n) - _PADDING, 0, size - 1)] = 6
    upper = 0.5
    factors = [upper]
    values[0] /= 4
    for i in range(1, n):
        lower = 2 if i == n - 1 else 1
        pivot = 4 - lower * upper
        values[i] = (values[i] - lower * values[i - 1]) / pivot
        upper = 1 / pivot
        factors.append(upper)
    for i in range(n - 2, -1, -1):
        values[i] -= factors[i] * values[i + 1]
    return values


def _along(matrix: npt.NDArray[np.float64], whole: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    """Apply a matrix of `_matrix` along an axis (0 or 1) of a 2-D array of whole numbers; whole numbers come back."""
    product = matrix @ whole if axis == 0 else whole @ matrix.T
    np.multiply(product, 2.0**-_MATRIX_BITS, out=product)
    return np.rint(product, out=product)


def resize(image: npt.NDArray[np.float32], shape: tuple[int, int, int], order: int) -> npt.NDArray[np.float32]:
    """Return `image` interpolated onto another number of voxels over the same field of view.

    Parameters
    ----------
    image : float32 array (z, y, x)
        Voxels.
    shape : tuple of int
        Voxels wanted along z, y, x.
    order : int
        1 (linear) or 3 (cubic B-spline, limited to the image's own range).

    Returns
    -------
    float32 array of `shape`
        The input itself when the shape is already right.

    Notes
    -----
    Equals ``skimage.transform.resize(order=order, mode="edge", anti_aliasing=False)``, which nnU-Net resamples with,
    to float32 rounding (held by a test).
    """
    if order not in (1, 3):
        raise ValueError(f"order {order}: only 1 (linear) and 3 (cubic) are implemented")
    if image.shape == shape:
        return image
    low, high = float(image.min(initial=0)), float(image.max(initial=0))
    exponent = _IMAGE_BITS - math.frexp(max(-low, high))[1]
    z, y, x = (_matrix(have, want, order) for have, want in zip(image.shape, shape, strict=True))
    # In 32-bit whole numbers between the passes, in float64 one plane at a time: no array of twice the size.
    between = np.empty((image.shape[0], *shape[1:]), np.int32)
    for plane, target in zip(image, between, strict=True):
        whole = np.rint(np.ldexp(plane.astype(np.float64), exponent))
        target[...] = _along(y, _along(x, whole, 1), 0)
    out = np.empty(shape, np.float32)
    for row in range(shape[1]):
        out[:, row] = np.ldexp(_along(z, between[:, row].astype(np.float64), 0), -exponent)
    if order == 3:
        np.clip(out, image.min(), image.max(), out=out)
    return out

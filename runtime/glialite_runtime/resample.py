"""Change the voxel size of an image with one small matrix an axis: no SciPy, no temporary of twice the size.

A separable interpolation is a matrix along each axis; the prefilter of a cubic spline is the inverse of another one.
Both are a few hundred rows, so they are made exactly and applied with three matrix products.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["resize", "shape_at"]

_PADDING = 12  # voxels repeated beyond each end before the spline is fitted, as SciPy does for mode="nearest"


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
def _matrix(size_in: int, size_out: int, order: int) -> npt.NDArray[np.float32]:
    """Return the interpolation matrix (size_out, size_in), voxel centres aligned, ends repeated."""
    at = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    if order == 1:
        low = np.floor(at).astype(int)
        weights = {0: 1 - (at - low), 1: at - low}
        matrix = np.zeros((size_out, size_in))
        for offset, weight in weights.items():
            np.add.at(matrix, (np.arange(size_out), np.clip(low + offset, 0, size_in - 1)), weight)
        return matrix.astype(np.float32)
    padded = size_in + 2 * _PADDING
    repeat = np.zeros((padded, size_in))
    repeat[np.arange(padded), np.clip(np.arange(padded) - _PADDING, 0, size_in - 1)] = 1
    knots = np.diag(np.full(padded, 4.0)) + np.diag(np.ones(padded - 1), 1) + np.diag(np.ones(padded - 1), -1)
    knots[0, 1] = knots[-1, -2] = 2  # mirrored ends
    coefficients = np.linalg.solve(knots / 6, repeat)
    base = np.floor(at + _PADDING).astype(int)
    t = at + _PADDING - base
    cubic = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    sample = np.zeros((size_out, padded))
    for offset, weight in enumerate(cubic, start=-1):
        sample[np.arange(size_out), base + offset] += weight
    matrix = sample @ coefficients
    matrix[np.abs(matrix) < 1e-9] = 0  # far taps fade into denormal numbers, which cost ten times the arithmetic
    return matrix.astype(np.float32)


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
    out = np.asarray(image, np.float32)
    z, y, x = (_matrix(have, want, order) for have, want in zip(image.shape, shape, strict=True))
    out = out @ x.T
    out = np.matmul(y, out)
    out = (z @ out.reshape(out.shape[0], -1)).reshape(shape)
    if order == 3 and image.size:
        np.clip(out, image.min(), image.max(), out=out)
    return out

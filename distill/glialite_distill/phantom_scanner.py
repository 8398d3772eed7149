"""What scanner, skull stripping and resampling do to a perfect sequence: coil, slices, blur, noise, scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from glialite_distill.phantom_fields import Grid, linear_matrix, separable, sigmoid, smooth_field, stream
from glialite_distill.phantom_worlds import NOISE, ScannerRanges

__all__ = ["Scanner", "acquire", "draw_scanner"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scanner:
    """How one sequence of one patient was scanned.

    Attributes
    ----------
    noise, blur_mm, coil, bias : float
        See `ScannerRanges`.
    slice_mm : float
        Slice thickness; at or below 1 the sequence is isotropic.
    slice_axis : int
        0 axial, 1 coronal, 2 sagittal slices.
    saturation : float
        Share of the 99.5th percentile above which values are compressed; 0 is off.
    gamma : float
        Exponent of the grey values; 1 leaves them.
    overshoot : float
        See `ScannerRanges`.
    off : array (3, 4) float64, or None
        Where each voxel (z, y, x) of the sequence comes from, mm about the middle of the head: a rotation and a shift.
    gain : float
        Grey value of white matter in the file.
    coil_side : tuple of 3 floats
        Direction (z, y, x) from which the coil looks: the side-asymmetry of its sensitivity.
    """

    noise: float
    blur_mm: float
    coil: float
    bias: float
    slice_mm: float
    slice_axis: int
    saturation: float
    gamma: float
    overshoot: float
    off: tuple[tuple[float, ...], ...] | None
    gain: float
    coil_side: tuple[float, float, float]


def draw_scanner(seed: int, sequence: str, ranges: ScannerRanges) -> Scanner:
    """Draw how one sequence of one patient was scanned."""
    rng = stream(seed, f"scanner {sequence}")
    thick = rng.uniform() < ranges.thick
    slice_mm = float(rng.uniform(*ranges.slice_mm)) if thick else 1.0
    slice_axis = int(rng.choice(3, p=(0.9, 0.04, 0.06)))
    if slice_axis:
        slice_mm = min(slice_mm, 3.5)
    side = rng.normal(0, (0.3, 0.6, 0.8))
    return Scanner(
        noise=NOISE[sequence] * float(np.exp(rng.uniform(*np.log(ranges.noise)))),
        blur_mm=float(rng.uniform(*ranges.blur_mm)),
        coil=float(rng.uniform(*ranges.coil)),
        bias=float(rng.uniform(*ranges.bias)),
        slice_mm=slice_mm,
        slice_axis=slice_axis,
        saturation=float(rng.uniform(0.55, 0.95)) if rng.uniform() < ranges.saturation else 0.0,
        gamma=float(np.exp(stream(seed, f"gamma {sequence}").uniform(*np.log(ranges.gamma)))),
        overshoot=float(stream(seed, f"overshoot {sequence}").uniform(*ranges.overshoot)),
        off=_draw_offset(seed, sequence, ranges),
        gain=float(np.exp(rng.uniform(np.log(150), np.log(1500)))),
        coil_side=(float(side[0]), float(side[1]), float(side[2])),
    )


def _draw_offset(seed: int, sequence: str, ranges: ScannerRanges) -> tuple[tuple[float, ...], ...] | None:
    """Draw how far a sequence is off the others; T1c, to which they are registered, is where it should be."""
    if sequence == "t1c" or not (ranges.shift_mm or ranges.turn_deg):
        return None
    rng = stream(seed, f"offset {sequence}")
    a, b, c = np.deg2rad(rng.normal(0, ranges.turn_deg, 3))
    matrix = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])  # small angles
    shift = rng.normal(0, ranges.shift_mm, 3)
    return tuple(tuple(float(v) for v in (*row, d)) for row, d in zip(matrix, shift, strict=True))


def acquire(
    image: Array, inside: npt.NDArray[np.bool_], depth_mm: Array, scanner: Scanner, grid: Grid, seed: int
) -> npt.NDArray[np.int16]:
    """Scan one noiseless sequence.

    Parameters
    ----------
    image : array (z, y, x) float32
        White matter at about 1.
    inside : bool array (z, y, x)
        The brain mask; outside it the result is exactly 0, inside it at least 1.
    depth_mm : array (z, y, x) float32
        Depth under the brain's surface.
    scanner : Scanner
        How it is scanned.
    grid : Grid
        Where the voxels lie.
    seed : int
        Seed of gain field and noise.
    """
    rng = stream(seed, "acquire")
    seen = image if scanner.off is None else _moved(image, np.array(scanner.off), grid)
    seen = seen * _sensitivity(rng, scanner, depth_mm, grid)
    down, up = _sampling(scanner, grid)
    seen = separable(seen, down)
    for_noise = rng.standard_normal((2, *seen.shape), np.float32)
    for_noise *= np.float32(scanner.noise)
    seen += for_noise[0]
    seen = np.hypot(seen, for_noise[1])
    seen = separable(seen, up)
    if scanner.overshoot > 0:
        seen = _resampled(seen, inside, scanner.overshoot, grid)
    if scanner.saturation:
        knee = np.float32(scanner.saturation * np.percentile(seen[inside][::7], 99.5))
        above = np.maximum(seen - knee, 0)
        seen -= above - np.float32(0.25) * knee * np.tanh(above / (np.float32(0.5) * knee))
    if scanner.gamma != 1:
        np.power(np.maximum(seen, 0), np.float32(scanner.gamma), out=seen)
    seen *= np.float32(scanner.gain)
    np.clip(np.rint(seen, out=seen), 1, 32000, out=seen)
    return np.where(inside, seen, 0).astype(np.int16)


def _sensitivity(rng: np.random.Generator, scanner: Scanner, depth_mm: Array, grid: Grid) -> Array:
    """Return the gain field: rising towards the surface, more on one side, and a slow drift."""
    centres = ((74.0, 70.0), (122.0, 90.0), (119.5, 70.0))
    tilt = np.zeros(grid.shape, np.float32)
    for axis, (centre, radius) in enumerate(centres):
        shape = [1, 1, 1]
        shape[axis] = -1
        tilt += np.float32(scanner.coil_side[axis]) * ((grid.axes[axis] - centre) / radius).reshape(shape)
    near = np.exp(-np.maximum(depth_mm, 0) / np.float32(rng.uniform(10, 20)))
    logarithm = np.float32(scanner.coil) * near * (np.float32(0.6) + np.float32(0.8) * sigmoid(2 * tilt))
    logarithm += np.float32(0.12 * scanner.coil) * tilt
    logarithm += np.float32(scanner.bias) * smooth_field(rng, grid, 75.0)
    return np.exp(logarithm)


def _moved(image: Array, off: npt.NDArray[np.float64], grid: Grid) -> Array:
    """Return a sequence turned and shifted by a little, linearly interpolated, edges held."""
    first = np.array([axis[0] for axis in grid.axes])
    about = np.array([axis.mean() for axis in grid.axes])
    matrix, shift = off[:, :3], off[:, 3]
    start = (about + matrix @ (first - about) + shift - first) / grid.spacing_mm
    moved: Array = ndimage.affine_transform(image, matrix, start, order=1, mode="nearest")
    return moved


def _resampled(image: Array, inside: npt.NDArray[np.bool_], overshoot: float, grid: Grid) -> Array:
    """Return a sequence as splines leave it: its stripped border mixed with the background, its edges overshot."""
    first, second, third = (_gaussian(axis, 0.8 * grid.spacing_mm) for axis in grid.axes)
    near = (first, second, third)
    seen = image * separable(inside.astype(np.float32), near)
    seen += np.float32(overshoot) * (seen - separable(seen, near))
    return seen


def _sampling(scanner: Scanner, grid: Grid) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Return the matrices to the scanner's own samples and back to the grid, one an axis each way."""
    down, up = [], []
    for axis, coordinates in enumerate(grid.axes):
        step = grid.spacing_mm
        if axis == scanner.slice_axis and scanner.slice_mm > step:
            own = np.arange(coordinates[0], coordinates[-1] + scanner.slice_mm, scanner.slice_mm, dtype=np.float32)
            down.append(_profile(own, coordinates, 0.5 * scanner.slice_mm))
            up.append(linear_matrix(coordinates, own))
        else:
            down.append(_gaussian(coordinates, scanner.blur_mm))
            up.append(_gaussian(coordinates, 0.45 * step))  # resampling to the atlas smooths the noise
    return (down[0], down[1], down[2]), (up[0], up[1], up[2])


def _gaussian(coordinates: Array, sd_mm: float) -> Array:
    distance = coordinates[:, None] - coordinates
    weights = np.exp(-0.5 * (distance / max(sd_mm, 0.05)) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _profile(own: Array, coordinates: Array, half_mm: float) -> Array:
    """Return a slice profile with soft flanks: rows are slices."""
    step = float(coordinates[1] - coordinates[0])
    distance = np.abs(own[:, None] - coordinates)
    weights = 1 / (1 + np.exp(np.clip((distance - half_mm) / (0.25 * step), -30, 30)))
    return (weights / np.maximum(weights.sum(1, keepdims=True), 1e-6)).astype(np.float32)

"""Find how one scan must be moved to lie on another: normalised mutual information, coarse to fine, several starts.

A pose is twelve numbers in millimetres: three of a turn, three of a shift, six of a symmetric stretch. The first six
alone are a rigid motion, so the rigid part of a registration with all twelve is read off, not estimated again.

The sums are not left to BLAS, and the logarithm is a series of our own: both differ from processor to processor. Poses
are rounded after each level. That the result is the same everywhere is the aim, not yet proved.

Source: Studholme et al., An overlap invariant entropy measure of 3D medical image alignment, Pattern Recognition 32,
1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.space.transform import Scan, moved, sample, sample_slope

__all__ = [
    "RIGID",
    "Level",
    "Points",
    "Result",
    "binned",
    "climb",
    "draw_points",
    "matrix_of",
    "register",
    "similarity",
]

Array = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Pose = npt.NDArray[np.float64]

RIGID: Final = 6
"""Leading numbers of a pose that are a rigid motion."""

_ARM_MM: Final = 70.0  # a turn of 1 mm moves a point this far from the middle by 1 mm
_BINS: Final = 32
_STIFFNESS: Final = 0.3  # what a stretch costs: NMI per squared share
_GRAIN_MM: Final = 2.0**-10  # poses are rounded to it after each level


@dataclass(frozen=True, slots=True)
class Points:
    """Where two scans are compared.

    Attributes
    ----------
    at : float32 array (3, n)
        RAS+ mm of the fixed scan.
    bins : int32 array (n,)
        Grey value of the fixed scan there, 0 to 31.
    middle : float64 array (3,)
        Point that turns and stretches leave in place.
    """

    at: Array
    bins: npt.NDArray[np.int32]
    middle: Matrix


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a registration.

    Attributes
    ----------
    points : Points
        Of the fixed scan.
    moving : Scan
        The moving scan, shrunk, its grey values between 0 and 31.
    numbers : int
        How many of the pose's numbers move: 6 or 12.
    rounds : int
        Most steps.
    """

    points: Points
    moving: Scan
    numbers: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Result:
    """A pose and how well the scans agree in it.

    Attributes
    ----------
    pose : float64 array (12,)
        See the module.
    nmi : float
        Normalised mutual information, 1 (nothing in common) to 2.
    overlap : float
        Share of the points that the moving scan covers.
    """

    pose: Pose
    nmi: float
    overlap: float


def matrix_of(pose: Pose, middle: Matrix, target: Matrix) -> Matrix:
    """Return the matrix (4, 4) of a pose: stretch about `middle`, turn about it, bring it to `target`, shift."""
    a, b, c = pose[:3] / (2 * _ARM_MM)
    turn = np.array(
        [
            [1 + a * a - b * b - c * c, 2 * (a * b - c), 2 * (a * c + b)],
            [2 * (a * b + c), 1 - a * a + b * b - c * c, 2 * (b * c - a)],
            [2 * (a * c - b), 2 * (b * c + a), 1 - a * a - b * b + c * c],
        ]
    ) / (1 + a * a + b * b + c * c)
    xx, yy, zz, xy, xz, yz = pose[6:] / _ARM_MM
    stretch = np.array([[1 + xx, xy, xz], [xy, 1 + yy, yz], [xz, yz, 1 + zz]])
    linear = (turn[:, :, None] * stretch[None]).sum(1)
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = target + pose[3:6] - (linear * middle).sum(1)
    return out


def grey_bins(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Return (darkest, per bin): the grey values that become bin 0 and one bin; outliers fall into the outer bins."""
    ordered = np.sort(values, axis=None)
    low, high = float(ordered[int(0.005 * (len(ordered) - 1))]), float(ordered[int(0.995 * (len(ordered) - 1))])
    return low, max(high - low, 1e-6) / (_BINS - 1)


def binned(scan: Scan, *, tissue: bool = False) -> Scan:
    """Return the scan with grey values from 0 to 31; fractions stay.

    With `tissue` everything brighter than 1.8 times the median of what is bright counts alike, so that fat and vessels
    leave the brain enough bins.
    """
    low, step = grey_bins(scan.data[scan.data != 0] if np.any(scan.data) else scan.data)
    if tissue:
        bright = scan.data[scan.data > low + 8 * step]
        step = min(step, max(1.8 * float(np.median(bright)) - low, step) / (_BINS - 1)) if bright.size else step
    return Scan(np.clip((scan.data - np.float32(low)) / np.float32(step), 0, _BINS - 1).astype(np.float32), scan.affine)


def draw_points(scan: Scan, where: npt.NDArray[np.bool_], count: int, middle: Matrix, seed: int) -> Points:
    """Draw places of a scan at random, off its voxel centres, which would draw the optimum to whole voxels.

    Parameters
    ----------
    scan : Scan
        The fixed scan, grey values 0 to 31.
    where : bool array (z, y, x)
        Voxels of it that count; at least one.
    count : int
        Number of points; every chosen voxel gives at most one.
    middle : float64 array (3,)
        See `Points`.
    seed : int
        Equal seeds draw equal points.
    """
    rng = np.random.default_rng(seed)
    inside = np.flatnonzero(where)
    chosen = rng.permutation(inside)[:count]
    z, y, x = np.unravel_index(chosen, where.shape)
    index = np.stack((x, y, z)) + rng.uniform(-0.5, 0.5, (3, chosen.size))
    points = np.stack(moved(scan.affine, index.astype(np.float32)))
    values = np.rint(sample(scan, points)[0])
    return Points(points, values.astype(np.int32), middle)


def _log(values: Matrix) -> Matrix:
    """Return the natural logarithm, with additions and multiplications only; 0 gives 0."""
    mantissa, exponent = np.frexp(np.where(values > 0, values, 1.0))
    low = mantissa < 0.7071067811865476
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    ratio = (mantissa - 1) / (mantissa + 1)
    square, series = ratio * ratio, np.zeros_like(ratio)
    for power in range(17, 0, -2):
        series = series * square + 1.0 / power
    return exponent * 0.6931471805599453 + 2 * ratio * series


def _score(joint: Matrix) -> tuple[float, Matrix]:
    """Return NMI of a joint histogram that sums to 1, and its derivative by each cell."""
    log_joint, log_fixed, log_moving = _log(joint), _log(joint.sum(1)), _log(joint.sum(0))
    both = -float((joint * log_joint).sum())
    alone = -float((joint.sum(1) * log_fixed).sum()) - float((joint.sum(0) * log_moving).sum())
    if both < 1e-9:
        return 1.0, np.zeros_like(joint)
    nmi = alone / both
    slope = (nmi * (log_joint + 1) - (log_fixed[:, None] + 1) - (log_moving[None] + 1)) / both
    return nmi, np.where(joint > 0, slope, 0.0)


def similarity(points: Points, moving: Scan, matrix: Matrix) -> tuple[float, float, Matrix]:
    """Compare two scans at given places.

    Parameters
    ----------
    points : Points
        Places and grey values of the fixed scan.
    moving : Scan
        Grey values 0 to 31.
    matrix : float64 array (4, 4)
        From mm of the fixed scan to mm of the moving one.

    Returns
    -------
    float
        NMI over the points that the moving scan covers; 1 when it covers fewer than 50.
    float
        Share of the points that it covers.
    float64 array (3, 4)
        Derivative of NMI by the matrix.
    """
    values, seen, slope = sample_slope(moving, np.stack(moved(matrix, points.at)))
    overlap = float(np.count_nonzero(seen)) / max(seen.size, 1)
    if np.count_nonzero(seen) < 50:
        return 1.0, overlap, np.zeros((3, 4))
    if overlap < 1:
        values, slope, at, bins = values[seen], slope[:, seen], points.at[:, seen], points.bins[seen]
    else:
        at, bins = points.at, points.bins
    below = np.minimum(values.astype(np.int32), _BINS - 2)
    upper = (values - below).astype(np.float64)
    cell = bins * _BINS + below
    joint = np.bincount(cell, 1 - upper, _BINS * _BINS) + np.bincount(cell + 1, upper, _BINS * _BINS)
    nmi, by_cell = _score((joint / values.size).reshape(_BINS, _BINS))
    flat = by_cell.reshape(-1)
    weight = (flat[cell + 1] - flat[cell]) / values.size
    gradient = np.empty((3, 4))
    for row in range(3):
        pull = weight * slope[row]
        gradient[row] = [*((pull * at[c]).sum() for c in range(3)), pull.sum()]
    return nmi, overlap, gradient


def _gradient_by_pose(by_matrix: Matrix, pose: Pose, middle: Matrix, target: Matrix, numbers: int) -> Pose:
    out = np.zeros(numbers)
    for i in range(numbers):
        step = np.zeros(12)
        step[i] = 1e-3
        change = matrix_of(pose + step, middle, target)[:3] - matrix_of(pose - step, middle, target)[:3]
        out[i] = (by_matrix * change).sum() / 2e-3
    return out


def climb(level: Level, start: Pose, target: Matrix, first_step_mm: float) -> Result:
    """Improve a pose at one resolution: quasi-Newton (BFGS) steps that never make it worse.

    Parameters
    ----------
    level : Level
        What is compared.
    start : float64 array (12,)
        Where to begin.
    target : float64 array (3,)
        Where the fixed scan's middle comes to lie under the pose 0, mm of the moving scan.
    first_step_mm : float
        Length of the first step tried, and the longest of all.
    """
    n, middle = level.numbers, level.points.middle

    def look(pose: Pose) -> tuple[float, float, Pose]:
        nmi, overlap, by_matrix = similarity(level.points, level.moving, matrix_of(pose, middle, target))
        slope = _gradient_by_pose(by_matrix, pose, middle, target, n)
        stretch = pose[RIGID:n] / _ARM_MM
        slope[RIGID:] -= 2 * _STIFFNESS / _ARM_MM * stretch
        return nmi - _STIFFNESS * float((stretch * stretch).sum()), overlap, slope

    pose = start.copy()
    nmi, overlap, slope = look(pose)
    inverse = np.eye(n) * (first_step_mm / max(float(np.sqrt((slope * slope).sum())), 1e-12))
    for _ in range(level.rounds):
        step = (inverse * slope).sum(1)
        length = float(np.sqrt((step * step).sum()))
        if (step * slope).sum() <= 0 or length < 0.002:
            break
        step *= min(1.0, first_step_mm / length)
        for _ in range(5):
            tried = pose.copy()
            tried[:n] += step
            new_nmi, new_overlap, new_slope = look(tried)
            if new_nmi > nmi:
                break
            step = step * 0.3
        else:
            break
        change = slope - new_slope
        curvature = float((change * step).sum())
        if curvature > 1e-12:
            turned = (inverse * change).sum(1)
            inverse = (
                inverse
                + (curvature + (change * turned).sum()) / curvature**2 * step[:, None] * step
                - (turned[:, None] * step + step[:, None] * turned) / curvature
            )
        pose, nmi, overlap, slope = tried, new_nmi, new_overlap, new_slope
    return Result(np.rint(pose / _GRAIN_MM) * _GRAIN_MM, nmi, overlap)


def register(levels: Sequence[Level], starts: Sequence[Pose], target: Matrix, keep: int = 3) -> list[Result]:
    """Register from several starts, coarse to fine; the best `keep` of the first level go on to the second.

    Parameters
    ----------
    levels : sequence of Level
        Coarse to fine.
    starts : sequence of float64 arrays (12,)
        Poses to begin with.
    target : float64 array (3,)
        See `climb`.
    keep : int
        How many results of the first level go on.

    Returns
    -------
    list of Result
        At the last level, best first. From the third level on only the best one goes on.
    """
    found = [climb(levels[0], start, target, 8.0) for start in starts]
    for depth, level in enumerate(levels[1:], start=1):
        found.sort(key=lambda result: -result.nmi)
        found = [climb(level, result.pose, target, 3.0) for result in found[: keep if depth == 1 else 1]]
    return sorted(found, key=lambda result: -result.nmi)

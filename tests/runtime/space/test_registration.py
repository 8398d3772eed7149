"""Normalised mutual information and its climb."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_runtime.space import registration
from glialite_runtime.space.registration import (
    Level,
    Points,
    binned,
    climb,
    draw_points,
    matrix_of,
    register,
    similarity,
)
from glialite_runtime.space.transform import Scan, smooth

AFFINE = np.array([[-4.0, 0, 0, 62], [0, -4.0, 0, 62], [0, 0, 4.0, -62], [0, 0, 0, 1]])
ORIGIN = np.zeros(3)


def blobs(seed: int = 0) -> Scan:
    """Return a smooth random image of 128 mm, grey values 0 to 31."""
    noise = np.random.default_rng(seed).standard_normal((32, 32, 32)).astype(np.float32)
    return binned(Scan(smooth(noise, (6, 6, 6)) + 1, AFFINE))


def places(scan: Scan, count: int = 4000) -> Points:
    return draw_points(scan, np.ones(scan.data.shape, np.bool_), count, ORIGIN, seed=0)


def test_the_logarithm_is_the_logarithm() -> None:
    """Our series agrees with the library to 1e-12 over the probabilities that occur; log 0 counts as 0."""
    values = np.array([0.0, 1e-7, 1e-3, 0.3, 0.5, 0.70710678, 0.999, 1.0, 2.0])
    wanted = [0.0, *(math.log(v) for v in values[1:])]
    np.testing.assert_allclose(registration._log(values), wanted, atol=1e-12)


def test_an_image_agrees_most_with_itself_where_it_lies() -> None:
    """NMI falls when the image is moved, and is near 1 against another image."""
    scan = blobs()
    shifted = np.eye(4)
    shifted[0, 3] = 6
    here, overlap, _ = similarity(places(scan), scan, np.eye(4))
    assert overlap == 1
    assert here > similarity(places(scan), scan, shifted)[0] + 0.1
    assert similarity(places(scan), blobs(1), np.eye(4))[0] < 1.05


def test_the_gradient_is_the_slope() -> None:
    """The derivative by a shift is what two nearby values of NMI say, where no point enters or leaves."""
    scan = blobs()
    inner = np.zeros(scan.data.shape, np.bool_)
    inner[6:-6, 6:-6, 6:-6] = True
    points = draw_points(scan, inner, 6000, ORIGIN, seed=0)
    at, step = np.eye(4), np.zeros((4, 4))
    at[:3, 3], step[1, 3] = (3, 2, -2), 0.02
    slope = similarity(points, scan, at)[2][1, 3]
    measured = (similarity(points, scan, at + step)[0] - similarity(points, scan, at - step)[0]) / 0.04
    assert slope == pytest.approx(measured, rel=0.1)


def test_a_pose_without_stretch_is_rigid() -> None:
    """The first six numbers turn and shift: distances stay, and the middle goes to the target plus the shift."""
    middle, target = np.array([1.0, 2, 3]), np.array([10.0, 0, 0])
    matrix = matrix_of(np.array([5.0, -8, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0]), middle, target)
    np.testing.assert_allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, :3] @ middle + matrix[:3, 3], np.add(target, (1, 2, 3)), atol=1e-12)


def test_a_motion_is_found_back_from_several_starts() -> None:
    """A turn of 5° and a shift of 7 mm come back within 0.2 mm; contrast inverted, which NMI must not mind."""
    scan = blobs()
    inverted = Scan(np.ascontiguousarray(31 - scan.data), AFFINE)
    true = np.zeros(12)
    true[:6] = 6, -3, 2, 5, -4, 3
    turned = Points(places(scan, 8000).at, places(scan, 8000).bins, ORIGIN)
    moved = Scan(inverted.data, matrix_of(true, ORIGIN, ORIGIN) @ AFFINE)
    starts = [np.zeros(12), np.r_[9.0, np.zeros(11)]]
    found = register([Level(turned, moved, 6, 40), Level(turned, moved, 6, 40)], starts, ORIGIN)[0]
    np.testing.assert_allclose(found.pose[:6], true[:6], atol=0.2)


def test_climbing_never_makes_it_worse_and_is_repeatable() -> None:
    """The result is at least as similar as the start, and the same to the last bit the second time."""
    scan = blobs()
    level, start = Level(places(scan), scan, 12, 5), np.r_[np.zeros(3), 8.0, np.zeros(8)]
    first = climb(level, start, ORIGIN, 4.0)
    assert first.nmi >= similarity(level.points, scan, matrix_of(start, ORIGIN, ORIGIN))[0]
    assert climb(level, start, ORIGIN, 4.0).pose.tobytes() == first.pose.tobytes()


def test_without_overlap_there_is_no_similarity() -> None:
    """Scans that do not meet score 1, slope 0: the climb stops at once instead of dividing by nothing."""
    scan = blobs()
    far = np.eye(4)
    far[0, 3] = 1000
    nmi, overlap, slope = similarity(places(scan), scan, far)
    assert (nmi, overlap) == (1.0, 0.0)
    assert not slope.any()


def test_a_constant_image_gives_no_similarity() -> None:
    """One grey value everywhere: NMI is finite and the climb returns its start."""
    flat = binned(Scan(np.full((32, 32, 32), 7, np.float32), AFFINE))
    result = climb(Level(places(blobs()), flat, 6, 10), np.zeros(12), ORIGIN, 4.0)
    assert np.isfinite(result.nmi)
    assert not result.pose.any()

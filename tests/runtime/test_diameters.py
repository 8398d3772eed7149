"""Perpendicular diameters: against brute force, and by hand."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
from glialite_runtime.decode import components
from glialite_runtime.diameters import largest_diameters


def slow_diameters(plane: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[float, float]:
    """Return the diameters with the largest product of a plane: every pair of points, then 1 500 parallel lines."""
    labelled, count = components(plane[None])
    best = (0.0, 0.0)
    for part in range(1, count + 1):
        voxels = np.argwhere(labelled[0] == part)
        diamond = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
        points = (voxels[:, None] + diamond).reshape(-1, 2) * spacing
        pairs = points[:, None] - points[None]
        length = np.hypot(*pairs.transpose(2, 0, 1))
        across = 0.0
        for i, j in np.argwhere(length >= length.max() - 1e-9):
            if i < j:
                across = max(across, widest(points, pairs[i, j] / length.max()))
        best = max(best, (float(length.max()), across), key=lambda found: found[0] * found[1])
    return best


def widest(points: npt.NDArray[np.float64], direction: npt.NDArray[np.float64]) -> float:
    """Return the longest of many chords of the points' hull at a right angle to `direction`, from all pairs."""
    along, aside = points @ direction, points @ np.array([-direction[1], direction[0]])
    low, high = along.min(), along.max()
    at = np.linspace(low, high, 1501)
    upper, lower = (envelope(along, sign * aside, at) for sign in (1, -1))
    return float((upper + lower).max())


def envelope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], at: npt.NDArray[np.float64]) -> np.ndarray:
    """Return the upper edge of the hull of points at many places: the lowest of the lines that lie above all points."""
    slopes = np.tan(np.linspace(-np.pi / 2 + 1e-4, np.pi / 2 - 1e-4, 1501))
    heights = (y[None] - slopes[:, None] * x[None]).max(axis=1)
    return (slopes[:, None] * at[None] + heights[:, None]).min(axis=0)


@pytest.mark.parametrize("seed", range(6))
def test_blobs_measure_what_brute_force_measures(seed: int) -> None:
    """Ragged blobs of several parts with voxels that are not square."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((24, 20))
    plane = np.zeros((24, 20), bool)
    for _ in range(3):
        centre, radii, turn = rng.uniform(4, 16, 2), rng.uniform(1, 6, 2), rng.uniform(0, np.pi)
        u = (y - centre[0]) * np.cos(turn) + (x - centre[1]) * np.sin(turn)
        v = (x - centre[1]) * np.cos(turn) - (y - centre[0]) * np.sin(turn)
        plane |= (u / radii[0]) ** 2 + (v / radii[1]) ** 2 < 1
    plane &= rng.random(plane.shape) < 0.9
    spacing = (float(rng.uniform(0.5, 2)), float(rng.uniform(0.5, 2)))
    found = largest_diameters(plane[None], (5.0, *spacing))
    assert found is not None
    longest, across = slow_diameters(plane, spacing)
    assert found.longest_mm == pytest.approx(longest, abs=0.051)
    assert found.perpendicular_mm == pytest.approx(across, abs=0.08)
    assert found.product_mm2 == pytest.approx(longest * across, rel=5e-3, abs=0.6)


def test_an_ellipse_measures_its_axes() -> None:
    """Half axes of 30 and 12 mm, turned by 30°: 60 and 24 mm within a voxel."""
    y, x = np.indices((120, 120)) - 60.0
    turn = np.pi / 6
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    found = largest_diameters(((u / 30) ** 2 + (v / 12) ** 2 < 1)[None], (1.0, 1.0, 1.0))
    assert found is not None
    assert (found.longest_mm, found.perpendicular_mm) == pytest.approx((60, 24), abs=1)
    assert found.measurable


def test_discs_measure_hardly_more_than_they_are() -> None:
    """200 discs of 8 to 50 mm on 1 mm voxels: 0.8 mm too long along and 0.4 mm across, on average."""
    rng = np.random.default_rng(0)
    excess = []
    for _ in range(200):
        radius, centre = rng.uniform(4, 25), rng.uniform(29, 31, 2)
        y, x = np.indices((60, 60))
        found = largest_diameters(((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)[None], (1.0, 1.0, 1.0))
        assert found is not None
        excess.append((found.longest_mm - 2 * radius, found.perpendicular_mm - 2 * radius))
    np.testing.assert_allclose(np.mean(excess, axis=0), (0.8, 0.37), atol=0.02)
    np.testing.assert_allclose(np.std(excess, axis=0), (0.1, 0.36), atol=0.02)


def test_the_slice_with_the_largest_product_counts() -> None:
    """Not the one with the longest line: 30 × 3 mm loses to 12 × 12 mm; z is its index."""
    mask = np.zeros((3, 40, 40), bool)
    mask[0, 5:8, 3:33] = True
    mask[2, 5:17, 3:15] = True
    found = largest_diameters(mask, (1.0, 1.0, 1.0))
    assert found is not None
    assert found.slice_z == 2


def test_parts_of_one_slice_are_measured_apart() -> None:
    """Two small areas at opposite ends are not one large one."""
    mask = np.zeros((1, 60, 60), bool)
    mask[0, 2:6, 2:6] = mask[0, 50:54, 50:54] = True
    found = largest_diameters(mask, (1.0, 1.0, 1.0))
    assert found is not None
    assert found.longest_mm < 6
    assert not found.measurable


def test_a_rim_is_measured_across_its_hole() -> None:
    """From outer edge to outer edge, as enhancing tumour is."""
    y, x = np.indices((50, 50)) - 25.0
    radius = np.hypot(y, x)
    disc, ring = radius < 20, (radius < 20) & (radius > 17)
    assert largest_diameters(ring[None], (1.0, 1.0, 1.0)) == largest_diameters(disc[None], (1.0, 1.0, 1.0))


def test_one_voxel_and_none() -> None:
    """A voxel of 1 × 1 mm measures 1 × 1 mm; an empty mask measures nothing."""
    mask = np.zeros((2, 3, 3), bool)
    assert largest_diameters(mask, (1.0, 1.0, 1.0)) is None
    mask[1, 1, 1] = True
    found = largest_diameters(mask, (1.0, 1.0, 1.0))
    assert found is not None
    assert (found.longest_mm, found.perpendicular_mm, found.product_mm2) == (1, 1, 1)


def test_a_large_tumour_takes_little_time() -> None:
    """A ball of 80 mm in 80 slices: tens of milliseconds, and a fraction of a second on a busy core."""
    z, y, x = np.indices((90, 90, 90)) - 45.0
    mask = z**2 + y**2 + x**2 < 40**2
    started = time.process_time()
    largest_diameters(mask, (1.0, 1.0, 1.0))
    assert time.process_time() - started < 0.3

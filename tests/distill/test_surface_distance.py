"""HD95 and NSD against hand-derived values, a dense distance transform, and MONAI's table of surface areas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_distill.surface_distance import (
    Surface,
    bounding_box,
    hd95_mm,
    normalised_surface_dice,
    surface_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MM = (1.0, 1.0, 1.0)


def cube(start: tuple[int, int, int], size: int = 1, shape: tuple[int, int, int] = (12, 12, 12)) -> np.ndarray:
    """Return a map with one cube in it."""
    parts = np.zeros(shape, np.uint8)
    parts[tuple(slice(s, s + size) for s in start)] = 1
    return parts


def line(*values: int) -> Surface:
    """Return the surface of a line of voxels."""
    return surface_of(np.array(values, np.uint8).reshape(-1, 1, 1), MM)


def test_two_voxels_three_apart() -> None:
    """Corners of the one are 2 or 3 mm from the other's; the 95th percentile is 3."""
    first, second = surface_of(cube((2, 5, 5)), MM), surface_of(cube((5, 5, 5)), MM)
    assert hd95_mm(first, second) == 3.0


def test_a_voxels_surface_is_eight_cut_corners() -> None:
    """Each of its eight corners carries a triangle between the middles of three cell edges: √3 / 8 mm²."""
    surface = surface_of(cube((0, 0, 0)), MM)
    assert surface.surfels_mm.shape == (8, 3)
    np.testing.assert_allclose(surface.areas_mm2, math.sqrt(3) / 8, rtol=1e-6)


def test_distances_are_in_millimetres() -> None:
    """Three voxels along an axis of 2 mm are 6 mm."""
    spacing = (2.0, 1.0, 1.0)
    assert hd95_mm(surface_of(cube((2, 5, 5)), spacing), surface_of(cube((5, 5, 5)), spacing)) == 6.0


def test_few_far_surfels_do_not_decide() -> None:
    """A stray voxel far from a large cube is under 5 % of its surface: HD95 stays 0."""
    big = cube((1, 1, 1), 9, (30, 12, 12))
    stray = big.copy()
    stray[28, 5, 5] = 2
    assert hd95_mm(surface_of(big, MM), surface_of(stray, MM)) == 0.0


def test_nsd_by_hand() -> None:
    """Lines of four voxels, shifted by one: three of four coincide, and all have a neighbour within 1 mm."""
    assert normalised_surface_dice(line(1, 1, 1, 1, 0), line(0, 1, 1, 1, 1)) == (0.75, 1.0)


def test_nsd_is_a_mean_of_fractions() -> None:
    """One voxel inside four: 1/4 of the one side and all of the other, (0.25 + 1) / 2; pooled it would be 2/5."""
    assert normalised_surface_dice(line(1, 1, 1, 1), line(1, 0, 0, 0)) == (0.625, 0.75)


def test_empty_surfaces() -> None:
    """Both empty agree; one empty is as wrong as can be."""
    empty, full = line(0, 0), line(1, 0)
    assert hd95_mm(empty, empty) == 0.0
    assert hd95_mm(empty, full) == hd95_mm(full, empty) == math.inf
    assert normalised_surface_dice(empty, empty) == (1.0, 1.0)
    assert normalised_surface_dice(empty, full) == normalised_surface_dice(full, empty) == (0.0, 0.0)


def test_a_part_can_be_taken_out() -> None:
    """The surface of part 2 alone is that of a map which holds nothing else, where it lies."""
    parts = cube((1, 1, 1), 3)
    alone = np.zeros_like(parts)
    parts[8, 8, 8], alone[8, 8, 8] = 2, 1
    found, expected = surface_of(parts, MM).only([2]), surface_of(alone, MM)
    np.testing.assert_array_equal(found.surfels_mm, expected.surfels_mm)
    np.testing.assert_array_equal(found.edge_mm, [[8, 8, 8]])


@pytest.mark.parametrize("spacing", [MM, (1.0, 2.0, 3.0)])
def test_surface_areas_are_those_of_the_surface_distance_library(spacing: tuple[float, float, float]) -> None:
    """All 256 cells agree with MONAI's port of DeepMind's table."""
    from glialite_distill.surface_distance import _surfel_areas
    from monai.metrics.utils import create_table_neighbour_code_to_surface_area

    table, _ = create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(_surfel_areas(spacing), table.numpy(), rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_dense_distance_transform_gives_the_same(seed: int) -> None:
    """On random blobs, also at the array's edge: same NSD from eroded masks and their distance maps, symmetric HD95."""
    from scipy.ndimage import binary_erosion, distance_transform_edt

    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 7, 6, 5)) > rng.uniform(0.3, 0.9)
    first[0, 0, 0] = second[6, 5, 4] = True
    edges = [mask & ~binary_erosion(mask) for mask in (first, second)]
    there, back = distance_transform_edt(~edges[1])[edges[0]], distance_transform_edt(~edges[0])[edges[1]]
    expected = [(np.mean(there <= t) + np.mean(back <= t)) / 2 for t in (0.5, 1.0)]
    a, b = surface_of(first.astype(np.uint8), MM), surface_of(second.astype(np.uint8), MM)
    assert normalised_surface_dice(a, b) == pytest.approx(expected)
    assert hd95_mm(a, b) == hd95_mm(b, a)


def test_bounding_box_stays_inside_the_array() -> None:
    """A margin ends at the array; an empty mask is one voxel."""
    assert bounding_box(cube((1, 5, 10), 2) > 0, 3) == (slice(0, 6), slice(2, 10), slice(7, 12))
    assert bounding_box(np.zeros((3, 3, 3), bool)) == (slice(0, 1),) * 3

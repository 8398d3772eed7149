"""Shrinking, looking up and resampling, against arithmetic done by hand."""

from __future__ import annotations

import numpy as np
from glialite_runtime.space.transform import Scan, resample, sample, sample_slope, shrink, smooth

AFFINE = np.array([[-2.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 2.0, 30], [0, 0, 0, 1]])


def ramp() -> Scan:
    """Return an image whose value is 100 z + 10 y + x of the index."""
    z, y, x = np.indices((4, 5, 6))
    return Scan((100 * z + 10 * y + x).astype(np.float32), AFFINE)


def test_a_linear_image_is_looked_up_exactly() -> None:
    """Trilinear interpolation of a linear function is that function; the point is (x, y, z) in RAS+ mm."""
    point = AFFINE[:3, :3] @ np.array([1.5, 2.25, 0.5]) + AFFINE[:3, 3]
    values, seen, slope = sample_slope(ramp(), point[:, None].astype(np.float32))
    np.testing.assert_allclose(values, [50 + 22.5 + 1.5], rtol=1e-6)
    assert seen.all()
    np.testing.assert_allclose(slope[:, 0], [-0.5, -5, 50], rtol=1e-5)


def test_points_beyond_half_a_voxel_are_not_seen() -> None:
    """The scan covers its voxels to their outer edges and no further."""
    inside = AFFINE[:3, :3] @ np.array([-0.4, 0, 0]) + AFFINE[:3, 3]
    outside = AFFINE[:3, :3] @ np.array([-0.6, 0, 0]) + AFFINE[:3, 3]
    _, seen = sample(ramp(), np.stack((inside, outside), 1).astype(np.float32))
    assert seen.tolist() == [True, False]


def test_shrinking_keeps_every_place_in_mm() -> None:
    """Means of blocks lie in the middle of their blocks: a linear image stays the same function of mm."""
    small = shrink(ramp(), 4.0)
    assert small.data.shape == (2, 2, 3)
    assert small.spacing_mm == (4, 4, 4)
    centre = (small.affine @ np.array([1, 1, 0, 1.0]))[:3]
    values, _ = sample(ramp(), centre[:, None].astype(np.float32))
    np.testing.assert_allclose(values, [small.data[0, 1, 1]])


def test_a_coarse_axis_is_not_shrunk_and_one_slice_survives() -> None:
    """Thick slices stay; an axis of one voxel stays."""
    thick = Scan(np.ones((1, 8, 8), np.int16), np.diag([1.0, 1, 6, 1]))
    assert shrink(thick, 4.0).data.shape == (1, 2, 2)
    values, seen = sample(thick, np.zeros((3, 1), np.float32))
    assert (values[0], bool(seen[0])) == (1, True)


def test_smoothing_keeps_the_sum_and_spreads_a_point() -> None:
    """A point becomes ¼ ½ ¼ along the axis smoothed."""
    image = np.zeros((1, 1, 5), np.float32)
    image[0, 0, 2] = 1
    np.testing.assert_allclose(smooth(image, (1, 1, 1))[0, 0], [0, 0.25, 0.5, 0.25, 0])


def test_resampling_onto_the_own_grid_changes_nothing_where_wanted() -> None:
    """The identity gives the voxels back; what is not wanted is 0."""
    scan = ramp()
    where = np.zeros(scan.data.shape, np.bool_)
    where[1:3] = True
    values, covered = resample(scan, np.eye(4), where, AFFINE)
    np.testing.assert_allclose(values[where], scan.data[where], rtol=1e-6)
    assert not values[~where].any()
    assert (covered == where).all()

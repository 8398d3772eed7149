"""Distances against scipy's and against values counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from glialite_distill.distance_maps import distance_to, signed_distance, unsigned_distance
from scipy.ndimage import distance_transform_edt

LINE = torch.tensor([False, False, True, True, True, False])[None, None, None, None]


def test_distances_are_scipys() -> None:
    """Random masks of three densities in a box of three different edges: equal to the exact transform."""
    masks = torch.rand((2, 2, 7, 12, 9), generator=torch.Generator().manual_seed(0)) < torch.tensor(
        [0.01, 0.4]
    ).reshape(1, 2, 1, 1, 1)
    for mask, found in zip(masks.flatten(0, 1), distance_to(masks).flatten(0, 1), strict=True):
        np.testing.assert_allclose(found.numpy(), distance_transform_edt(~mask.numpy()), atol=1e-5)


def test_distances_of_a_slice() -> None:
    """Two-dimensional batches are measured in their plane: a corner is √2 away."""
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    mask[0, 0, 1, 1] = True
    assert distance_to(mask)[0, 0, 0].tolist() == pytest.approx([2**0.5, 1, 2**0.5])


def test_signed_distance_by_hand() -> None:
    """The object's own outermost voxels are 0, its middle −1, the voxels beside it 1."""
    assert signed_distance(LINE).flatten().tolist() == [2, 1, 0, -1, 0, 1]


def test_unsigned_distance_by_hand() -> None:
    """The nearest voxel of the other kind is 1 or 2 away."""
    assert unsigned_distance(LINE).flatten().tolist() == [2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("value", [True, False])
def test_without_a_boundary_there_is_no_distance(value: bool) -> None:
    """A channel that is all one kind is 0 everywhere, whatever its neighbours in the batch are."""
    mask = torch.stack((LINE[0], torch.full_like(LINE[0], value)))
    for distance in (signed_distance(mask), unsigned_distance(mask)):
        assert distance[1].abs().max() == 0
        assert distance[0].abs().max() == 2

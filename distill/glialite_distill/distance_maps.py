"""Exact Euclidean distances in voxels, on the device of the mask, for losses that ask how far off an error is."""

from __future__ import annotations

from typing import Final

import torch

__all__ = ["distance_to", "signed_distance", "unsigned_distance"]

_NOWHERE: Final = 1e6  # beyond any squared distance in a volume; sums with it stay exact integers in float32


def distance_to(mask: torch.Tensor) -> torch.Tensor:
    """Return the distance of every voxel to the nearest true voxel.

    The squared distance is separable: along one axis after the other, the smallest sum of what is known so far and the
    square of the step. That is a few hundred element-wise operations, so a GPU need not wait for a processor.

    Parameters
    ----------
    mask : bool tensor (n, c, z, y, x) or (n, c, y, x)

    Returns
    -------
    float32 tensor of that shape
        Voxels; 0 inside the mask, meaningless (1 000 and more) where a sample's channel has no true voxel.

    Notes
    -----
    Source: Felzenszwalb and Huttenlocher, Theory of Computing 8 (2012), section 2 (separability); here by exhaustion.
    """
    return torch.stack([_squared_distance_to(one) for one in mask.flatten(0, 1)]).sqrt().reshape(mask.shape)


def _squared_distance_to(mask: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of one mask, (z, y, x) or (y, x): one at a time, it stays in a fast cache."""
    squared = torch.where(mask, 0.0, _NOWHERE)
    for axis in range(mask.ndim):
        lines = squared.movedim(axis, -1).contiguous()
        places = torch.arange(lines.shape[-1], device=mask.device, dtype=lines.dtype)
        nearest = torch.full_like(lines, 2 * _NOWHERE)
        for place in range(lines.shape[-1]):
            torch.minimum(nearest, lines[..., place, None] + (places - place) ** 2, out=nearest)
        squared = nearest.movedim(-1, axis)
    return squared


def signed_distance(mask: torch.Tensor) -> torch.Tensor:
    """Return Kervadec's level-set map: 0 on the outermost voxels inside, negative deeper in, from 1 up outside.

    A channel without a boundary (all false or all true) is 0 everywhere. Shapes as in `distance_to`.

    Notes
    -----
    Source: Kervadec et al., arXiv:1812.07032.
    """
    return _without_boundary_zero(mask, torch.where(mask, 1 - distance_to(~mask), distance_to(mask)))


def unsigned_distance(mask: torch.Tensor) -> torch.Tensor:
    """Return the distance to the nearest voxel of the other kind, ≥ 1; 0 where a channel has no boundary.

    Shapes as in `distance_to`.

    Notes
    -----
    Source: Karimi and Salcudean, arXiv:1904.10030.
    """
    return _without_boundary_zero(mask, distance_to(mask) + distance_to(~mask))  # one of them is 0


def _without_boundary_zero(mask: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    axes = tuple(range(2, mask.ndim))
    has_boundary = mask.any(axes, keepdim=True) & (~mask).any(axes, keepdim=True)
    return torch.where(has_boundary, distance, 0.0)

"""A case in memory: its sequences in one orientation, and how to get back to the input's own axes."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime import nifti
from glialite_runtime.cases import Case
from glialite_runtime.errors import GeometryError

__all__ = ["Orientation", "Volume", "load_volume"]

_LPS_SIGNS: Final = (-1, -1, 1)
_MAX_SHIFT_MM: Final = 0.1
_MAX_CASE_VOXELS: Final = nifti.MAX_VOXELS
"""Of all sequences together: four of 256 × 256 × 256."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored axes (i, j, k) and the axes (z, y, x) of an image in LPS turn into each other.

    Attributes
    ----------
    order : tuple of int
        Stored axis that runs right-left, anterior-posterior, inferior-superior.
    flipped : tuple of bool
        Whether that axis runs against L, P, S.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, affine: npt.NDArray[np.float64]) -> Orientation:
        """Return the orientation of an affine (4, 4) to RAS+ mm; oblique axes count as the nearest cardinal ones."""
        from nibabel.orientations import io_orientation  # noqa: PLC0415

        found = io_orientation(affine)
        order = [int(np.flatnonzero(found[:, 0] == axis)[0]) for axis in range(3)]
        flipped = [bool(found[stored, 1] != sign) for stored, sign in zip(order, _LPS_SIGNS, strict=True)]
        return cls((order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))

    def to_lps(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view (z, y, x) in LPS of stored data (i, j, k)."""
        turned = data.transpose(self.order)
        return turned[tuple(slice(None, None, -1 if f else 1) for f in self.flipped)].transpose(2, 1, 0)

    def from_lps(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view (i, j, k) in stored axes of data (z, y, x) in LPS; undoes `to_lps`."""
        turned = data.transpose(2, 1, 0)[tuple(slice(None, None, -1 if f else 1) for f in self.flipped)]
        return turned.transpose(tuple(int(a) for a in np.argsort(self.order)))

    def lps_affine(self, image: nifti.Image) -> npt.NDArray[np.float64]:
        """Return the affine (4, 4) from index (x, y, z) of the image in LPS to RAS+ mm."""
        to_stored = np.zeros((4, 4))
        to_stored[3, 3] = 1
        for axis, (stored, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            to_stored[stored, axis] = -1 if flip else 1
            to_stored[stored, 3] = image.data.shape[stored] - 1 if flip else 0
        return np.asarray(image.affine @ to_stored, np.float64)

    def spacing_mm(self, image: nifti.Image) -> tuple[float, float, float]:
        """Return the voxel size along z, y, x of the image in LPS."""
        x, y, z = (float(v) for v in np.linalg.norm(self.lps_affine(image)[:3, :3], axis=0))
        return z, y, x


@dataclass(frozen=True, slots=True)
class Volume:
    """The sequences of a case on one grid.

    Attributes
    ----------
    sequences : tuple of str
        What the channels are, in the order of `SEQUENCES`; only what is there.
    channels : tuple of arrays (z, y, x)
        Views in LPS of the stored voxels, in their stored type.
    spacing_mm : tuple of float
        Voxel size along z, y, x.
    orientation : Orientation
        Of the reference image.
    reference : Image
        The first sequence: the label map gets its geometry.
    """

    sequences: tuple[str, ...]
    channels: tuple[npt.NDArray[Any], ...]
    spacing_mm: tuple[float, float, float]
    orientation: Orientation
    reference: nifti.Image

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³."""
        return self.reference.voxel_mm3


def load_volume(case: Case) -> Volume:
    """Read the sequences of a case, two files at a time, and check that they lie on one grid.

    Raises
    ------
    InputError
        A file cannot be read (see `nifti.read`).
    GeometryError
        The sequences together are too large (said before any is inflated), shapes differ, or the same voxel lies at
        places more than 0.1 mm apart.
    """
    names = tuple(case.paths)
    voxels = sum(math.prod(nifti.read_header(path)[1]) for path in case.paths.values())
    if voxels > _MAX_CASE_VOXELS:
        raise GeometryError(
            f"the sequences of {case.name} have {voxels:,} voxels together; the most that is accepted is "
            f"{_MAX_CASE_VOXELS:,}; resample them to voxels of 1 mm first"
        )
    with ThreadPoolExecutor(2) as pool:
        images = list(pool.map(nifti.read, case.paths.values()))
    orientations = [Orientation.of(image.affine) for image in images]
    channels = tuple(o.to_lps(image.data) for o, image in zip(orientations, images, strict=True))
    reference, affine = images[0], orientations[0].lps_affine(images[0])
    for image, orientation, channel in zip(images[1:], orientations[1:], channels[1:], strict=True):
        if channel.shape != channels[0].shape:
            raise GeometryError(
                f"{image.path} has the shape {image.data.shape}, {reference.path.name} has {reference.data.shape}; "
                "all sequences must be registered to one grid (--raw does it)"
            )
        shift = _largest_shift_mm(affine, orientation.lps_affine(image), channel.shape)
        if shift > _MAX_SHIFT_MM:
            raise GeometryError(
                f"{image.path} lies up to {shift:.1f} mm away from {reference.path.name} (affines differ); "
                "all sequences must be registered to one grid (--raw does it)"
            )
    return Volume(names, channels, orientations[0].spacing_mm(reference), orientations[0], reference)


def _largest_shift_mm(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], shape_zyx: tuple[int, ...]
) -> float:
    z, y, x = (n - 1 for n in shape_zyx)
    corners = np.array([[i, j, k, 1] for i in (0, x) for j in (0, y) for k in (0, z)], np.float64)
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())

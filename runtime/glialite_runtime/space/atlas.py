"""The atlas that raw scans are laid on: one small T1 image of a brain in BraTS space, and registration to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime import nifti
from glialite_runtime.errors import GeometryError, IntensityError
from glialite_runtime.space.registration import (
    RIGID,
    Level,
    Points,
    Result,
    binned,
    climb,
    draw_points,
    matrix_of,
    register,
)
from glialite_runtime.space.transform import Scan, inverse, resample, shrink, smooth
from glialite_runtime.volume import Orientation

__all__ = ["Atlas", "AtlasFit", "fit_atlas", "read_atlas", "shipped_atlas"]

Matrix = npt.NDArray[np.float64]

_SPACING_MM: Final = 2.0
_BRAIN_ML: Final = (900.0, 2200.0)
_TOP_TO_MIDDLE_MM: Final = 80.0  # from the crown of the head to the middle of the brain
_HEIGHT_MM: Final = 150.0  # from the crown to where a head is no longer as wide
_LOWEST_MM: Final = -50.0  # below the middle of the brain faces and necks differ too much to compare
_AROUND: Final = (  # grey value a voxel (2 mm) farther from the brain: above its base, below it
    (9, 9),
    (2, 2),
    (1, 4),
    (2, 8),
    (31, 12),
    (30, 12),
    (0, 12),
    (0, 12),
    (0, 12),
    (0, 12),
)
_BASE_MM: Final = -20.0  # below the middle of the brain: its base, with no scalp under it
_PAD_MM: Final = 60.0  # around the atlas, so that no part of a head lies beyond it
_BOX_MM: Final = (105.0, 130.0, 115.0)
_STARTS: Final = (
    # pitch, roll, yaw in degrees; shift upwards in mm
    *((pitch, 0, 0, up) for pitch in (-20, 0, 20) for up in (-25, 0, 25)),
    *((0, roll, 0, 0) for roll in (-15, 15)),
    *((0, 0, yaw, 0) for yaw in (-20, 20)),
)


@dataclass(frozen=True, slots=True)
class Atlas:
    """A brain in BraTS space.

    Attributes
    ----------
    scan : Scan
        T1 values; 0 outside the brain.
    middle : float64 array (3,)
        Centre of the brain, RAS+ mm.
    """

    scan: Scan
    middle: Matrix

    @property
    def brain(self) -> npt.NDArray[np.bool_]:
        """Voxels (z, y, x) of the brain."""
        return np.asarray(self.scan.data > 0)


@dataclass(frozen=True, slots=True)
class AtlasFit:
    """How a head lies on the atlas.

    Attributes
    ----------
    rigid : float64 array (4, 4)
        From mm of BraTS space to mm of the head, without stretch: what images are moved by.
    affine : float64 array (4, 4)
        The same with stretch: what brings the atlas's brain onto this one.
    stretch : tuple of 3 floats
        Size of this brain relative to the atlas, along its principal axes, smallest first.
    result : Result
        Pose, similarity, coverage.
    """

    rigid: Matrix
    affine: Matrix
    stretch: tuple[float, float, float]
    result: Result


def shipped_atlas() -> Atlas:
    """Return the atlas that comes with GliaLite: the MNI152 T1 in BraTS space (its notice lies beside the file)."""
    return read_atlas(Path(__file__).with_name("atlas-t1-2mm.nii.gz"))


def read_atlas(path: Path) -> Atlas:
    """Read an atlas file.

    Raises
    ------
    InputError
        The file cannot be read.
    GeometryError
        Its voxels are not 2 mm, or the brain does not lie in BraTS space.
    IntensityError
        It holds no skull-stripped brain of an adult's size.
    """
    image = nifti.read(path)
    orientation = Orientation.of(image.affine)
    scan = Scan(np.ascontiguousarray(orientation.to_lps(image.data)), orientation.lps_affine(image))
    if not np.allclose(scan.spacing_mm, _SPACING_MM, atol=0.02):
        raise GeometryError(f"{path} has voxels of {scan.spacing_mm} mm; an atlas has {_SPACING_MM:g} mm")
    brain = np.argwhere(scan.data > 0)
    brain_ml = len(brain) * float(np.prod(scan.spacing_mm)) / 1000
    if not _BRAIN_ML[0] <= brain_ml <= _BRAIN_ML[1]:
        raise IntensityError(f"{path} shows a brain of {brain_ml:.0f} mL; an atlas is one skull-stripped adult brain")
    middle = scan.affine[:3, :3] @ brain.mean(0)[::-1] + scan.affine[:3, 3]
    away = float(np.abs(middle - (-119.5, 117.0, 74.0)).max())
    if away > 25:
        raise GeometryError(f"{path} is not in BraTS space: its brain lies {away:.0f} mm from where BraTS has it")
    return Atlas(scan, np.rint(middle * 4) / 4)


def grow(mask: npt.NDArray[np.bool_], *, corners: bool = False) -> npt.NDArray[np.bool_]:
    """Return a mask grown by one voxel: towards faces, or towards faces, edges and corners."""
    out = mask.copy()
    for axis in range(3):
        source = np.moveaxis(out.copy() if corners else mask, axis, 0)
        into = np.moveaxis(out, axis, 0)
        into[1:] |= source[:-1]
        into[:-1] |= source[1:]
    return out


def _middle_of_head(head: Scan) -> Matrix:
    """Return about where the middle of the brain lies, RAS+ mm: under the crown, in the middle of what is bright."""
    bright = np.argwhere(head.data > 4)
    if not len(bright):
        bright = np.argwhere(np.ones(head.data.shape, np.bool_))
    places = bright[:, ::-1] @ head.affine[:3, :3].T + head.affine[:3, 3]
    heights = np.sort(places[:, 2])
    top = float(heights[int(0.995 * (len(heights) - 1))])
    upper = places[places[:, 2] > top - _HEIGHT_MM]
    low, high = np.percentile(upper[:, :2], (2, 98), axis=0)
    return np.rint(np.array([*((low + high) / 2), top - _TOP_TO_MIDDLE_MM]))


def _landscape(atlas: Atlas) -> Scan:
    """Return the atlas as a landscape that a head can be compared with, 60 mm larger on every side.

    In the brain it is the grey value, 10 to 24. Around it stands what surrounds a brain in T1, by distance: fluid, 6 mm
    of bone, 4 mm of scalp, air; below the base muscle instead. Only which values lie where matters, not what they are.
    """
    spacing_mm = atlas.scan.spacing_mm[0]
    pad = round(_PAD_MM / spacing_mm)
    brain = np.pad(atlas.brain, pad)
    image = np.pad(atlas.scan.data, pad).astype(np.float32)
    image[~brain] = 0
    out = np.where(brain, 10 + binned(Scan(image, atlas.scan.affine)).data * np.float32(14 / 31), 0)
    height = np.arange(brain.shape[0]) * spacing_mm + atlas.scan.affine[2, 3] - _PAD_MM - atlas.middle[2]
    base = np.broadcast_to((height < _BASE_MM)[:, None, None], brain.shape)
    grown = brain
    for step, (vault, under) in enumerate(_AROUND):
        wider = grow(grown, corners=step % 2 == 0)
        new = wider & ~grown
        out[new] = np.where(base[new], under, vault)
        grown = wider
    affine = atlas.scan.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, pad)
    return Scan(out.astype(np.float32), affine)


def _vault(head: Scan, spacing_mm: float, middle: Matrix, count: int) -> Points:
    """Return points of a head above its base: face and neck differ too much between people."""
    image = shrink(head, spacing_mm)
    blurred = Scan(smooth(image.data, (1, 1, 1)), image.affine)
    points = draw_points(blurred, np.ones(image.data.shape, np.bool_), count, middle, seed=1)
    away = points.at - middle[:, None].astype(np.float32)
    keep = (np.abs(away) < np.array(_BOX_MM, np.float32)[:, None]).all(0) & (away[2] > _LOWEST_MM)
    return Points(points.at[:, keep], points.bins[keep], middle)


def _around_brain(head: Scan, spacing_mm: float, middle: Matrix, count: int, level: tuple[Atlas, Matrix]) -> Points:
    """Return points of a head in and close around the brain, as the pose found so far has it."""
    image = shrink(head, spacing_mm)
    atlas, to_atlas = level
    padded = Scan(grow(grow(atlas.brain), corners=True).astype(np.float32), atlas.scan.affine)
    inside, _ = resample(padded, to_atlas, np.ones(image.data.shape, np.bool_), image.affine)
    return draw_points(image, inside > 0.5 if (inside > 0.5).any() else inside >= 0, count, middle, seed=2)


def fit_atlas(atlas: Atlas, head: Scan) -> AtlasFit:
    """Register a head, with or without its skull, to the atlas: first the vault with skull and scalp, then the brain.

    Parameters
    ----------
    atlas : Atlas
        The brain that it is laid on.
    head : Scan
        The reference sequence.
    """
    fine = binned(shrink(head, 2.0), tissue=True)
    middle = _middle_of_head(shrink(fine, 8.0))
    landscape = _landscape(atlas)
    moving = {}
    for spacing_mm in (8.0, 4.0, 2.0):
        shrunk = shrink(landscape, spacing_mm)
        moving[spacing_mm] = Scan(smooth(shrunk.data.astype(np.float32), (1, 1, 1)), shrunk.affine)
    levels = [
        Level(_vault(fine, 8.0, middle, 8000), moving[8.0], RIGID, 25),
        Level(_vault(fine, 4.0, middle, 30000), moving[4.0], 12, 25),
    ]
    result = register(levels, _starts(), atlas.middle)[0]
    for spacing_mm, count in ((4.0, 20000), (2.0, 40000)):
        so_far = (atlas, matrix_of(result.pose, middle, atlas.middle))
        points = _around_brain(fine, spacing_mm, middle, count, so_far)
        result = climb(Level(points, moving[spacing_mm], 12, 25), result.pose, atlas.middle, 2.0)
    to_atlas = matrix_of(result.pose, middle, atlas.middle)
    affine = inverse(to_atlas)
    rigid = inverse(matrix_of(np.where(np.arange(12) < 3, result.pose, 0.0), middle, atlas.middle))
    rigid[:3, 3] = (affine[:3, :3] - rigid[:3, :3]) @ atlas.middle + affine[:3, 3]
    xx, yy, zz, xy, xz, yz = result.pose[6:] / 70.0
    sizes = 1 / (1 + np.linalg.eigvalsh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])))
    return AtlasFit(rigid, affine, (float(sizes[2]), float(sizes[1]), float(sizes[0])), result)


def _starts() -> list[Matrix]:
    starts = []
    for pitch, roll, yaw, up in _STARTS:
        pose = np.zeros(12)
        pose[:3] = np.array([pitch, roll, yaw]) * 1.2217  # mm at 70 mm from the middle, a degree
        pose[5] = up
        starts.append(pose)
    return starts

"""Raw scans that never were: a skull-stripped phantom gets skull, scalp, face and neck back, and is scanned obliquely.

Every sequence has a geometry of its own: thick or thin slices, axial, coronal or sagittal, tilted, and the patient
moved in between; the truth is known as one rigid motion a sequence. For measuring and testing only: real heads differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
import numpy.typing as npt
from glialite_runtime.sequences import SEQUENCES
from scipy import ndimage

__all__ = ["Geometry", "Head", "RawCase", "add_head", "draw_geometry", "rigid", "scan_head", "write_raw_case"]

Array = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

PADDING_MM: Final = (60, 14)
"""Added below and above the BraTS field of view."""

TISSUES: Final[Mapping[str, Mapping[str, float]]] = {
    "t1n": {"csf": 0.4, "bone": 0.1, "marrow": 0.9, "fat": 1.5, "muscle": 0.65, "eye": 0.35, "dura": 0.6},
    "t1c": {"csf": 0.4, "bone": 0.1, "marrow": 1.0, "fat": 1.5, "muscle": 0.85, "eye": 0.35, "dura": 1.6},
    "t2w": {"csf": 3.2, "bone": 0.15, "marrow": 0.9, "fat": 1.8, "muscle": 0.5, "eye": 3.5, "dura": 0.5},
    "t2f": {"csf": 0.35, "bone": 0.15, "marrow": 0.8, "fat": 1.3, "muscle": 0.5, "eye": 0.3, "dura": 0.7},
}
"""Grey value relative to the brain's median."""


@dataclass(frozen=True, slots=True)
class Head:
    """A whole head in BraTS space.

    Attributes
    ----------
    images : float32 array (4, z, y, x)
        Sequences in the order of `SEQUENCES`.
    affine : float64 array (4, 4)
        Index (x, y, z) to mm of BraTS space, RAS+.
    """

    images: Array
    affine: Matrix


@dataclass(frozen=True, slots=True)
class Geometry:
    """How one sequence is scanned.

    Attributes
    ----------
    axis : int
        Array axis (z, y, x) that the slices are stacked along: 0 axial, 1 coronal, 2 sagittal.
    plane_mm, slice_mm, gap_mm : float
        Voxel size in the slice, thickness, and the gap between slices.
    to_world : float64 array (4, 4)
        From mm of BraTS space to mm of this scan's header: where the patient lay.
    tilt : float64 array (4, 4)
        Turns the scanner's grid about the head's middle.
    noise : float
        SD of the noise, relative to the brain's median.
    cut_mm : tuple of float
        What is cut off the stack below and above.
    """

    axis: int
    plane_mm: float
    slice_mm: float
    gap_mm: float
    to_world: Matrix
    tilt: Matrix
    noise: float
    cut_mm: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class RawCase:
    """Four files and the truth.

    Attributes
    ----------
    folder : Path
        Case folder.
    to_world : dict of str to float64 array (4, 4)
        Sequence -> from mm of BraTS space to mm of that scan.
    """

    folder: Path
    to_world: dict[str, Matrix]


MIDDLE_MM: Final = np.array([-119.5, 117.0, 74.0])
"""Middle of the brain in BraTS space, RAS+ mm."""


def rigid(turn_deg: npt.ArrayLike, shift_mm: npt.ArrayLike) -> Matrix:
    """Return a rigid motion: turns about x, y, z around the brain's middle, then a shift."""
    out = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(np.asarray(turn_deg, float))):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(4)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        out = out @ turn
    out[:3, 3] = MIDDLE_MM + np.asarray(shift_mm, float) - out[:3, :3] @ MIDDLE_MM
    return out


def _field(rng: np.random.Generator, shape: tuple[int, ...], voxel_mm: float, scale_mm: float) -> Array:
    """Return smooth noise, mean 0, SD 1."""
    small = tuple(max(2, round(n * voxel_mm / scale_mm)) + 2 for n in shape)
    coarse = rng.standard_normal(small).astype(np.float32)
    zoomed = ndimage.zoom(coarse, [n / s for n, s in zip(shape, small, strict=True)], order=1)
    out: Array = zoomed / np.float32(max(zoomed.std(), 1e-6))
    return out


def _ball(at: tuple[Array, Array, Array], centre: tuple[float, ...], radii: tuple[float, ...]) -> Array:
    """Return mm inside an ellipsoid, about; coordinates and `centre` are (z, y, x)."""
    square = sum(((a - c) / r) ** 2 for a, c, r in zip(at, centre, radii, strict=True))
    return np.asarray((1 - np.sqrt(square)) * min(radii), np.float32)


def _layers(brain: npt.NDArray[np.bool_], voxel_mm: float, rng: np.random.Generator) -> dict[str, Array]:
    """Return the share of each tissue outside the brain (z, y, x)."""
    shape = brain.shape
    hull = ndimage.distance_transform_edt(~np.pad(brain, 8))
    hull = ndimage.distance_transform_edt(hull < 8 / voxel_mm) > 8 / voxel_mm
    outside = ndimage.distance_transform_edt(~hull)[8:-8, 8:-8, 8:-8] * voxel_mm
    depth = ndimage.gaussian_filter(outside.astype(np.float32), 1.5 / voxel_mm)
    z, y, x = (np.arange(n, dtype=np.float32) * voxel_mm for n in shape)
    at = (z[:, None, None] - PADDING_MM[0], y[None, :, None], x[None, None])
    csf = np.clip(2.2 + 0.9 * _field(rng, shape, voxel_mm, 40), 0.6, 5)
    bone = csf + np.clip(6.5 + 1.5 * _field(rng, shape, voxel_mm, 40), 3.5, 11)
    skin = bone + np.clip(5.5 + 1.5 * _field(rng, shape, voxel_mm, 50), 2.5, 10)
    skull = skin - depth
    bottom = np.where(np.broadcast_to(at[0], shape) < 25, 25 - at[0], 0)  # neither skull nor scalp below the base
    neck = 56 * _ball((0 * at[0], at[1], at[2]), (0, 138, 119.5), (1, 62, 56)) - np.maximum(at[0] - 35, 0)
    face = _ball(at, (-2, 62, 119.5), (62, 52, 58))
    eyes = np.maximum(_ball(at, (28, 42, 88), (12, 12, 12)), _ball(at, (28, 42, 151), (12, 12, 12)))
    orbit = np.maximum(_ball(at, (27, 52, 90), (17, 24, 17)), _ball(at, (27, 52, 149), (17, 24, 17)))
    air = np.maximum(_ball(at, (-8, 78, 119.5), (22, 26, 12)), _ball(at, (-40, 104, 119.5), (46, 9, 10)))
    spine = 13 * _ball((0 * at[0], at[1], at[2]), (0, 146, 119.5), (1, 13, 13)) - np.maximum(at[0] - 5, 0)

    def soft(level: Array) -> Array:
        return np.clip(level / voxel_mm + 0.5, 0, 1)

    flesh = soft(np.maximum(np.maximum(neck, face), skull - 0.6 * bottom))
    parts = {"muscle": flesh, "fat": flesh * soft(6 - np.maximum(np.maximum(neck, face), skull - 0.6 * bottom))}
    over = {
        "fat2": soft(orbit), "air": soft(air), "csf2": soft(spine),
        "bone": soft(bone - depth), "marrow": soft(1.3 - np.abs(depth - 0.5 * (csf + bone))) * soft(bone - depth),
        "dura": soft(0.9 - np.abs(depth - csf)), "csf": soft(csf - depth), "eye": soft(eyes),
    }  # fmt: skip
    for name, share in over.items():
        tissue = name.rstrip("2")
        parts = {key: value * (1 - share) for key, value in parts.items()}
        parts[tissue] = parts.get(tissue, 0) + share
    return parts


def add_head(images: npt.NDArray[np.int16], affine: Matrix, seed: int) -> Head:
    """Return the head around a skull-stripped case.

    Parameters
    ----------
    images : array (4, z, y, x)
        In BraTS space, background 0.
    affine : float64 array (4, 4)
        Of the case.
    seed : int
        Decides thickness of the layers and grey values.
    """
    rng = np.random.default_rng((seed, 77))
    voxel_mm = float(affine[2, 2])
    below, above = (round(p / voxel_mm) for p in PADDING_MM)
    padded = np.pad(images, ((0, 0), (below, above), (0, 0), (0, 0)))
    moved = affine.copy()
    moved[2, 3] -= below * voxel_mm
    brain = (padded != 0).any(0)
    parts = _layers(brain, voxel_mm, rng)
    out = np.empty(padded.shape, np.float32)
    for channel, sequence in enumerate(SEQUENCES):
        unit = float(np.median(padded[channel][brain]))
        image = np.zeros(brain.shape, np.float32)
        for tissue, share in parts.items():
            if tissue != "air":
                value = TISSUES[sequence][tissue] * rng.uniform(0.85, 1.15)
                image += share * np.float32(value) * (1 + np.float32(0.12) * _field(rng, brain.shape, voxel_mm, 9))
        image *= np.float32(unit)
        image[brain] = padded[channel][brain]
        out[channel] = image * np.exp(np.float32(0.1) * _field(rng, brain.shape, voxel_mm, 90)) / np.float32(unit)
    return Head(out, moved)


def draw_geometry(seed: int, *, thick: bool, pose: float = 1.0) -> dict[str, Geometry]:
    """Draw how a session is scanned.

    Parameters
    ----------
    seed : int
        Equal seeds draw equal sessions.
    thick : bool
        All sequences in slices of 4 to 6 mm; otherwise T1 and T1c are 1 mm.
    pose : float
        Scales how crooked the head lies: 1 is up to 20° forward or back, 12° otherwise, and 35 mm off the middle.
    """
    rng = np.random.default_rng((seed, 5))
    lies = rigid(pose * rng.uniform(-1, 1, 3) * (20, 12, 12), pose * rng.uniform(-35, 35, 3))
    origin = np.eye(4)
    origin[:3, 3] = -MIDDLE_MM  # scanners count from their isocentre
    found = {}
    for sequence in SEQUENCES:
        isotropic = not thick and sequence in ("t1n", "t1c")
        axis = 2 if isotropic else int(rng.choice(3, p=(0.8, 0.1, 0.1)))
        found[sequence] = Geometry(
            axis=axis,
            plane_mm=1.0 if isotropic else float(rng.uniform(0.6, 1.0)),
            slice_mm=1.0 if isotropic else float(rng.uniform(4, 6)),
            gap_mm=0.0 if isotropic else float(rng.uniform(0, 1.2)),
            to_world=origin @ rigid(rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3)) @ lies,
            tilt=rigid(rng.uniform(-15, 15, 3) * (1, 0.5, 0.5), rng.uniform(-8, 8, 3)),
            noise=float(rng.uniform(0.02, 0.06)),
        )
    return found


def scan_head(head: Head, channel: int, how: Geometry, seed: int) -> nibabel.Nifti1Image:
    """Return one sequence as a scanner would store it: slices (i, j, k) of int16 with an oblique affine."""
    rng = np.random.default_rng((seed, channel, 9))
    step = np.full(3, how.plane_mm)
    step[how.axis] = how.slice_mm + how.gap_mm
    extent = np.array([215.0, 240.0, 200.0])
    low, high = how.cut_mm
    counts = np.maximum((extent - (low + high) * (np.arange(3) == 0)) / step, 2).astype(int)
    grid = np.zeros((4, 4))  # index (x, y, z) -> mm of BraTS space, before the tilt
    grid[[0, 1, 2], [0, 1, 2]] = -step[2], -step[1], step[0]
    centre = MIDDLE_MM + np.array([0, 5, -18.0])
    grid[:3, 3] = centre - grid[:3, :3] @ ((counts[::-1] - 1) / 2)
    grid[2, 3] += (low - high) / 2
    grid[3, 3] = 1
    grid = np.linalg.inv(how.to_world) @ (how.to_world @ how.tilt) @ grid
    to_voxel = np.linalg.inv(head.affine) @ grid
    index = np.indices(tuple(counts)).reshape(3, -1)[::-1].astype(np.float32)
    total = np.zeros(index.shape[1], np.float32)
    offsets = np.linspace(-0.4, 0.4, 5 if how.slice_mm > 1.5 else 1) * how.slice_mm / step[how.axis]
    for offset in offsets:
        shifted = index + (np.arange(3) == 2 - how.axis)[:, None].astype(np.float32) * np.float32(offset)
        at = (to_voxel[:3, :3].astype(np.float32) @ shifted + to_voxel[:3, 3:].astype(np.float32))[::-1]
        total += ndimage.map_coordinates(head.images[channel], at, order=1, cval=0.0)
    total /= len(offsets)
    noisy = np.hypot(total + how.noise * rng.standard_normal(total.shape), how.noise * rng.standard_normal(total.shape))
    data = np.rint(np.clip(noisy * 400, 0, 32000)).astype(np.int16).reshape(tuple(counts)).T
    affine = how.to_world @ grid
    return nibabel.Nifti1Image(data, affine)


def write_raw_case(folder: Path, head: Head, session: Mapping[str, Geometry], seed: int) -> RawCase:
    """Write four raw scans as a case folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for channel, sequence in enumerate(SEQUENCES):
        if sequence in session:
            image = scan_head(head, channel, session[sequence], seed)
            image.set_qform(image.affine, 1)
            image.set_sform(image.affine, 1)
            nibabel.save(image, folder / f"{folder.name}-{sequence}.nii.gz")
    return RawCase(folder, {sequence: how.to_world for sequence, how in session.items()})

"""The brain under the tumour: the MNI152 anatomy, bent into another person for every patient.

Thresholds on the template's levels vary from patient to patient: they make cortex thinner, sulci wider, ventricles
larger, and edges stay as sharp as the voxels allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from glialite_distill.anatomy_template import ORIGIN_VOXEL, load_template
from glialite_distill.phantom_fields import Grid, band_field, linear_matrix, separable, sigmoid, smooth_field, stream
from glialite_distill.phantom_worlds import AnatomyRanges

__all__ = ["Anatomy", "Body", "draw_body", "tissues"]

Array = npt.NDArray[np.float32]

_CENTRE_VOXEL: Final = (79.0, 114.0, 98.0)
"""Middle of the brain in the template."""
_CENTRE_MM: Final = (74.0, 122.0, 119.5)
"""Where the middle of the brain lies in a BraTS case."""


@dataclass(frozen=True, slots=True)
class Body:
    """What makes one patient's brain different: everything drawn, nothing computed yet.

    Attributes
    ----------
    matrix : array (3, 3) float64
        Backward affine map from mm of the case to voxels of the template.
    seed : int
        Seed of the patient's smooth fields.
    bend_mm : tuple of 2 floats
        SD of the displacement at the long and the short scale.
    sulcus_threshold, ventricle_mm, fold : float
        Lower = wider sulci; growth of the ventricles; strength of individual folding.
    hull, surface_mm : float
        The brain mask: 0 follows the gyri, 1 spans the sulci; its offset outwards.
    bend_whole_mm, cortex_mm : float
        SD of the displacement over the whole head, which makes it asymmetric; how much thicker the cortex is.
    remnant_mm : float
        Thickness of muscle and fat that the skull stripper left; 0 or below: none.
    """

    matrix: npt.NDArray[np.float64]
    seed: int
    bend_mm: tuple[float, float]
    sulcus_threshold: float
    ventricle_mm: float
    fold: float
    hull: float
    surface_mm: float
    bend_whole_mm: float
    cortex_mm: float
    remnant_mm: float


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Tissue fractions and helpers of one patient on one grid, each (z, y, x) float32.

    `white` + `grey` + `csf` = 1. `mni` is (3, z, y, x): MNI coordinates (superior, anterior, right) in mm.
    """

    white: Array
    grey: Array
    csf: Array
    surface_depth: Array
    ventricle_depth: Array
    vessels: Array
    direct: Array
    limbic: Array
    iron: Array
    tract: Array
    plexus: Array
    mni: Array


def draw_body(seed: int, ranges: AnatomyRanges) -> Body:
    """Draw one patient's brain from `ranges`; equal seeds give equal brains."""
    rng = stream(seed, "body")
    scale = rng.uniform(*ranges.scale) * rng.uniform(1 - ranges.stretch, 1 + ranges.stretch, 3)
    angles = np.deg2rad(rng.normal(0, ranges.tilt_deg, 3))
    shear = rng.normal(0, ranges.shear, (3, 3)) * (1 - np.eye(3))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = rotation @ turn
    age = rng.uniform()  # one number moves sulci and ventricles together
    threshold = np.interp(1 - age, (0, 1), ranges.sulcus_threshold) + rng.normal(0, 0.25)
    ventricle = np.interp(age**1.5, (0, 1), ranges.ventricle_mm) + rng.normal(0, 0.5)
    apart = stream(seed, "body apart")
    return Body(
        matrix=(np.diag(1 / scale) @ rotation) + shear,
        seed=seed,
        bend_mm=(rng.uniform(*ranges.bend_long_mm), rng.uniform(*ranges.bend_short_mm)),
        sulcus_threshold=float(threshold),
        ventricle_mm=float(ventricle),
        fold=rng.uniform(*ranges.fold),
        hull=rng.uniform(),
        surface_mm=rng.uniform(*ranges.surface_mm),
        bend_whole_mm=apart.uniform(*ranges.bend_whole_mm),
        cortex_mm=apart.uniform(*ranges.cortex_mm),
        remnant_mm=apart.uniform(*ranges.remnant_mm),
    )


def _template_voxels(body: Body, grid: Grid, push: tuple[Grid, Array] | None) -> Array:
    """Return where each voxel of `grid` comes from: (3, z, y, x) voxels of the 1 mm template."""
    rng, whole = stream(body.seed, "bend"), stream(body.seed, "bend whole")
    z, y, x = (axis - centre for axis, centre in zip(grid.axes, _CENTRE_MM, strict=True))
    out = np.empty((3, *grid.shape), np.float32)
    for row in range(3):
        m = body.matrix[row].astype(np.float32)
        out[row] = (m[0] * z + np.float32(_CENTRE_VOXEL[row]))[:, None, None] + (m[1] * y)[:, None] + m[2] * x
        out[row] += np.float32(body.bend_mm[0]) * smooth_field(rng, grid, 40.0)
        out[row] += np.float32(body.bend_mm[1]) * smooth_field(rng, grid, 17.0)
        if body.bend_whole_mm:
            out[row] += np.float32(body.bend_whole_mm) * smooth_field(whole, grid, 80.0)
        if push is not None:
            source, displacement = push
            axes = zip(grid.axes, source.axes, strict=True)
            mz, my, mx = (linear_matrix(target, own) for target, own in axes)
            out[row] += separable(displacement[row], (mz, my, mx))
    return out


def _sample(maps: Array, voxels: Array, step: float) -> Array:
    """Look `maps` (C, z, y, x) up at `voxels` of the 1 mm template, linear, edges held: (C, …)."""
    grid = np.empty((1, *voxels.shape[1:], 3), np.float32)
    for axis in range(3):
        extent = (maps.shape[1 + axis] - 1) * step
        np.multiply(voxels[axis], np.float32(2 / extent), out=grid[0, ..., 2 - axis])
    grid -= 1
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(maps)[None], torch.from_numpy(grid), "bilinear", "border", align_corners=True
    )
    sampled: Array = values[0].numpy()
    return sampled


def tissues(body: Body, grid: Grid, push: tuple[Grid, Array] | None = None) -> Anatomy:
    """Bend the template into one patient and sort every voxel of `grid` into tissue fractions.

    Parameters
    ----------
    body : Body
        The patient.
    grid : Grid
        Voxels to compute, 1 or 2 mm.
    push : pair of a coarse grid and an array (3, z, y, x) float32, optional
        Mass effect: backward displacement in mm of the template, to be interpolated linearly.
    """
    template = load_template()
    voxels = _template_voxels(body, grid, push)
    sulcus, white_depth, white_soft = _sample(template.fine, voxels, 1.0)
    coarse = _sample(template.coarse, voxels, 2.0)
    hull_depth, brain_depth, ventricle_depth, vessels, direct, cerebellum, limbic, iron, tract, plexus = coarse
    sharp = np.float32(3.0 / grid.spacing_mm)
    rng = stream(body.seed, "fold")
    folds = np.float32(body.fold) * band_field(rng, grid, (6.5, 4.0), 0.7)
    thickness = np.float32(0.5) * smooth_field(rng, grid, 35.0) + np.float32(body.sulcus_threshold)
    cortical = (1 - direct) * sigmoid(white_depth * 2 + 4)
    sulcus = sulcus + np.float32(0.9) * folds * cortical - thickness - np.float32(1.2) * cerebellum
    csf = sigmoid(sharp * np.float32(0.6) * sulcus)
    ventricle = ventricle_depth + np.float32(body.ventricle_mm) * (1 + np.float32(0.35) * smooth_field(rng, grid, 30.0))
    np.maximum(csf, sigmoid(sharp * ventricle), out=csf)
    cortex = np.float32(0.9) * folds
    if body.cortex_mm:
        cortex += np.float32(body.cortex_mm) * (1 + np.float32(0.5) * smooth_field(rng, grid, 28.0))
    white = sigmoid(-sharp * (white_depth + cortex * (1 - direct)))
    white += direct * (white_soft - white)
    white *= 1 - csf
    mni = voxels - np.array(ORIGIN_VOXEL, np.float32)[:, None, None, None]
    np.negative(mni[1:], out=mni[1:])
    return Anatomy(
        white=white,
        grey=1 - csf - white,
        csf=csf,
        surface_depth=brain_depth + np.float32(body.hull) * (hull_depth - brain_depth) + np.float32(body.surface_mm),
        ventricle_depth=ventricle,
        vessels=vessels,
        direct=direct,
        limbic=limbic,
        iron=iron,
        tract=tract,
        plexus=plexus,
        mni=mni,
    )

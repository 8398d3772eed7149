"""Gliomas that grow in a phantom's brain: core, enhancing rim, necrosis, oedema.

Growth is a travel time: a front leaves the seed, runs freely in white matter, slowly in grey matter, hardly in CSF,
and not through the falx; thresholds on the travel time give the wanted volumes. All of it is computed at 2 mm, so a
patient has the same tumour at 1 mm and at 2 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.sequences import ET, NETC, SNFH
from scipy import ndimage

from glialite_distill.anatomy import Anatomy
from glialite_distill.phantom_fields import Grid, band_field, linear_matrix, separable, sigmoid, smooth_field, stream
from glialite_distill.phantom_worlds import TumourRanges
from glialite_distill.tumour_growth import grow_to_volume

__all__ = [
    "RIMMED",
    "Tumour",
    "TumourParts",
    "draw_tumour",
    "grow_core",
    "grow_oedema",
    "mass_effect_mm",
    "tumour_parts",
]

Array = npt.NDArray[np.float32]

RIMMED: Final = ("ring", "solid", "cystic")
"""Kinds whose core an enhancing rim encloses, but for where it is broken."""

_DRAWN_AT: Final = 0.35
"""Share of a border's contrast at which it is drawn: real outlines lie outside the middle (docs/synthetic.md)."""


@dataclass(frozen=True, slots=True)
class Tumour:
    """What one patient's tumour is like: everything drawn, nothing grown yet.

    Attributes
    ----------
    kind : str
        ring, solid, patchy, cystic, nodular or diffuse.
    core_ml, oedema_ml : float
        Wanted volumes.
    foci, satellites : int
        Main foci, the first of which is the larger, and small ones near it.
    rim_mm, rim_break, roughness, push, reach, faint, mixed, one_sided, water, grain : float
        See `TumourRanges`.
    bleeding, fluid : float
        Share of the necrosis with blood products; share of the non-enhancing core that is fluid.
    edge_mm : float
        Width of the oedema's soft border.
    calcified : bool
        Whether an uneven core has calcification.
    seed : int
        Seed of its smooth fields.
    """

    kind: str
    core_ml: float
    oedema_ml: float
    foci: int
    satellites: int
    rim_mm: float
    rim_break: float
    roughness: float
    push: float
    bleeding: float
    fluid: float
    edge_mm: float
    reach: float
    faint: float
    mixed: float
    calcified: bool
    one_sided: float
    water: float
    grain: float
    seed: int


@dataclass(frozen=True, slots=True)
class TumourParts:
    """Fractions of a voxel, each (z, y, x) float32 in 0..1, and the label map that they amount to (uint8).

    `strength` is how much of the full enhancement each voxel shows, 0..1; `water` how strongly its oedema differs from
    white matter, 1 in the middle. `mixture` (k, z, y, x) are fields that make
    the core uneven, SD about the tumour's `mixed`, the last of them calcification in 0..1; k is 0 for an even core.
    """

    core: Array
    enhancing: Array
    strength: Array
    water: Array
    mixture: Array
    fluid: Array
    blood: Array
    oedema: Array
    labels: npt.NDArray[np.uint8]


def draw_tumour(seed: int, ranges: TumourRanges, growth: float = 1.0) -> Tumour | None:
    """Draw one patient's tumour, or None for a brain without one; `growth` multiplies its volumes."""
    rng = stream(seed, "tumour")
    present = rng.uniform() >= ranges.absent
    names = tuple(ranges.kinds)
    weights = np.array([ranges.kinds[name] for name in names])
    kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    sizes = ranges.diffuse_ml if kind == "diffuse" and ranges.diffuse_ml else ranges.core_ml
    core_ml = float(np.exp(rng.uniform(*np.log(sizes))))
    ratio = float(np.exp(rng.uniform(*np.log(ranges.oedema_ratio))))
    if kind == "diffuse":
        ratio = float(rng.uniform(*ranges.diffuse_oedema))
    oedema_ml = min(core_ml * ratio, 140.0) + (float(rng.uniform(1, 12)) if core_ml < 8 else 0.0)
    enhancing = kind != "diffuse"
    apart = stream(seed, "tumour apart")
    tumour = Tumour(
        kind=kind,
        core_ml=core_ml * growth,
        oedema_ml=min(oedema_ml * growth, 180.0),
        foci=2 if enhancing and rng.uniform() < ranges.multifocal else 1,
        satellites=int(rng.integers(1, 4)) if enhancing and rng.uniform() < ranges.satellites else 0,
        rim_mm=float(rng.uniform(*ranges.rim_mm)),
        rim_break=float(rng.uniform(*ranges.rim_break)),
        roughness=float(rng.uniform(*ranges.roughness)),
        push=float(rng.uniform(*ranges.push)),
        bleeding=float(rng.uniform(0.2, 0.7)) if enhancing and rng.uniform() < ranges.bleeding else 0.0,
        fluid=float(rng.uniform(*{"cystic": (0.85, 1.0), "diffuse": (0.0, 0.4)}.get(kind, (0.0, 1.0)))),
        edge_mm=float(rng.uniform(0.6, 2.5)),
        reach=float(apart.uniform(*ranges.reach)),
        faint=float(apart.uniform(*ranges.faint)),
        mixed=float(apart.uniform(*ranges.mixed)),
        calcified=bool(apart.uniform() < ranges.calcified),
        one_sided=float(apart.uniform(*ranges.one_sided)),
        water=float(apart.uniform(*ranges.water)),
        grain=float(apart.uniform(*ranges.grain)),
        seed=seed,
    )
    return tumour if present else None


def _around(centre: tuple[int, int, int], reach: int, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """Return the box that reaches `reach` voxels from `centre` to all sides."""
    z, y, x = (slice(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(centre, shape, strict=True))
    return z, y, x


def _falx(anatomy: Anatomy) -> npt.NDArray[np.bool_]:
    """Return the sheet between the hemispheres that no front crosses; the corpus callosum stays open."""
    above_callosum = (anatomy.mni[0] > 32) | (anatomy.mni[1] < -48) | (anatomy.mni[1] > 38)
    falx: npt.NDArray[np.bool_] = (np.abs(anatomy.mni[2]) < 1.6) & above_callosum & (anatomy.direct < 0.5)
    return falx


def _slowness(anatomy: Anatomy, tumour: Tumour, grid: Grid, grey: float, name: str) -> Array:
    """Return the time that a front takes per mm: rough, and for oedema with a preferred side."""
    speed = anatomy.white + np.float32(grey) * anatomy.grey + np.float32(0.02) * anatomy.csf
    speed += np.float32(0.25) * anatomy.direct * (1 - speed) * (1 - anatomy.csf)
    rng = stream(tumour.seed, name)
    rough = np.float32(tumour.roughness) * band_field(rng, grid, (26.0, 13.0, 7.0), 0.8)
    if name == "oedema":
        rough += np.float32(0.6) * smooth_field(rng, grid, 45.0)
    speed *= np.exp(rough)
    speed[_falx(anatomy) | (anatomy.surface_depth < 0)] = 0.004
    return 1 / speed


def _seed_voxel(rng: np.random.Generator, allowed: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    candidates = np.flatnonzero(allowed)
    z, y, x = np.unravel_index(candidates[int(rng.integers(candidates.size))], allowed.shape)
    return int(z), int(y), int(x)


def grow_core(anatomy: Anatomy, tumour: Tumour, grid: Grid) -> Array:
    """Grow the tumour's core.

    Parameters
    ----------
    anatomy : Anatomy
        The healthy brain on `grid`.
    tumour : Tumour
        What to grow.
    grid : Grid
        2 mm grid of the anatomy.

    Returns
    -------
    array (z, y, x) float32
        Level in mm: positive inside the core, about the depth under its surface.
    """
    rng = stream(tumour.seed, "seed")
    supratentorial = (anatomy.mni[0] > -25) & ~((anatomy.mni[0] < 0) & (anatomy.mni[1] < -40))
    home = (anatomy.white > 0.6) & (anatomy.surface_depth > 7) & supratentorial & (np.abs(anatomy.mni[2]) > 8)
    slowness = _slowness(anatomy, tumour, grid, 0.75, "core")
    level = np.full(grid.shape, -60.0, np.float32)
    shares = [1.0] if tumour.foci == 1 else [0.7, 0.3]
    shares += [float(rng.uniform(0.01, 0.05)) for _ in range(tumour.satellites)]
    centre = _seed_voxel(rng, home)
    for number, share in enumerate(shares):
        if number >= tumour.foci:  # a satellite stays near
            near = np.zeros(grid.shape, bool)
            near[_around(centre, int(10 + 6 * rng.uniform()), grid.shape)] = True
            place = _seed_voxel(rng, near & home) if (near & home).any() else centre
        else:
            place = centre if number == 0 else _seed_voxel(rng, home)
        start = np.zeros(grid.shape, bool)
        start[place] = True
        front = grow_to_volume(slowness, start, anatomy.csf < 0.6, share * tumour.core_ml, grid.spacing_mm)
        np.maximum(level[front.box], _depth_mm(front.inside, grid.spacing_mm), out=level[front.box])
    return level


def _depth_mm(mask: npt.NDArray[np.bool_], step_mm: float) -> Array:
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return ndimage.gaussian_filter(depth.astype(np.float32) * np.float32(step_mm), 0.8)


def mass_effect_mm(core_level: Array, tumour: Tumour, grid: Grid) -> tuple[Grid, Array]:
    """Return the push of a core on its surroundings as a backward displacement, mm, with the grid that it is given on.

    The displacement follows the gradient of the blurred core, so tissue moves away from it and returns to its place
    some centimetres off.
    """
    half = Grid(grid.z[::2], grid.y[::2], grid.x[::2])
    core = ndimage.gaussian_filter((core_level > 0).astype(np.float32), 1.0)[::2, ::2, ::2]
    radius_mm = float((3 / (4 * np.pi) * core.sum() * half.spacing_mm**3) ** (1 / 3))
    pull = np.array(np.gradient(ndimage.gaussian_filter(core, max(1.5, tumour.reach * radius_mm / half.spacing_mm))))
    strongest = float(np.sqrt((pull**2).sum(0)).max())
    pull *= np.float32(tumour.push * radius_mm / max(strongest, 1e-6))
    return half, pull.astype(np.float32)


def grow_oedema(anatomy: Anatomy, core_level: Array, tumour: Tumour, grid: Grid) -> Array:
    """Grow the oedema from the core through the displaced brain; level in mm, positive inside."""
    core = core_level > 0
    slowness = _slowness(anatomy, tumour, grid, 0.12, "oedema") * _to_one_side(core, tumour, grid)
    front = grow_to_volume(slowness, core, (anatomy.csf < 0.5) & ~core, tumour.oedema_ml, grid.spacing_mm)
    limit = float(front.time[front.inside].max()) if front.inside.any() else 0.0
    smooth = ndimage.gaussian_filter(np.minimum(front.time, 3 * limit + 20), 0.6)
    steepness = np.sqrt(sum(slope**2 for slope in np.gradient(smooth, grid.spacing_mm)))
    level = np.full(grid.shape, -60.0, np.float32)
    # where the front ran faster than 1 a level in time would make the border wider than it is drawn
    level[front.box] = np.maximum((limit - smooth) / np.clip(steepness, 0.25, 1), -60)
    return level


def _to_one_side(core: npt.NDArray[np.bool_], tumour: Tumour, grid: Grid) -> Array:
    """Return what one side's preference multiplies the oedema's slowness by: least on a drawn side of the core."""
    if not tumour.one_sided or not core.any():
        return np.ones(grid.shape, np.float32)
    side = stream(tumour.seed, "side").normal(size=3)
    middle = np.argwhere(core).mean(0)
    z, y, x = (np.arange(n) - m for n, m in zip(grid.shape, middle, strict=True))
    away = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) + 1
    along = side[0] * z[:, None, None] + side[1] * y[:, None] + side[2] * x
    return np.exp(-tumour.one_sided * along / (away * np.linalg.norm(side))).astype(np.float32)


def tumour_parts(
    core_mm: Array, oedema_mm: Array, tumour: Tumour, source: Grid, anatomy: Anatomy, grid: Grid
) -> TumourParts:
    """Divide a grown tumour into its parts on the final grid.

    Parameters
    ----------
    core_mm, oedema_mm : arrays on `source` (2 mm)
        Levels from `grow_core` and `grow_oedema`.
    anatomy : Anatomy
        The displaced brain on `grid`.
    """
    axes = zip(grid.axes, source.axes, strict=True)
    mz, my, mx = (linear_matrix(target, own) for target, own in axes)
    depth, oedema = separable(core_mm, (mz, my, mx)), separable(oedema_mm, (mz, my, mx))
    rng = stream(tumour.seed, "parts")
    fine = smooth_field(rng, grid, 3.5)
    middle = smooth_field(rng, grid, 7.0)
    patches = smooth_field(rng, grid, 13.0)
    depth += np.float32(0.7) * fine + np.float32(0.5) * middle
    if tumour.grain:
        finest = smooth_field(stream(tumour.seed, "finest"), grid, 1.8)
        depth += np.float32(0.5) * finest
        fine = np.float32(0.8) * fine + np.float32(0.6) * finest
    sharp = np.float32(2.0 / grid.spacing_mm)
    tissue = 1 - anatomy.csf * (anatomy.ventricle_depth > -2)
    core = sigmoid(sharp * depth) * tissue
    rim = _rim_level(depth, fine, middle, patches, tumour)
    enhancing = core * sigmoid(sharp * rim)
    rest = core - enhancing
    fluid = rest * sigmoid(np.float32(3) * (np.float32(4 * tumour.fluid - 2) + patches))
    blood = core * sigmoid(np.float32(4) * (middle - np.float32(2.2 - 2 * tumour.bleeding)))
    blood *= np.float32(tumour.bleeding > 0)
    border = np.float32(1.0) * fine + np.float32(1.2) * middle
    ramp = np.clip(0.5 + (oedema + border) / np.float32(5 * tumour.edge_mm), 0, 1)  # ends: no tail far from the tumour
    swollen = ramp * ramp * (3 - 2 * ramp) * (1 - core) * (1 - anatomy.csf)
    strength, water, mixture = _uneven(tumour, grid)
    labels = np.zeros(grid.shape, np.uint8)
    labels[(swollen > _DRAWN_AT) & (anatomy.csf <= 0.5)] = SNFH
    labels[core > _DRAWN_AT] = NETC
    labels[(core > _DRAWN_AT) & (enhancing > _DRAWN_AT * core)] = ET
    return TumourParts(core, enhancing, strength, water, mixture, fluid, blood, swollen, labels)


def _uneven(tumour: Tumour, grid: Grid) -> tuple[Array, Array, Array]:
    """Return how strongly each voxel enhances and swells, and what makes the core uneven (see `TumourParts`)."""
    rng = stream(tumour.seed, "uneven")
    strength, mixture = np.ones(grid.shape, np.float32), np.empty((0, *grid.shape), np.float32)
    if tumour.faint:
        strength -= np.float32(tumour.faint) * sigmoid(3 * smooth_field(rng, grid, 14.0))
    if tumour.grain:
        coarse_to_fine = band_field(stream(tumour.seed, "grain"), grid, (5.0, 3.0, 1.8), 1.0)
        strength *= np.exp(np.float32(tumour.grain) * coarse_to_fine)
    if tumour.mixed:
        large = 1.3 * np.tanh(2.5 * smooth_field(rng, grid, 13.0))  # islands with clear borders
        fields = large, band_field(rng, grid, (8.0, 4.0), 0.9), smooth_field(rng, grid, 3.0)
        chalk = sigmoid(9 * (smooth_field(rng, grid, 5.0) - np.float32(1.4 if tumour.calcified else 99)))
        mixture = np.stack((*(np.float32(tumour.mixed) * field for field in fields), chalk)).astype(np.float32)
    water = np.ones(grid.shape, np.float32)
    if tumour.water:
        water = np.exp(np.float32(tumour.water) * smooth_field(rng, grid, 17.0))
    return strength, water, mixture


def _rim_level(depth: Array, fine: Array, middle: Array, patches: Array, tumour: Tumour) -> Array:
    """Return a level in mm that is positive where the core enhances."""
    if tumour.kind == "diffuse":
        return np.full_like(depth, -50.0)
    broken = np.maximum(patches - np.float32(2.2 - 2 * tumour.rim_break), 0) * np.float32(8)
    if tumour.kind == "nodular":
        nodes = np.float32(0.8) * middle + np.float32(0.6) * patches - np.float32(0.7 + 0.4 * tumour.rim_break)
        return (np.float32(3) * nodes).astype(np.float32)
    if tumour.kind == "patchy":
        return (np.float32(3) * (patches + np.float32(0.5) * middle - np.float32(0.9))).astype(np.float32)
    thickness = {"ring": 1.0, "solid": 3.5, "cystic": 0.6}[tumour.kind] * tumour.rim_mm
    level = thickness * np.exp(np.float32(0.45) * middle) - depth + np.float32(0.8) * fine - broken
    if tumour.kind != "cystic":  # septa and islands that enhance inside the necrosis
        np.maximum(level, np.float32(2.5) * (middle + np.float32(0.4) * fine - np.float32(1.5)), out=level)
    return level

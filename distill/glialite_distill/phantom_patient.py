"""One seeded patient that nobody ever was: anatomy, tumour, contrast and scanner put together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.sequences import REGION_LABELS, SEQUENCES
from scipy import ndimage

from glialite_distill.anatomy import draw_body, tissues
from glialite_distill.phantom_contrast import draw_values, extras, paint
from glialite_distill.phantom_fields import FIELD_OF_VIEW_MM, Grid, smooth_field, stream
from glialite_distill.phantom_scanner import acquire, draw_scanner
from glialite_distill.phantom_worlds import PhantomSettings
from glialite_distill.tumour import RIMMED, draw_tumour, grow_core, grow_oedema, mass_effect_mm, tumour_parts

__all__ = ["GENERATOR_VERSION", "Phantom", "case_affine", "make_phantom"]

GENERATOR_VERSION: Final = 7
"""Rises whenever the same seed gives another patient."""

_COARSE_MM: Final = 2
_COARSE_BOX: Final = (slice(0, 78), slice(8, 114), slice(18, 102))
"""Voxels of 2 mm among which every brain lies."""


@dataclass(frozen=True, slots=True)
class Phantom:
    """One time point of one patient.

    Attributes
    ----------
    images : array (4, z, y, x) int16
        t1n, t1c, t2w, t2f in LPS; 0 outside the brain.
    labels : array (z, y, x) uint8
        BraTS-2023 labels.
    affine : array (4, 4) float64
        From (x, y, z) voxels to mm, RAS+.
    meta : dict
        What was drawn, and the volumes that came out; ready for JSON.
    """

    images: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    meta: dict[str, Any]


def make_phantom(seed: int, settings: PhantomSettings, *, time_point: int = 0) -> Phantom:
    """Return one patient at one time point.

    Parameters
    ----------
    seed : int
        Decides everything; 0 or above.
    settings : PhantomSettings
        What to draw from.
    time_point : int
        0, or 1 for the follow-up: the same brain on another day, the tumour larger.
    """
    growth = 1.0 if time_point == 0 else float(stream(seed, "growth").uniform(1.25, 2.2))
    scan = seed if time_point == 0 else int(np.random.SeedSequence((seed, time_point)).generate_state(1)[0])
    body = draw_body(seed, settings.anatomy)
    tumour = draw_tumour(seed, settings.tumour, growth)
    coarse = Grid.whole(_COARSE_MM).crop(_COARSE_BOX)
    healthy = tissues(body, coarse)
    push, levels = None, None
    pushed = healthy
    if tumour is not None:
        core = grow_core(healthy, tumour, coarse)
        push = mass_effect_mm(core, tumour, coarse)
        pushed = tissues(body, coarse, push)
        levels = core, grow_oedema(pushed, core, tumour, coarse)
    whole = Grid.whole(settings.spacing_mm)
    coarsest = settings.spacing_mm == _COARSE_MM
    box = _COARSE_BOX if coarsest else _brain_box(pushed.surface_depth, whole)
    grid = whole.crop(box)
    anatomy = pushed if coarsest else tissues(body, grid, push)
    parts = None
    if tumour is not None and levels is not None:
        parts = tumour_parts(levels[0], levels[1], tumour, coarse, anatomy, grid)
    values = draw_values(scan, settings, rimmed=tumour is not None and tumour.kind in RIMMED)
    inside = _brain_mask(seed, anatomy.surface_depth, grid)
    if stream(scan, "cut").uniform() < settings.scanner.cut:
        inside &= _scanned(scan, inside, grid)
    perfect = paint(scan, values, anatomy, extras(seed, anatomy, grid, body.remnant_mm), parts, grid)
    scanners = {sequence: draw_scanner(scan, sequence, settings.scanner) for sequence in SEQUENCES}
    images = np.zeros((len(SEQUENCES), *whole.shape), np.int16)
    labels = np.zeros(whole.shape, np.uint8)
    for channel, sequence in enumerate(SEQUENCES):
        own_seed = int(stream(scan, f"noise {sequence}").integers(2**31))
        images[channel][box] = acquire(
            perfect[channel], inside, anatomy.surface_depth, scanners[sequence], grid, own_seed
        )
    if parts is not None:
        labels[box] = np.where(inside, parts.labels, 0)
    meta = {
        "seed": seed,
        "time_point": time_point,
        "style": settings.style,
        "world": settings.world,
        "spacing_mm": settings.spacing_mm,
        "generator_version": GENERATOR_VERSION,
        "has_tumour": bool(labels.any()),
        "volumes_ml": _volumes_ml(labels, settings.spacing_mm),
        "body": _plain(asdict(body)),
        "tumour": None if tumour is None else _plain(asdict(tumour)),
        "values": _plain(values),
        "scanners": {sequence: _plain(asdict(scanner)) for sequence, scanner in scanners.items()},
    }
    return Phantom(images, labels, case_affine(settings.spacing_mm), meta)


def _plain(value: Any) -> Any:
    """Return `value` ready for JSON, floats to four digits."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    return round(float(value), 4) if isinstance(value, float) else value


def _brain_box(depth: npt.NDArray[np.float32], whole: Grid) -> tuple[slice, slice, slice]:
    """Return the voxels of a whole case that hold the brain, from its depth on the coarse grid."""
    occupied = np.argwhere(depth > -3)
    first = np.array([axis.start for axis in _COARSE_BOX])
    low, high = ((end + first) * (_COARSE_MM / whole.spacing_mm) for end in (occupied.min(0), occupied.max(0) + 1))
    ends = zip(np.floor(low).astype(int), np.ceil(high).astype(int), whole.shape, strict=True)
    z, y, x = (slice(max(0, int(a)), min(n, int(b))) for a, b, n in ends)
    return z, y, x


def _brain_mask(seed: int, depth: npt.NDArray[np.float32], grid: Grid) -> npt.NDArray[np.bool_]:
    """Return what a skull stripper kept: the surface, a little uneven."""
    uneven = smooth_field(stream(seed, "mask"), grid, 14.0)
    pieces, count = ndimage.label(depth + np.float32(0.7) * uneven > 0)
    mask: npt.NDArray[np.bool_] = pieces == 1 + np.bincount(pieces.ravel(), minlength=count + 1)[1:].argmax()
    return mask


def _scanned(seed: int, inside: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.bool_]:
    """Return the half of space that a scan covers which ends within the brain and lacks up to a third of it."""
    rng = stream(seed, "field of view")
    normal = rng.normal(0, (1.0, 0.5, 0.25))
    normal /= np.linalg.norm(normal)
    z, y, x = (axis * np.float32(n) for axis, n in zip(grid.axes, normal, strict=True))
    height = z[:, None, None] + y[:, None] + x
    scanned: npt.NDArray[np.bool_] = height < np.quantile(height[inside][::11], 1 - rng.uniform(0.05, 0.33))
    return scanned


def _volumes_ml(labels: npt.NDArray[np.uint8], spacing_mm: float) -> dict[str, float]:
    counts = np.bincount(labels.ravel(), minlength=4)
    unit = spacing_mm**3 / 1000
    return {
        region: round(float(sum(counts[v] for v in members)) * unit, 3) for region, members in REGION_LABELS.items()
    }


def case_affine(spacing_mm: float) -> npt.NDArray[np.float64]:
    """Return the affine of a case: (x, y, z) voxels in LPS to mm in RAS+, the corner where BraTS has it."""
    half = 0.5 * (spacing_mm - 1)  # the centre of the first voxel, mm
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1]).astype(np.float64)
    affine[:3, 3] = -half, FIELD_OF_VIEW_MM[1] - 1 - half, half
    return affine

"""The MNI152 tissue maps as levels: the one anatomy that every phantom's brain is bent from.

The maps (T1 template, grey and white matter, 1 mm, carried by `nilearn`) are turned once into *levels* in mm: distance
to the white-matter surface, depth into a sulcus, depth under the brain's surface, inside the ventricles and inside the
large vessels. Levels survive bending and resampling, and a threshold on them can move.

Source: Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54, 2011 (ICBM 2009a).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import BackendUnavailableError
from scipy import ndimage
from scipy.special import ndtri

from glialite_distill.phantom_fields import sigmoid

__all__ = ["COARSE", "FINE", "ORIGIN_VOXEL", "Template", "load_template", "tentorium_z"]

Array = npt.NDArray[np.float32]

ORIGIN_VOXEL: Final = (72.0, 98.0, 98.0)
"""Voxel of the template, (z, y, x) after turning it to LPS, at MNI (0, 0, 0)."""
FINE: Final = ("sulcus", "white_depth", "white")
COARSE: Final = (
    "hull_depth", "brain_depth", "ventricle_depth", "vessels", "direct", "cerebellum",
    "limbic", "iron", "tract", "plexus",
)  # fmt: skip

_VESSELS: Final = (
    # radius mm, then (|x|, y, z) in mm of MNI; every course is mirrored at the midline
    (1.5, ((12, -2, -18), (12, 1, -13), (24, 2, -14), (36, 4, -12), (41, 2, -4), (43, -12, 4), (46, -28, 16))),
    (1.1, ((36, 4, -12), (38, 14, -2), (36, 10, 10), (42, -4, 14), (48, -18, 22))),
    (0.7, ((12, 1, -13), (4, 8, -12), (2, 22, -8), (2, 36, 2), (3, 36, 16), (3, 22, 28), (3, -5, 36), (3, -30, 36))),
    (1.5, ((0, -26, -44), (0, -20, -30), (0, -17, -19))),
    (1.1, ((0, -17, -19), (10, -17, -17), (19, -28, -12), (20, -40, -4), (16, -58, 0))),
    (1.6, ((17, -18, -8), (18, -30, 0), (8, -38, 8), (0, -42, 6))),  # basal vein
    (1.0, ((2, 0, 16), (2, -15, 16), (2, -30, 12), (0, -42, 6))),  # internal cerebral vein
    (2.2, ((0, -42, 6), (0, -58, -3), (0, -75, -12), (0, -92, -18))),  # straight sinus
)


@dataclass(frozen=True, slots=True)
class Template:
    """The MNI152 maps as levels, axes (z, y, x) in LPS.

    Attributes
    ----------
    fine : array (3, 189, 233, 197) float32
        1 mm: `sulcus` (score, CSF above about 2), `white_depth` (mm outside the white matter), `white` (fraction).
    coarse : array (10, 95, 117, 99) float32
        2 mm: depths under the brain's surface (spanning the sulci, following the gyri), inside the lateral ventricles
        and inside large vessels (mm, positive inside); weights of regions: where grey and white mix (brain stem, deep
        grey, cerebellum), cerebellum, limbic cortex, iron, tracts, plexus.
    """

    fine: Array
    coarse: Array


def _package_maps() -> tuple[Array, Array, Array]:
    package = find_spec("nilearn")  # found, not imported: only its data are needed
    if package is None or package.origin is None:
        raise BackendUnavailableError(
            "phantoms need the MNI152 maps in the package nilearn; install the extra: pip install 'glialite[train]'"
        )
    folder = Path(package.origin).parent / "datasets" / "data"
    paths = [folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise BackendUnavailableError(
            f"the installed nilearn does not carry {', '.join(missing)}; install nilearn 0.12 or later"
        )
    t1, grey, white = map(_read_lps, paths)
    return t1, grey, white


def _read_lps(path: Path) -> Array:
    data = np.asanyarray(nibabel.Nifti1Image.from_filename(path).dataobj)
    return np.ascontiguousarray(data.T[:, ::-1, ::-1], dtype=np.float32) / np.float32(255)


@cache
def load_template() -> Template:
    """Return the template's levels; made on the first call (about 3 s), then kept for the life of the process.

    Raises
    ------
    BackendUnavailableError
        `nilearn`, which carries the maps, is not installed.
    """
    t1, grey, white = _package_maps()
    brain = t1 > 0
    filled = np.where(brain, 255 * t1, np.float32(75))  # outside the brain there is CSF
    valley = ndimage.gaussian_filter(filled, 2.0) - filled
    white_depth = -2.2 * ndtri(np.clip(ndimage.gaussian_filter(white, 1.0), 0.004, 0.996))
    sulcus = (148 - filled) / 12 + valley / 8 + 0.5 * np.clip(white_depth - 2, -3, 3)
    fraction = white / np.maximum(white + grey, 0.05)
    fine = np.stack((sulcus, white_depth, fraction)).astype(np.float32)

    half = (slice(None, None, 2),) * 3
    coarse_brain, dark = brain[half], ((grey + white < 0.5) & (filled < 125))[half]
    z, y, x = _mni_axes(dark.shape, 2.0)
    hull = _signed_depth_mm(_closed(coarse_brain, 7), 2.0)
    ventricle = _lateral_ventricles(dark & (hull > 16), x, y, z)
    depths = (hull, _signed_depth_mm(coarse_brain, 2.0), _signed_depth_mm(ventricle, 2.0))
    vessels = np.maximum(_tubes(z, y, x), _sinuses(hull, z, y, x))
    coarse = np.stack((*depths, vessels, *_region_weights(z, y, x))).astype(np.float32)
    return Template(fine, coarse)


def _mni_axes(shape: tuple[int, ...], step: float) -> tuple[Array, Array, Array]:
    signs = (1.0, -1.0, -1.0)  # indices rise towards superior, posterior, left; MNI towards superior, anterior, right
    z, y, x = (
        (sign * (np.arange(n) * step - origin)).astype(np.float32)
        for n, origin, sign in zip(shape, ORIGIN_VOXEL, signs, strict=True)
    )
    return z[:, None, None], y[:, None], x


def _closed(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Return the mask closed with a ball, in voxels; by distances, which is faster than by a structuring element."""
    padded = np.pad(mask, radius + 1)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius
    inner = (slice(radius + 1, -radius - 1),) * 3
    result: npt.NDArray[np.bool_] = closed[inner] | mask
    return result


def _signed_depth_mm(mask: npt.NDArray[np.bool_], spacing_mm: float) -> Array:
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    return ndimage.gaussian_filter((inside - outside).astype(np.float32) * np.float32(spacing_mm), 0.6)


def _lateral_ventricles(dark: npt.NDArray[np.bool_], x: Array, y: Array, z: Array) -> npt.NDArray[np.bool_]:
    box = (np.abs(x) < 38) & (np.abs(x) > 0.5) & (y > -62) & (y < 45) & (z > -6) & (z < 32)
    tissue, _ = ndimage.label(dark & box)
    seed = np.abs(np.abs(x) - 12) + np.abs(y + 5) + np.abs(z - 22) < 7  # bodies of both lateral ventricles
    found = np.unique(tissue[seed & (tissue > 0)])
    return np.isin(tissue, found[found > 0])


def _blob(z: Array, y: Array, x: Array, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
    """Return a soft ellipsoid mirrored at the midline; `centre` and `radii` are (|x|, y, z) in mm of MNI."""
    parts = zip((np.abs(x), y, z), centre, radii, strict=True)
    square = sum((((axis - middle) / radius) ** 2 for axis, middle, radius in parts), np.float32(0))
    return sigmoid(np.asarray(6 * (1 - np.sqrt(square)), dtype=np.float32))


def _tubes(z: Array, y: Array, x: Array) -> Array:
    """Return radius minus distance to the nearest large vessel, mm; −6 far from all."""
    out = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), -6.0, np.float32)
    axes = [np.abs(x.ravel()), y.ravel(), z.ravel()]
    for radius, course in _VESSELS:
        for begin, end in itertools.pairwise(np.array(course, np.float32)):
            low, high = np.minimum(begin, end) - 8, np.maximum(begin, end) + 8
            ix, iy, iz = (np.flatnonzero((a >= lo) & (a <= hi)) for a, lo, hi in zip(axes, low, high, strict=True))
            points = np.stack(np.meshgrid(axes[2][iz], axes[1][iy], axes[0][ix], indexing="ij"), -1)[..., ::-1] - begin
            way = end - begin
            along = np.clip(points @ way / (way @ way), 0, 1)
            level = radius - np.sqrt(((points - along[..., None] * way) ** 2).sum(-1))
            box = np.ix_(iz, iy, ix)
            out[box] = np.maximum(out[box], level)
    return out


def _sinuses(hull: Array, z: Array, y: Array, x: Array) -> Array:
    """Return the level (mm inside) of the sagittal and transverse sinuses, which follow the brain's surface."""
    sagittal = 4.2 - np.sqrt(x**2 + (hull - 1.0) ** 2)
    sagittal[np.broadcast_to((z < -18) | ((z < 12) & (y > 0)), sagittal.shape)] = -6
    transverse = 2.6 - np.sqrt(0.5 * (z - tentorium_z(y, x)) ** 2 + (hull - 1.5) ** 2)
    transverse[np.broadcast_to((y > -42) | (np.abs(x) > 62), transverse.shape)] = -6
    return np.maximum(np.maximum(sagittal, transverse), -6).astype(np.float32)


def _region_weights(z: Array, y: Array, x: Array) -> tuple[Array, ...]:
    deep = _blob(z, y, x, (12, -5, 4), (22, 34, 20))
    stem = _blob(z, y, x, (0, -28, -35), (17, 18, 40))
    third = np.float32(1 / 3)
    cerebellum = sigmoid((tentorium_z(y, x) - z) * third) * sigmoid((-36 - y) * third)
    limbic = np.maximum.reduce(
        [
            _blob(z, y, x, (38, 3, 0), (7, 22, 18)),  # insula
            _blob(z, y, x, (5, 15, 28), (8, 40, 22)),  # cingulate
            _blob(z, y, x, (26, -18, -18), (10, 22, 10)),  # hippocampus, amygdala
        ]
    )
    iron = np.maximum(_blob(z, y, x, (19, -4, -1), (7, 10, 6)), _blob(z, y, x, (7, -20, -9), (6, 7, 5)))
    tract = np.maximum(_blob(z, y, x, (24, -22, 18), (6, 9, 24)), _blob(z, y, x, (30, -62, 6), (7, 24, 8)))
    plexus = np.maximum(_blob(z, y, x, (22, -38, 8), (8, 10, 12)), _blob(z, y, x, (5, -8, 15), (7, 22, 5)))
    full = np.broadcast_shapes(z.shape, y.shape, x.shape)
    direct = np.maximum.reduce([deep, stem, cerebellum])
    return tuple(np.broadcast_to(weight, full) for weight in (direct, cerebellum, limbic, iron, tract, plexus))


def tentorium_z(y: Array, x: Array) -> Array:
    """Return the height (MNI z, mm) of the tentorium over (y, x): the roof of the cerebellum."""
    knots = np.array([-100.0, -90.0, -70.0, -55.0, -40.0, -30.0], np.float32)
    apex = np.interp(y, knots, np.array([-23.0, -21.0, -13.0, 3.0, 4.0, 0.0]))
    slope = np.interp(y, knots, np.array([0.003, 0.004, 0.010, 0.0133, 0.025, 0.03]))
    return (apex - slope * x * x).astype(np.float32)

"""Four noiseless sequences from tissue fractions: what the scanner would see if it were perfect.

Every tissue gets a value relative to white matter, drawn per patient and sequence; cortex and white matter then vary
apart and by region, and what enhances without being a tumour (sinuses, vessels, meninges, choroid plexus) is painted
on top, because it is what a segmentation mistakes for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.sequences import SEQUENCES

from glialite_distill.anatomy import Anatomy
from glialite_distill.anatomy_template import tentorium_z
from glialite_distill.phantom_fields import Grid, band_field, sigmoid, smooth_field, stream
from glialite_distill.phantom_worlds import TISSUES, PhantomSettings
from glialite_distill.tumour import TumourParts

__all__ = ["Extras", "draw_values", "extras", "paint"]

Array = npt.NDArray[np.float32]

_LEAST_GAP: Final = 0.08
"""Logarithm of core to oedema in the sequence that tells them apart best."""
_UNEVEN: Final[Mapping[str, float]] = {"t1n": 0.05, "t1c": 0.05, "t2w": 0.08, "t2f": 0.1}
"""SD of a core's logarithm by each field of a `TumourParts.mixture` of SD 1."""
_CHALK: Final[Mapping[str, tuple[float, float]]] = {
    "t1n": (-0.4, 0.3), "t1c": (-0.4, 0.3), "t2w": (-1.4, -0.5), "t2f": (-1.2, -0.4),
}  # fmt: skip
"""What calcification adds to the logarithm."""


@dataclass(frozen=True, slots=True)
class Extras:
    """Fractions of what is neither brain nor tumour, each (z, y, x) float32 in 0..1."""

    vessel: Array
    dura: Array
    plexus: Array
    rind: Array
    remnant: Array | None


def draw_values(seed: int, settings: PhantomSettings, *, rimmed: bool = False) -> dict[str, dict[str, float]]:
    """Draw one patient's tissue values: sequence -> tissue -> value relative to white matter.

    `rimmed`: an enhancing rim shows where the core ends, so that what it encloses may look just like oedema.
    """
    rng = stream(seed, "values")
    shared = {tissue: rng.uniform() for tissue in TISSUES}
    values: dict[str, dict[str, float]] = {}
    for sequence in SEQUENCES:
        ranges = settings.contrast[sequence]
        values[sequence] = {}
        for tissue in TISSUES:
            # T1n and T1c come from one scanner and one tissue: their draws go together
            place = 0.75 * shared[tissue] + 0.25 * rng.uniform() if sequence in ("t1n", "t1c") else rng.uniform()
            values[sequence][tissue] = float(np.interp(place, (0, 1), ranges[tissue]))
    if settings.tumour.alike:
        enclosed = settings.tumour.enclosed if rimmed else 0.0
        _liken(stream(seed, "alike"), values, settings.tumour.alike, enclosed)
    return values


def _liken(rng: np.random.Generator, values: dict[str, dict[str, float]], share: float, enclosed: float) -> None:
    """Draw a share of the cores about as bright as oedema, and of the `enclosed` ones just as bright in all sequences.

    Every other core stays apart from oedema in one sequence at least: nothing else would show where it ends.
    """
    alike, darker = rng.uniform() < share, rng.uniform(-0.08, 0.4)
    for sequence, brighter in zip(SEQUENCES, rng.uniform((0, 0, -0.15, -0.2), (0, 0, 0.3, 0.25)), strict=True):
        if alike:
            place = brighter if sequence in ("t2w", "t2f") else -darker
            values[sequence]["solid"] = values[sequence]["oedema"] * float(np.exp(place))
    if rng.uniform() < enclosed:
        for sequence in SEQUENCES:
            for tissue in ("solid", "fluid"):
                values[sequence][tissue] = values[sequence]["oedema"] * float(np.exp(rng.normal(0, 0.06)))
        return
    gaps = [abs(np.log(values[s]["solid"] / values[s]["oedema"])) for s in ("t1n", "t2w", "t2f")]
    if max(gaps) < _LEAST_GAP:
        for sequence in ("t1n", "t1c"):
            values[sequence]["solid"] = values[sequence]["oedema"] * (1 - _LEAST_GAP)


def extras(seed: int, anatomy: Anatomy, grid: Grid, remnant_mm: float = 0.0) -> Extras:
    """Lay vessels, sinuses, meninges and choroid plexus through one patient's brain; `remnant_mm` of muscle and fat."""
    rng = stream(seed, "extras")
    sup, ant, right = anatomy.mni
    depth = anatomy.surface_depth
    narrow = np.float32(1 / max(0.7, 0.6 * grid.spacing_mm))
    strength = rng.uniform((0.5, 0.55, 0.4, 0.4), 1.0).astype(np.float32)
    roof = tentorium_z(ant, right)
    aside = np.abs(right)
    calibre = np.float32(rng.uniform(-0.6, 0.8)) + np.float32(0.5) * smooth_field(rng, grid, 12.0)
    vessel = strength[0] * sigmoid(2 * narrow * (anatomy.vessels + calibre))

    # surface vessels: the crossing lines of two random sheets, kept where there is CSF beside cortex
    scale_mm = rng.uniform(4.0, 6.5)
    first, second = smooth_field(rng, grid, scale_mm), smooth_field(rng, grid, scale_mm)
    tube = np.exp(-np.float32(0.5) * (first**2 + second**2) / np.float32(rng.uniform(0.2, 0.4) ** 2))
    near = sigmoid((anatomy.csf - np.float32(0.14)) * 24) * sigmoid(-anatomy.ventricle_depth - 4)
    np.maximum(vessel, strength[1] * tube * near, out=vessel)

    falx_depth = np.interp(ant, (-70, 50), (38, 14)).astype(np.float32)
    falx = sigmoid(2 * narrow * (np.float32(rng.uniform(0.6, 1.3)) - aside))
    falx *= sigmoid((falx_depth - depth) / 2) * (sup > -15)
    thickness = np.float32(max(1.2, 0.8 * grid.spacing_mm))
    gap = np.exp(-(((sup - roof) / thickness) ** 2)) * sigmoid((-28 - ant) / 2)
    tentorium = gap * sigmoid((anatomy.csf - np.float32(0.4)) * 8)
    patchy = sigmoid(4 * (band_field(rng, grid, (24.0, 6.0)) - np.float32(rng.uniform(-0.1, 1.6))))
    skin = sigmoid(2 * narrow * (np.float32(1.2) - depth)) * patchy
    falx *= sigmoid(3 * smooth_field(rng, grid, 12.0) + np.float32(rng.uniform(0, 4)))
    tentorium *= sigmoid(3 * smooth_field(rng, grid, 12.0))
    sheets = np.maximum(falx * anatomy.csf ** np.float32(0.3), tentorium)
    dura = np.maximum(strength[2] * sheets, strength[3] * skin * anatomy.csf)

    tufts = np.float32(rng.uniform(0.4, 1)) * sigmoid(4 * (band_field(rng, grid, (7.0, 3.5)) - np.float32(0.7)))
    plexus = anatomy.plexus * sigmoid(narrow * anatomy.ventricle_depth) * tufts
    # what a skull stripper leaves of skull and dura: a dark, uneven rim in every sequence
    left = sigmoid(3 * (band_field(rng, grid, (20.0, 6.0)) + np.float32(rng.uniform(0.0, 2.0))))
    rind = left * sigmoid(2 * narrow * (np.float32(rng.uniform(0.3, 2.4)) - depth))
    rind *= np.maximum(sigmoid((anatomy.csf - np.float32(0.3)) * 10), np.float32(rng.uniform(0, 1)))
    remnant = None
    if remnant_mm > 0:
        rng = stream(seed, "remnant")
        where = sigmoid(6 * (band_field(rng, grid, (22.0, 7.0)) - np.float32(rng.uniform(0.6, 1.8))))
        remnant = where * sigmoid(2 * narrow * (np.float32(remnant_mm) - depth))
    return Extras(vessel, dura * (1 - vessel), plexus, rind, remnant)


def paint(
    seed: int,
    values: Mapping[str, Mapping[str, float]],
    anatomy: Anatomy,
    beside: Extras,
    parts: TumourParts | None,
    grid: Grid,
) -> Array:
    """Return the four noiseless sequences, (4, z, y, x) float32, white matter at about 1.

    Parameters
    ----------
    seed : int
        Seed of the regional variation.
    values : mapping
        From `draw_values`.
    anatomy, beside, parts
        The layers, all on `grid`; `parts` is None for a brain without a tumour.
    """
    rng = stream(seed, "paint")
    white_region, grey_region = smooth_field(rng, grid, 45.0), smooth_field(rng, grid, 25.0)
    texture = band_field(rng, grid, (7.0, 2.8), 1.0)
    mottle = smooth_field(rng, grid, 3.0)
    caps = _caps(rng, anatomy, grid)
    loads = _loads(seed)
    left = stream(seed, "remnant values").uniform((0.7, 0.7, 0.5, 0.5), (2.2, 2.4, 2.2, 1.8)).astype(np.float32)
    out = np.empty((len(SEQUENCES), *grid.shape), np.float32)
    for channel, sequence in enumerate(SEQUENCES):
        v = values[sequence]
        white_sd, grey_sd, limbic = rng.uniform(0.01, 0.05), rng.uniform(0.02, 0.07), rng.uniform(0, 0.22)
        grey = np.float32(v["grey"]) + anatomy.direct * np.float32(v["deep"] - v["grey"])
        grey *= 1 + np.float32(grey_sd) * grey_region
        image = anatomy.white * (1 + np.float32(white_sd) * white_region)
        if sequence == "t2f":
            grey += np.float32(limbic) * anatomy.limbic
            image *= 1 + np.float32(rng.uniform(0.05, 0.25)) * anatomy.tract
        if sequence in ("t2w", "t2f"):
            grey *= 1 - np.float32(rng.uniform(0.05, 0.35)) * anatomy.iron
            image *= 1 + np.float32(rng.uniform(0.2, 1.0)) * caps
        image += anatomy.grey * grey
        image *= 1 + np.float32(rng.uniform(0.0, 0.025)) * mottle
        image += anatomy.csf * np.float32(v["csf"])
        image -= beside.rind * np.float32(rng.uniform(0.4, 0.9)) * image
        if parts is not None:
            _paint_tumour(image, v, parts, texture, sequence, loads[channel])
        for amount, tissue in ((beside.plexus, "plexus"), (beside.dura, "dura"), (beside.vessel, "vessel")):
            image += amount * (np.float32(v[tissue]) - image)
        if beside.remnant is not None:
            image += beside.remnant * (left[channel] - image)
        out[channel] = image
    return out


def _loads(seed: int) -> Array:
    """Draw how each field of a mixture acts on each sequence: (sequences, fields) logarithms; T1n and T1c agree."""
    rng = stream(seed, "loads")
    loads = rng.normal(0, np.array([_UNEVEN[s] for s in SEQUENCES])[:, None], (len(SEQUENCES), 3))
    chalk = rng.uniform(*np.transpose([_CHALK[s] for s in SEQUENCES]))[:, None]
    out = np.hstack((loads, chalk)).astype(np.float32)
    out[1] = out[0] + np.float32(0.3) * out[1] * (np.arange(4) < 3)
    return out


def _caps(rng: np.random.Generator, anatomy: Anatomy, grid: Grid) -> Array:
    """Return the bright rim of white matter at the ventricles and small spots of ageing, 0..1."""
    reach = np.float32(rng.uniform(1.5, 4.5))
    away = np.maximum(-anatomy.ventricle_depth, 0)
    caps = np.exp(-away / reach) * sigmoid(2 * smooth_field(rng, grid, 18.0))
    spots = sigmoid(8 * (smooth_field(rng, grid, 5.0) - np.float32(rng.uniform(2.2, 4.0)))) * np.exp(-away / 14)
    caps = np.maximum(caps, spots)
    caps *= anatomy.white
    return caps


def _paint_tumour(
    image: Array, v: Mapping[str, float], parts: TumourParts, texture: Array, sequence: str, loads: Array
) -> None:
    """Mix the tumour into `image` in place; `loads` are the sequence's row of `_loads`."""
    swollen = np.float32(v["oedema"]) * (1 + np.float32(0.05) * texture)
    swollen = swollen * parts.water + (1 - parts.water)
    if len(parts.mixture):  # oedema is uneven too, but less
        swollen *= np.exp(np.float32(0.5) * np.tensordot(loads[:3], parts.mixture[:3], 1))
    image += parts.oedema * (swollen - image)
    inside = np.float32(v["solid"]) + np.zeros_like(image)
    share = parts.fluid / np.maximum(parts.core, 1e-3)
    inside += share * (np.float32(v["fluid"]) - inside)
    inside *= np.exp(np.tensordot(loads, parts.mixture, 1)) if len(parts.mixture) else 1 + np.float32(0.10) * texture
    share = parts.enhancing / np.maximum(parts.core, 1e-3) * parts.strength
    rough = 1 + np.float32(0.2 if sequence == "t1c" else 0.1) * texture
    inside += share * (np.float32(v["enhancing"]) * rough - inside)
    image += parts.core * (inside - image)
    image += parts.blood * (np.float32(v["blood"]) - image) * np.float32(0.8)

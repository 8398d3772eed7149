"""The ranges that phantoms are drawn from: worlds (`default`, `other`, `shifted`, `wide`) in two styles (`gli`, `ssa`).

Tissue values are relative to normal white matter of the same sequence. A range is (lowest, highest), drawn uniformly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from glialite_runtime.errors import ConfigError

__all__ = [
    "NOISE",
    "STYLES",
    "TISSUES",
    "WORLDS",
    "AnatomyRanges",
    "PhantomSettings",
    "Range",
    "ScannerRanges",
    "TumourRanges",
    "settings_for",
]

Range = tuple[float, float]
Style = Literal["gli", "ssa"]
World = Literal["default", "other", "shifted", "wide"]

STYLES: Final = ("gli", "ssa")
WORLDS: Final = ("default", "other", "shifted", "wide")

TISSUES: Final = (
    "grey", "deep", "csf", "oedema", "solid", "fluid", "enhancing", "blood", "vessel", "dura", "plexus",
)  # fmt: skip
"""Keys of a sequence's tissue values; white matter is 1."""


NOISE: Final[Mapping[str, float]] = {"t1n": 0.8, "t1c": 1.0, "t2w": 3.0, "t2f": 1.5}


@dataclass(frozen=True, slots=True)
class AnatomyRanges:
    """How one brain differs from the next (see `anatomy.Body`); mm but for ratios.

    `remnant_mm` is the thickness of what a skull stripper leaves of muscle and fat: brighter than brain, in patches.
    """

    scale: Range = (0.88, 0.97)
    stretch: float = 0.03
    tilt_deg: float = 2.5
    shear: float = 0.015
    bend_long_mm: Range = (1.2, 2.8)
    bend_short_mm: Range = (0.8, 1.6)
    sulcus_threshold: Range = (2.1, 4.6)
    ventricle_mm: Range = (-0.5, 4.5)
    fold: Range = (0.6, 1.4)
    surface_mm: Range = (-2.0, 1.3)
    bend_whole_mm: Range = (0.0, 0.0)
    cortex_mm: Range = (0.0, 0.0)
    remnant_mm: Range = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class TumourRanges:
    """What grows, how large, and how its parts are arranged; shares are probabilities.

    Attributes
    ----------
    absent : float
        Share of brains without a tumour.
    kinds : mapping of kind to weight
        ring, solid, patchy, cystic, nodular (all enhancing) and diffuse (no enhancement).
    core_ml, oedema_ratio : Range
        Volume of the core and oedema per core volume, both drawn log-uniformly.
    diffuse_ml : Range or None
        Volume of the core of diffuse tumours; None as that of the others.
    diffuse_oedema : Range
        Oedema per core volume of diffuse tumours, drawn uniformly.
    multifocal, satellites, bleeding : float
        Shares of enhancing tumours with a second focus, with satellites, with blood products.
    rim_mm, rim_break : Range
        Thickness of the enhancing rim; how much of it is missing (0 none, 1 about half).
    roughness : Range
        SD of the growth speed's logarithm.
    push, reach : Range
        Mass effect: displacement per radius of the core; how far it reaches, in such radii.
    faint : Range
        How much weaker the weakest part of the rim enhances than the strongest.
    mixed : Range
        How uneven the core is inside: 0 is one tissue and fluid, 1 as uneven as real ones.
    calcified : float
        Share of uneven cores with calcification.
    alike : float
        Share of cores that are about as bright as oedema in T2w and FLAIR: told apart by T1, texture and border.
    enclosed : float
        Share of cores within an enhancing rim that are just as bright as oedema in all sequences: the rim alone tells.
    one_sided : Range
        How much faster oedema spreads to one side of the core: 0 alike, 1 e² times as fast as to the other side.
    water : Range
        How unevenly oedema holds water, which moves all sequences together: SD of its contrast's logarithm.
    grain : Range
        How unevenly the core enhances within millimetres: SD of the enhancement's logarithm.
    """

    absent: float = 0.08
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {"ring": 0.42, "solid": 0.14, "patchy": 0.14, "cystic": 0.08, "diffuse": 0.22}
    )
    core_ml: Range = (2.5, 110.0)
    oedema_ratio: Range = (0.5, 6.0)
    multifocal: float = 0.12
    satellites: float = 0.18
    bleeding: float = 0.2
    rim_mm: Range = (1.6, 6.0)
    rim_break: Range = (0.0, 0.9)
    roughness: Range = (0.25, 0.55)
    push: Range = (0.05, 0.4)
    diffuse_ml: Range | None = None
    diffuse_oedema: Range = (0.3, 1.6)
    reach: Range = (0.7, 0.7)
    faint: Range = (0.0, 0.0)
    mixed: Range = (0.0, 0.0)
    calcified: float = 0.0
    alike: float = 0.0
    enclosed: float = 0.0
    one_sided: Range = (0.0, 0.0)
    water: Range = (0.0, 0.0)
    grain: Range = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ScannerRanges:
    """What scanner and resampling do to a sequence.

    Attributes
    ----------
    noise : Range
        SD of the noise in each of the two receiver channels, relative to white matter in T1c; the other sequences
        have `NOISE` times as much, because white matter is darker there.
    blur_mm : Range
        SD of the Gaussian point spread in all directions.
    slice_mm : Range
        Thickness of the slices that the scan was resampled from; 1 means isotropic.
    thick : float
        Share of sequences that are thick (the others are isotropic).
    coil, bias : Range
        Rise of the sensitivity from the middle to the surface; SD of the slowly varying gain's logarithm.
    saturation : float
        Share of sequences with a compressed bright end.
    gamma : Range
        Exponent of the grey values, drawn log-uniformly for each sequence.
    shift_mm, turn_deg : float
        SD of what a sequence is off the others along and about each axis: registration that did not quite succeed.
    cut : float
        Share of patients whose scan ends within the brain.
    overshoot : Range
        What splines overshoot by where a brain stripped of its skull was resampled; below 0: it was not.
    """

    noise: Range = (0.012, 0.05)
    blur_mm: Range = (0.3, 0.7)
    slice_mm: Range = (1.5, 5.0)
    thick: float = 0.55
    coil: Range = (0.0, 0.35)
    bias: Range = (0.02, 0.09)
    saturation: float = 0.15
    gamma: Range = (1.0, 1.0)
    shift_mm: float = 0.0
    turn_deg: float = 0.0
    cut: float = 0.0
    overshoot: Range = (0.0, 0.0)


_CONTRAST: Final[Mapping[str, Mapping[str, Range]]] = {
    "t1n": {
        "grey": (0.66, 0.92), "deep": (0.80, 0.95), "csf": (0.28, 0.66), "oedema": (0.62, 0.92), "solid": (0.50, 0.98),
        "fluid": (0.32, 0.85), "enhancing": (0.60, 0.98), "blood": (1.05, 1.5), "vessel": (0.45, 1.3),
        "dura": (0.5, 0.9), "plexus": (0.6, 0.9),
    },
    "t1c": {
        "grey": (0.70, 0.95), "deep": (0.82, 0.98), "csf": (0.30, 0.62), "oedema": (0.62, 0.90), "solid": (0.50, 1.00),
        "fluid": (0.32, 0.85), "enhancing": (1.1, 2.1), "blood": (1.05, 1.5), "vessel": (1.4, 3.2),
        "dura": (1.2, 2.6), "plexus": (1.2, 2.4),
    },
    "t2w": {
        "grey": (1.15, 1.5), "deep": (1.05, 1.3), "csf": (2.8, 5.5), "oedema": (1.7, 2.8), "solid": (1.6, 2.9),
        "fluid": (2.2, 4.4), "enhancing": (1.3, 2.3), "blood": (0.6, 1.4), "vessel": (0.35, 1.0),
        "dura": (0.4, 1.0), "plexus": (1.6, 2.8),
    },
    "t2f": {
        "grey": (1.0, 1.4), "deep": (0.95, 1.2), "csf": (0.15, 0.55), "oedema": (1.4, 2.5), "solid": (1.1, 2.2),
        "fluid": (0.5, 2.4), "enhancing": (1.2, 2.2), "blood": (0.6, 1.6), "vessel": (0.35, 0.9),
        "dura": (0.5, 1.3), "plexus": (0.9, 1.7),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PhantomSettings:
    """Everything that a phantom is drawn from.

    Attributes
    ----------
    style : {'gli', 'ssa'}
        Clean 1 mm scans of a large centre, or low-field thick-slice ones.
    spacing_mm : float
        Edge of a voxel, 1 to 2 mm: 240×240×155 voxels at 1 mm, 160×160×104 at 1.5, 120×120×78 at 2; the same patients.
    world : {'default', 'other', 'shifted', 'wide'}
        Name of the ranges below, for the record.
    """

    style: str = "gli"
    spacing_mm: float = 1.0
    world: str = "default"
    anatomy: AnatomyRanges = field(default_factory=AnatomyRanges)
    tumour: TumourRanges = field(default_factory=TumourRanges)
    scanner: ScannerRanges = field(default_factory=ScannerRanges)
    contrast: Mapping[str, Mapping[str, Range]] = field(default_factory=lambda: dict(_CONTRAST))


_SSA: Final = ScannerRanges(
    noise=(0.02, 0.06), blur_mm=(0.5, 1.1), slice_mm=(3.0, 6.0), thick=0.95, coil=(0.1, 0.5), bias=(0.05, 0.15),
    saturation=0.3,
)  # fmt: skip


def _flatter(contrast: Mapping[str, Mapping[str, Range]], share: float) -> dict[str, Mapping[str, Range]]:
    """Move every tissue value towards white matter by `share`: the lower contrast of a low field."""
    return {
        sequence: {
            tissue: (1 + (low - 1) * (1 - share), 1 + (high - 1) * (1 - share)) for tissue, (low, high) in t.items()
        }
        for sequence, t in contrast.items()
    }


def _other(settings: PhantomSettings) -> PhantomSettings:
    """Return another hospital: older brains, other scanners and other tumours, contrasts mostly within training's."""
    contrast = {s: dict(t) for s, t in settings.contrast.items()}
    for sequence, tissue, low, high in (
        ("t1n", "grey", 0.62, 0.86), ("t1c", "grey", 0.66, 0.90), ("t1c", "enhancing", 1.2, 2.4),
        ("t2w", "csf", 2.5, 4.6), ("t2w", "oedema", 1.8, 3.1), ("t2f", "oedema", 1.5, 2.7), ("t2f", "grey", 1.0, 1.3),
    ):  # fmt: skip
        contrast[sequence][tissue] = (low, high)
    scanner = settings.scanner
    return replace(
        settings,
        world="other",
        contrast=contrast,
        anatomy=replace(settings.anatomy, stretch=0.05, ventricle_mm=(0.5, 6.0), fold=(0.8, 1.6)),
        scanner=replace(
            scanner,
            noise=(scanner.noise[0] * 1.2, scanner.noise[1] * 1.2),
            slice_mm=(1.5, 4.0),
            thick=0.8,
            bias=(0.04, 0.11),
            coil=(0.1, 0.42),
        ),
        tumour=replace(
            settings.tumour,
            kinds={"ring": 0.5, "solid": 0.2, "patchy": 0.12, "cystic": 0.1, "diffuse": 0.08},
            core_ml=(5.0, 80.0), oedema_ratio=(0.8, 4.0), rim_mm=(2.0, 7.0), roughness=(0.2, 0.5), multifocal=0.2,
        ),
    )  # fmt: skip


def _shifted(settings: PhantomSettings) -> PhantomSettings:
    """Return ranges that training never sees: other contrasts, gains, noise and shapes of tumours; a stress test."""
    contrast = {s: dict(t) for s, t in settings.contrast.items()}
    for sequence, tissue, low, high in (
        ("t1n", "grey", 0.60, 0.72), ("t1c", "grey", 0.62, 0.76), ("t1c", "enhancing", 1.05, 1.7),
        ("t2w", "csf", 2.3, 3.4), ("t2w", "oedema", 1.45, 2.0), ("t2f", "oedema", 1.35, 2.0),
        ("t2f", "grey", 1.3, 1.65), ("t2f", "fluid", 0.4, 1.3), ("t1c", "vessel", 2.2, 3.8),
    ):  # fmt: skip
        contrast[sequence][tissue] = (low, high)
    scanner, tumour = settings.scanner, settings.tumour
    return replace(
        settings,
        world="shifted",
        contrast=contrast,
        anatomy=replace(settings.anatomy, bend_long_mm=(2.6, 4.2), ventricle_mm=(1.0, 6.0), fold=(1.1, 1.7)),
        scanner=replace(
            scanner,
            noise=(scanner.noise[0] * 1.5, scanner.noise[1] * 1.5),
            bias=(scanner.bias[1], scanner.bias[1] * 1.6),
            coil=(scanner.coil[1] * 0.6, scanner.coil[1] * 1.4),
        ),
        tumour=replace(
            tumour,
            kinds={"ring": 0.3, "solid": 0.2, "patchy": 0.25, "cystic": 0.1, "diffuse": 0.15},
            core_ml=(1.0, 60.0), roughness=(0.45, 0.75), rim_mm=(1.2, 4.0), rim_break=(0.3, 1.1), multifocal=0.25,
        ),
    )  # fmt: skip


def _wider(low: float, high: float, margin: float) -> Range:
    """Return a range of relative tissue values that reaches farther to both sides, by a share of what it spans."""
    more = margin * (high - low)
    return max(0.1, low - more), high + more


def _wide(settings: PhantomSettings) -> PhantomSettings:
    """Return ranges to train on for scans of any hospital: all that the other worlds have and more."""
    scanner, tumour = settings.scanner, settings.tumour
    contrast = {
        sequence: {tissue: _wider(*bounds, 0.2) for tissue, bounds in tissues.items()}
        for sequence, tissues in settings.contrast.items()
    }
    for sequence in ("t2w", "t2f"):  # a rim may be no brighter than cortex there
        contrast[sequence]["enhancing"] = (0.95, contrast[sequence]["enhancing"][1])
    return replace(
        settings,
        world="wide",
        contrast=contrast,
        anatomy=replace(
            settings.anatomy, scale=(0.85, 1.0), stretch=0.06, tilt_deg=4.0, shear=0.025, bend_long_mm=(1.2, 4.5),
            bend_short_mm=(0.8, 2.0), sulcus_threshold=(1.5, 4.8), ventricle_mm=(-2.0, 8.0), fold=(0.6, 1.7),
            surface_mm=(-2.5, 2.5), bend_whole_mm=(0.0, 4.0), cortex_mm=(-0.7, 0.9), remnant_mm=(-3.0, 2.5),
        ),
        scanner=replace(
            scanner,
            noise=(scanner.noise[0] * 0.7, scanner.noise[1] * 1.3),
            blur_mm=(scanner.blur_mm[0] - 0.1, scanner.blur_mm[1] + 0.2),
            coil=(0.0, 0.5),
            bias=(0.02, 0.13),
            saturation=0.25,
            gamma=(0.7, 1.4),
            shift_mm=0.7,
            turn_deg=0.5,
            cut=0.12,
            overshoot=(-0.6, 0.6),
        ),
        tumour=replace(
            tumour, core_ml=(1.0, 130.0), oedema_ratio=(0.3, 6.0), multifocal=0.15, rim_mm=(0.7, 4.5),
            kinds={"ring": 0.5, "solid": 0.1, "patchy": 0.06, "cystic": 0.1, "nodular": 0.03, "diffuse": 0.21},
            rim_break=(0.0, 0.8), roughness=(0.2, 0.65), push=(0.0, 0.5), reach=(0.6, 1.2), diffuse_ml=(4.0, 150.0),
            absent=0.12, diffuse_oedema=(0.0, 2.2), faint=(0.0, 0.8), mixed=(0.0, 1.3), calcified=0.15, alike=0.45,
            enclosed=0.45, one_sided=(0.0, 3.0), water=(0.0, 0.5), grain=(0.1, 0.8),
        ),
    )  # fmt: skip


def settings_for(world: str = "default", style: str = "gli", *, spacing_mm: float = 1.0) -> PhantomSettings:
    """Return the ranges of a world and a style.

    Raises
    ------
    ConfigError
        The world or the style is unknown, or the spacing is not within 1 to 2 mm.
    """
    problems = []
    if world not in WORLDS:
        problems.append(f"unknown world {world!r}; known: {', '.join(WORLDS)}")
    if style not in STYLES:
        problems.append(f"unknown style {style!r}; known: {', '.join(STYLES)}")
    if not 1 <= spacing_mm <= 2:
        problems.append(f"spacing must be 1 to 2 mm, not {spacing_mm}")
    if problems:
        raise ConfigError("; ".join(problems))
    settings = PhantomSettings(style=style, spacing_mm=float(spacing_mm))
    if style == "ssa":
        larger = replace(settings.tumour, core_ml=(4.0, 140.0))
        settings = replace(settings, scanner=_SSA, tumour=larger, contrast=_flatter(_CONTRAST, 0.2))
    return {"default": _same, "other": _other, "shifted": _shifted, "wide": _wide}[world](settings)


def _same(settings: PhantomSettings) -> PhantomSettings:
    return settings

"""What each BraTS challenge counts as a lesion: the constants of the lesion-wise scores.

Source: github.com/rachitsaluja/BraTS-2023-Metrics and BraTS-2024-Metrics, which the challenges score with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from glialite_runtime.errors import ConfigError

__all__ = ["DEFINITIONS", "Definition", "definition_of"]


@dataclass(frozen=True, slots=True)
class Definition:
    """What a challenge counts as a lesion.

    Attributes
    ----------
    dilation : int
        Steps of dilation (18 neighbours) that join components into a lesion, and within which a prediction hits it.
    ignored : mapping of str to int
        Region, and NETC -> lesions of so many voxels or fewer do not count (mm³ in the reference: the same at 1 mm).
    penalty_mm : float or None
        HD95 of a missed or invented lesion; None is the image's diagonal in voxels (374 is about that of 240×240×155,
        337 that of 182×218×182, which GLI 2024 uses).
    joins_prediction : bool
        2024: predicted components are joined as the reference's are, then those of `ignored` size are dropped, before
        any score is computed. Sensitivity and specificity then compare the lesions' numbers instead of voxels, and
        the whole-image HD95 takes them for intensities: upstream's slips, kept so that the table is the official one.
    netc_dilation : int or None
        2024: ET lesions that touch the same NETC lesion are one; the steps that join NETC. None: ET stands alone.
    """

    dilation: int
    ignored: Mapping[str, int]
    penalty_mm: float | None = 374.0
    joins_prediction: bool = False
    netc_dilation: int | None = None


def _all(voxels: int) -> Mapping[str, int]:
    return MappingProxyType(dict.fromkeys(("ET", "TC", "WT", "NETC"), voxels))


DEFINITIONS: Final[Mapping[str, Mapping[str, Definition]]] = MappingProxyType(
    {
        "brats-2023": MappingProxyType(
            {
                "ssa": Definition(3, _all(50)),
                "gli": Definition(3, _all(50)),
                "ped": Definition(3, _all(50)),
                "met": Definition(1, _all(2)),
            }
        ),
        "brats-2024": MappingProxyType(
            {
                "ssa": Definition(3, _all(50), 374.0, True, 3),
                "gli": Definition(3, MappingProxyType({**_all(20), "ET": 10}), 337.0, True, 5),
                "ped": Definition(5, _all(10), 374.0, True),
                "met": Definition(1, _all(2), None, True, 1),
            }
        ),
    }
)
"""Metric -> challenge -> what it counts."""


def definition_of(metric: str, challenge: str) -> Definition:
    """Return what a challenge counts; `ConfigError` where metric or challenge is unknown."""
    if metric not in DEFINITIONS:
        raise ConfigError(f"unknown lesion-wise metric {metric!r}; known: {', '.join(DEFINITIONS)}")
    if challenge not in DEFINITIONS[metric]:
        raise ConfigError(f"unknown challenge {challenge!r}; known: {', '.join(DEFINITIONS[metric])}")
    return DEFINITIONS[metric][challenge]

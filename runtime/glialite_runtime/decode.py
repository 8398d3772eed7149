"""From logits to labels: thresholds, hierarchy and smallest components, the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import ConfigError
from glialite_runtime.preprocess import bounding_box
from glialite_runtime.sequences import ET, NETC, REGIONS, SNFH

__all__ = ["DecisionRule", "components", "decode", "decode_above", "within_rim"]


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """How logits become labels; every tuple is in the order of `REGIONS`.

    Attributes
    ----------
    thresholds : tuple of float
        Probability, in (0, 1), above which a voxel belongs to the region.
    minimum_mm3 : tuple of float
        Smallest 26-connected component, in mm³, that is kept.
    temperature : float
        Logits are divided by it before they are read as probabilities; > 0.
    rim_share : float
        Share of the core, in [0, 1], that must lie within an enhancing rim for the rest to be dropped: `within_rim`.
    """

    thresholds: tuple[float, float, float] = (0.5, 0.5, 0.5)
    minimum_mm3: tuple[float, float, float] = (0.0, 0.0, 0.0)
    temperature: float = 1.0
    rim_share: float = 1.0
    logit_thresholds: tuple[float, float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problems = [f"threshold {t} is not in (0, 1)" for t in self.thresholds if not 0 < t < 1]
        problems += [
            f"minimum size {m} mm³ is negative or not finite" for m in self.minimum_mm3 if not 0 <= m < math.inf
        ]
        if len(self.thresholds) != len(REGIONS) or len(self.minimum_mm3) != len(REGIONS):
            problems.append(f"one threshold and one minimum size for each of {', '.join(REGIONS)} are needed")
        if not 0 < self.temperature < math.inf:
            problems.append(f"temperature {self.temperature} is not positive and finite")
        if not 0 <= self.rim_share <= 1:
            problems.append(f"rim share {self.rim_share} is not in [0, 1]")
        if problems:
            raise ConfigError("decision rule: " + "; ".join(problems))
        wt, tc, et = (self.temperature * math.log(t / (1 - t)) for t in self.thresholds)
        object.__setattr__(self, "logit_thresholds", (wt, tc, et))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the rule that `to_json` gave; files from before `rim_share` have none."""
        thresholds, minimum_mm3 = tuple(value["thresholds"]), tuple(value["minimum_mm3"])
        return cls(thresholds, minimum_mm3, float(value["temperature"]), float(value.get("rim_share", 1.0)))

    def to_json(self) -> dict[str, Any]:
        """Return what was given; the limits on logits follow from it."""
        return {name: value for name, value in asdict(self).items() if name != "logit_thresholds"}


def components(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.integer], int]:
    """Label the 26-connected components of a mask (z, y, x): 0 outside, 1 to the returned count inside."""
    import cc3d  # noqa: PLC0415 - 0.1 s that a command which only prints help need not pay

    labelled, count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26, return_N=True)
    return labelled, int(count)


def _without_small(mask: npt.NDArray[np.bool_], minimum_voxels: float) -> npt.NDArray[np.bool_]:
    if minimum_voxels <= 1 or not mask.any():
        return mask
    labelled, _ = components(mask)
    keep = np.bincount(labelled.ravel()) >= minimum_voxels
    keep[0] = False
    return keep[labelled]


def within_rim(
    core: npt.NDArray[np.bool_], enhancing: npt.NDArray[np.bool_], rim_share: float
) -> npt.NDArray[np.bool_]:
    """Return the core without what lies outside the enhancing rim, if there is such a rim.

    Necrosis lies within the rim around it, and oedema that looks like it does not. A voxel lies within when one
    26-connected piece of enhancement has voxels on both sides of it along x, y or z, however far; enhancing voxels do
    themselves. Where less than `rim_share` of the core does, as in tumours that enhance in spots or not at all, the
    core comes back as it is.

    Parameters
    ----------
    core, enhancing : bool array (z, y, x)
        Masks of TC and ET; ET ⊆ TC.
    rim_share : float
        In [0, 1]; 1 never takes anything away.
    """
    if rim_share >= 1 or not enhancing.any():
        return core
    import cc3d  # noqa: PLC0415

    z, y, x = (slice(a, b) for a, b in zip(*bounding_box(enhancing), strict=True))
    around = z, y, x
    labelled, count = components(enhancing[around])
    boxes = cc3d.statistics(labelled)["bounding_boxes"]
    within = np.zeros(labelled.shape, np.bool_)
    for piece in range(1, count + 1):
        box = boxes[piece]
        rim = labelled[box] == piece
        for axis in range(3):
            before = np.logical_or.accumulate(rim, axis)
            after = np.flip(np.logical_or.accumulate(np.flip(rim, axis), axis), axis)
            within[box] |= before & after
    within &= core[around]
    if np.count_nonzero(within) < rim_share * np.count_nonzero(core):
        return core
    kept = np.zeros_like(core)
    kept[around] = within
    return kept


def decode(
    logits: npt.NDArray[np.float32], rule: DecisionRule, voxel_mm3: float, *, has_t1c: bool = True
) -> npt.NDArray[np.uint8]:
    """Turn logits into a label map.

    Thresholds are applied in logit space, so that no `exp` stands between the network and a label. ET is united into
    TC and TC into WT; components under the minimum size are removed from WT, then ET, then TC, inner regions being cut
    to outer ones; removed ET becomes NETC, removed TC becomes SNFH, as does core outside a rim (`within_rim`).

    Parameters
    ----------
    logits : float32 array (3, z, y, x)
        Regions as in `REGIONS`.
    rule : DecisionRule
        Thresholds and minimum sizes.
    voxel_mm3 : float
        Volume of a voxel in mm³.
    has_t1c : bool
        Without a contrast-enhanced sequence only 0 and 2 (SNFH, here the whole tumour) are told apart.

    Returns
    -------
    uint8 array (z, y, x)
        BraTS-2023 label values; ET ⊆ TC ⊆ WT.
    """
    above = np.stack([logits[i] > np.float32(t) for i, t in enumerate(rule.logit_thresholds)])
    return decode_above(above, rule, voxel_mm3, has_t1c=has_t1c)


def decode_above(
    above: npt.NDArray[np.bool_], rule: DecisionRule, voxel_mm3: float, *, has_t1c: bool = True
) -> npt.NDArray[np.uint8]:
    """Turn what is above the thresholds, bool (3, z, y, x), into a label map; see `decode`."""
    wt, tc, et = above
    if not has_t1c:
        tc, et = np.zeros_like(tc), np.zeros_like(et)
    tc = tc | et
    wt = wt | tc
    minimum = [m / voxel_mm3 for m in rule.minimum_mm3]
    wt = _without_small(wt, minimum[0])
    et = _without_small(et & wt, minimum[2])
    tc = _without_small(within_rim(tc & wt, et, rule.rim_share), minimum[1])
    et = et & tc
    labels = np.zeros(wt.shape, np.uint8)
    labels[wt] = SNFH
    labels[tc] = NETC
    labels[et] = ET
    return labels

"""The parity gate: after every hop the new graph must do what the one before it did, or nothing ships.

The limits stand in `LIMITS`, fixed before anything was measured. A hop that breaks one is a `ParityError` with the
whole report; there is no way to lower a limit from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import ParityError
from glialite_runtime.metrics import dice_per_region, region_masks
from glialite_runtime.sequences import REGIONS

__all__ = [
    "LIMITS",
    "MIN_JUDGED_VOXELS",
    "TO_FP16",
    "TO_GPU_INT8",
    "TO_INT8",
    "TO_LOWERED",
    "TO_ONNX",
    "LabelTriple",
    "Limit",
    "Network",
    "check",
    "difference_figures",
    "label_figures",
]

Network = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""Image (4, z, y, x) to logits (3, z, y, x), any shape."""

Figures = Mapping[str, float | Mapping[str, float | None]]
"""Figure -> value, or region -> value; None where it cannot be judged."""

TO_ONNX: Final = "torch to onnx-3d"
TO_LOWERED: Final = "onnx-3d to lowered"
TO_INT8: Final = "lowered to int8"
TO_FP16: Final = "onnx-3d to fp16"
TO_GPU_INT8: Final = "onnx-3d to gpu-int8"


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of the gate.

    Attributes
    ----------
    hop, figure : str
        What is limited.
    relation : {"at most", "at least"}
        On which side of `bound` the figure must lie.
    bound : float
        The limit itself still holds.
    why : str
        Where the bound comes from.
    """

    hop: str
    figure: str
    relation: Literal["at most", "at least"]
    bound: float
    why: str

    def holds(self, value: float) -> bool:
        """Return whether a figure keeps the limit; NaN never does."""
        return value <= self.bound if self.relation == "at most" else value >= self.bound


LIMITS: Final[tuple[Limit, ...]] = (
    Limit(
        TO_ONNX,
        "relative_difference",
        "at most",
        1e-4,
        "the same FP32 arithmetic in another order of sums: rounding alone gives about 1e-6, a lost bias or a wrong "
        "padding 1e-2 and more",
    ),
    Limit(TO_LOWERED, "relative_difference", "at most", 1e-4, "the lowering is exact, so the same holds for it"),
    Limit(
        TO_INT8,
        "dice_change",
        "at least",
        -0.005,
        "mean Dice that quantisation may cost in each region: under the 0.006 published for INT8 in 3-D "
        "(arXiv:2501.17343)",
    ),
    Limit(
        TO_INT8,
        "agreement_dice",
        "at least",
        0.95,
        "Dice of the two graphs' outlines over the cases that have the region: catches changes that cancel out "
        "against the truth",
    ),
    Limit(
        TO_INT8,
        "differing_voxels",
        "at most",
        0.005,
        "share of voxels whose label changes: a rim of half a voxel around a large tumour",
    ),
    Limit(
        TO_FP16,
        "logit_difference",
        "at most",
        0.01,
        "root mean square over that of FP32: one rounding to float16 is at most 5e-4, and a logit has passed about "
        "twenty of them in a row",
    ),
    Limit(
        TO_FP16,
        "differing_voxels",
        "at most",
        0.0005,
        "share of voxels whose label changes: a tenth of what INT8 may cost, as float16 has eight times the levels",
    ),
    Limit(TO_GPU_INT8, "dice_change", "at least", -0.005, "as for INT8 on the CPU"),
    Limit(TO_GPU_INT8, "agreement_dice", "at least", 0.95, "as for INT8 on the CPU"),
    Limit(TO_GPU_INT8, "differing_voxels", "at most", 0.005, "as for INT8 on the CPU"),
)
"""Every limit of the gate."""

MIN_JUDGED_VOXELS: Final = 200
"""A region with fewer voxels than this in both graphs' outlines together, over all cases, is not judged by
`agreement_dice`: there a few voxels on a threshold decide. The other two limits still hold for it."""


@dataclass(frozen=True, slots=True)
class LabelTriple:
    """One case's labels (z, y, x) uint8: by the reference graph, by the candidate, and the truth."""

    reference: npt.NDArray[np.uint8]
    candidate: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]


def difference_figures(
    reference: Network, candidate: Network, images: Iterable[npt.NDArray[np.float32]]
) -> dict[str, float]:
    """Return how far two networks' logits are apart.

    Parameters
    ----------
    reference, candidate : Network
        The graph before and after the hop.
    images : iterable of float32 arrays (4, z, y, x)
        What they are compared on; at least one.

    Returns
    -------
    dict
        `relative_difference`: largest difference over the largest magnitude of the reference, the worst image
        counting; infinity where either is not finite or the shapes differ.
    """
    worst = -math.inf
    for image in images:
        one, other = reference(image), candidate(image)
        if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
            worst = math.inf
            continue
        scale = max(float(np.abs(one).max()), float(np.finfo(np.float32).tiny))
        worst = max(worst, float(np.abs(one - other).max()) / scale)
    if worst == -math.inf:
        raise ValueError("no image was given to compare two networks on")
    return {"relative_difference": worst}


def label_figures(cases: Sequence[LabelTriple]) -> dict[str, float | dict[str, float | None]]:
    """Return how far two graphs' label maps are apart, and from the truth.

    Returns
    -------
    dict
        By region, over the cases whose truth has the region, None when there is none: `dice_reference`,
        `dice_candidate` and their difference `dice_change` (means over cases), and `agreement_dice` (Dice of the two
        graphs, pooled over cases; None under `MIN_JUDGED_VOXELS`). `differing_voxels`: share of all voxels.
    """
    if not cases:
        raise ValueError("no case was given to compare two graphs on")
    means = _mean_dice(cases)
    change = {region: None if pair is None else pair[1] - pair[0] for region, pair in means.items()}
    differing = sum(int(np.count_nonzero(case.reference != case.candidate)) for case in cases)
    return {
        "dice_reference": {region: None if pair is None else pair[0] for region, pair in means.items()},
        "dice_candidate": {region: None if pair is None else pair[1] for region, pair in means.items()},
        "dice_change": change,
        "agreement_dice": _agreement(cases),
        "differing_voxels": differing / sum(case.truth.size for case in cases),
    }


def _mean_dice(cases: Sequence[LabelTriple]) -> dict[str, tuple[float, float] | None]:
    means: dict[str, tuple[float, float] | None] = {}
    for place, region in enumerate(REGIONS):
        pairs = [
            (dice_per_region(case.reference, case.truth)[place], dice_per_region(case.candidate, case.truth)[place])
            for case in cases
            if region_masks(case.truth)[place].any()
        ]
        one, other = np.mean(pairs, axis=0) if pairs else (0.0, 0.0)
        means[region] = (float(one), float(other)) if pairs else None
    return means


def _agreement(cases: Sequence[LabelTriple]) -> dict[str, float | None]:
    both, either = np.zeros(len(REGIONS), np.int64), np.zeros(len(REGIONS), np.int64)
    for case in cases:
        has_region = region_masks(case.truth).any(axis=(1, 2, 3))
        one, other = region_masks(case.reference), region_masks(case.candidate)
        both += has_region * np.count_nonzero(one & other, axis=(1, 2, 3))
        either += has_region * (np.count_nonzero(one, axis=(1, 2, 3)) + np.count_nonzero(other, axis=(1, 2, 3)))
    return {
        region: 2 * int(both[place]) / int(either[place]) if either[place] >= MIN_JUDGED_VOXELS else None
        for place, region in enumerate(REGIONS)
    }


def check(hop: str, figures: Figures) -> dict[str, Any]:
    """Hold a hop's figures against the limits.

    Parameters
    ----------
    hop : str
        `TO_ONNX`, `TO_LOWERED` or `TO_INT8`.
    figures : mapping
        What was measured; more than what is limited is kept in the report.

    Returns
    -------
    dict
        Ready for JSON: the figures, and each limit with its bound and whether it held.

    Raises
    ------
    ParityError
        A limit is broken or its figure is missing; the report is in the error.
    """
    rows, broken = [], []
    for limit in (limit for limit in LIMITS if limit.hop == hop):
        measured = figures.get(limit.figure, math.nan)
        values = measured if isinstance(measured, Mapping) else {"": measured}
        wrong = {name: value for name, value in values.items() if value is not None and not limit.holds(value)}
        rows.append({"figure": limit.figure, limit.relation: limit.bound, "held": not wrong})
        broken += [
            f"{limit.figure} {name} is {value:.4g}, {limit.relation} {limit.bound:g} was needed".replace("  ", " ")
            for name, value in wrong.items()
        ]
    if not rows:
        raise ValueError(f"no limit is known for the hop {hop!r}")
    report: dict[str, Any] = {
        "hop": hop,
        "figures": {
            name: {region: _plain(value) for region, value in measured.items()}
            if isinstance(measured, Mapping)
            else _plain(measured)
            for name, measured in figures.items()
        },
        "limits": rows,
    }
    if broken:
        raise ParityError(f"the hop {hop} does not hold: {'; '.join(broken)}; nothing was written", report)
    return report


def _plain(value: float | None) -> float | str | None:
    if value is None:
        return None
    return float(value) if math.isfinite(value) else "not finite"

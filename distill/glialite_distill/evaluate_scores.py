"""One prediction of one case against the truth, and where in the brain probabilities are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_calibration.logit_counts import LogitCounts
from glialite_runtime.measure import volumes_ml
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.sequences import REGIONS, SEQUENCES
from glialite_runtime.volume import Volume

__all__ = ["NEAR_MM", "SCOPES", "CaseResult", "CaseScore", "Evaluation", "Labels", "Triple", "scopes_of", "score"]

Labels = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]

NEAR_MM: Final = 10.0
SCOPES: Final = ("brain", "near the tumour")
"""Where probabilities are judged: in every voxel of the brain, and in those of them in the true whole tumour or at most
`NEAR_MM` from it along each axis (in a brain without a tumour, none)."""


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One prediction of one case against the truth; tuples in the order of `REGIONS`.

    Attributes
    ----------
    source, case : str
        Whose prediction of what.
    dice : tuple of float
        NaN where neither truth nor prediction has the region, and for TC and ET without t1c.
    true_ml, predicted_ml : tuple of float
        Volumes; `predicted_ml` is NaN for TC and ET without t1c.
    sequences : tuple of str
        What the source was shown.
    withheld : bool
        Whether the case has more sequences than that.
    """

    source: str
    case: str
    dice: Triple
    true_ml: Triple
    predicted_ml: Triple
    sequences: tuple[str, ...] = SEQUENCES
    withheld: bool = False

    @property
    def false_positive_ml(self) -> float:
        """Predicted WT in mL where the truth has no tumour at all; NaN where it has one."""
        return math.nan if self.true_ml[0] else self.predicted_ml[0]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """All that one source says of one case.

    Attributes
    ----------
    scores : tuple of CaseScore
        With all sequences that the case has first, then with those subsets that were asked for.
    counts : mapping of str to LogitCounts
        Scope -> its logits against the truth; empty for sources without probabilities and cases without t1c.
    """

    scores: tuple[CaseScore, ...]
    counts: Mapping[str, LogitCounts]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured.

    Attributes
    ----------
    scores : tuple of CaseScore
        A case after the other, every source on each.
    counts : mapping of str to (mapping of str to LogitCounts)
        Source -> scope -> its logits against the truth, all cases together; only sources that have probabilities, and
        only cases that have t1c, with all the sequences that the case has.
    """

    scores: tuple[CaseScore, ...]
    counts: Mapping[str, Mapping[str, LogitCounts]]


def score(
    source: str,
    case: str,
    prediction: Labels,
    truth: Labels,
    voxel_mm3: float,
    sequences: tuple[str, ...] = SEQUENCES,
) -> CaseScore:
    """Compare a prediction with the truth, both (z, y, x) on one grid; voxels of `voxel_mm3`.

    Without t1c among the sequences that the source was shown, TC and ET are not compared.
    """
    has_t1c = "t1c" in sequences
    wt, tc, et = dice_per_region(prediction, truth)
    return CaseScore(
        source,
        case,
        (wt, tc, et) if has_t1c else (wt, math.nan, math.nan),
        _triple(volumes_ml(truth, voxel_mm3)),
        _triple(volumes_ml(prediction, voxel_mm3, has_t1c=has_t1c)),
        sequences,
    )


def _triple(by_region: Mapping[str, float | None]) -> Triple:
    wt, tc, et = (math.nan if (ml := by_region[region]) is None else ml for region in REGIONS)
    return wt, tc, et


def scopes_of(volume: Volume, truth: Labels) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the masks (z, y, x) of `SCOPES`."""
    from scipy.ndimage import maximum_filter  # noqa: PLC0415 - half a second that training need not pay

    brain = np.any([channel != 0 for channel in volume.channels], axis=0)
    size = [2 * round(NEAR_MM / mm) + 1 for mm in volume.spacing_mm]
    near = maximum_filter((truth > 0).astype(np.uint8), size=size, mode="constant") > 0
    return dict(zip(SCOPES, (brain, brain & near), strict=True))

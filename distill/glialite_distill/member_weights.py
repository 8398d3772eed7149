"""How much each member of an ensemble counts, region by region: equal, the published hybrid, learnt, from a file.

Weights are learnt by ensemble selection (Caruana et al., ICML 2004): start with the member that is best alone, add ten
times the one, already chosen or not, that the mean Dice gains most from, and keep the best of these ensembles. A weight
is how often a member was chosen, so one that does not help gets none. Few cases cannot be fitted closely that way; and
where equal weights are as good to 0.005, they stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import ConfigError
from glialite_runtime.metrics import region_masks
from glialite_runtime.sequences import REGIONS

from glialite_distill.decision import dice_or_absent

__all__ = [
    "CHOICES",
    "FITTED_WEIGHTS",
    "LEVELS",
    "Evidence",
    "MemberWeights",
    "Shares",
    "equal_weights",
    "evidence_of",
    "hybrid_weights",
    "learn_weights",
    "mean_dice",
    "read_weights",
]

Shares = tuple[float, float, float]
"""A member's weight in each of `REGIONS`."""

RegionEvidence = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]

CHOICES: Final = ("equal", "hybrid", "learnt", "best")
"""Named weights ("best" is nnU-Net's automatic choice); anything else is a file of them."""

FITTED_WEIGHTS: Final = ("learnt", "best")
"""Those that are chosen on out-of-fold predictions."""

_HYBRID: Final = {"WT": "baseline", "TC": "grokking", "ET": "grokking"}
_ADDITIONS: Final = 10
_NEARLY_NOTHING: Final = 5  # of 255: a voxel that no member gives more, and that is not tumour, is never decided
LEVELS: Final = 255
"""Steps that a stored probability of 1 has."""

_HALF: Final = LEVELS / 2
_WORTH_IT: Final = 0.005  # mean Dice that learnt weights must gain over equal ones


@dataclass(frozen=True, slots=True)
class MemberWeights:
    """Weights by recipe; those of a region add up to 1.

    Attributes
    ----------
    shares : mapping of str to tuple of float
        Recipe (or stock folder) -> its weight in each of `REGIONS`; its folds share it equally.

    Raises
    ------
    ConfigError
        A weight is negative or not finite, or those of a region do not add up to 1.
    """

    shares: Mapping[str, Shares]

    def __post_init__(self) -> None:
        table = np.array(list(self.shares.values()), float).reshape(-1, len(REGIONS))
        if not np.isfinite(table).all() or (table < 0).any():
            raise ConfigError(f"member weights must be finite and not negative: {self.to_json()}")
        totals = table.sum(0)
        if not np.allclose(totals, 1, atol=1e-6):
            found = ", ".join(f"{region} {total:g}" for region, total in zip(REGIONS, totals, strict=True))
            raise ConfigError(f"the weights of each region must add up to 1 over the members; found {found}")

    def of_member(self, recipe: str, folds: int) -> Shares:
        """Return the weights of one of the `folds` networks of a recipe."""
        wt, tc, et = (share / folds for share in self.shares[recipe])
        return wt, tc, et

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return recipe -> region -> weight."""
        return {name: dict(zip(REGIONS, shares, strict=True)) for name, shares in self.shares.items()}


def _weights(names: Sequence[str], table: npt.NDArray[np.float64]) -> MemberWeights:
    """Return the weights of a table (members, regions) whose columns are brought to a sum of 1."""
    rows = (table / table.sum(0)).tolist()
    return MemberWeights(MappingProxyType({name: (wt, tc, et) for name, (wt, tc, et) in zip(names, rows, strict=True)}))


def equal_weights(names: Sequence[str], among: Sequence[int] | None = None) -> MemberWeights:
    """Return the same weight in every region for every member, or for those `among` them, the others having none.

    Source: Hashmi et al., arXiv:2411.15872, section 2.4.
    """
    taking_part = np.isin(np.arange(len(names)), range(len(names)) if among is None else among)
    return _weights(names, np.repeat(taking_part[:, None], len(REGIONS), 1).astype(float))


def hybrid_weights(names: Sequence[str]) -> MemberWeights:
    """Return the hybrid: WT from `baseline`, TC and ET from `grokking`, every other member mixed in at an equal share.

    With those two alone this is the published hybrid.

    Raises
    ------
    ConfigError
        One of the two is not a member.

    Notes
    -----
    Source: Barakat et al., Grokking nnU-Net for Glioma Segmentation in Sub-Saharan MRI, section 3.3.
    """
    if missing := sorted(set(_HYBRID.values()) - set(names)):
        raise ConfigError(f"hybrid weights need the members baseline and grokking; {' and '.join(missing)} is not one")
    pair = set(_HYBRID.values())
    table = [[name not in pair or _HYBRID[region] == name for region in REGIONS] for name in names]
    return _weights(names, np.array(table, float))


def read_weights(path: Path, names: Sequence[str]) -> MemberWeights:
    """Read weights from JSON: recipe -> region -> weight, alone or as `weights` of an object.

    Raises
    ------
    ConfigError
        The file is not there or no such JSON, names other members, or its weights are no weights.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        table = content.get("weights", content)
        found = {str(name): tuple(float(row[region]) for region in REGIONS) for name, row in table.items()}
        extra = sorted({region for row in table.values() for region in row} - set(REGIONS))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--weights {path} is neither {', '.join(CHOICES)} nor a file of recipe -> WT, TC, ET -> weight ({error!r})"
        ) from error
    if extra or set(found) != set(names):
        raise ConfigError(
            f"{path} has weights for {', '.join(sorted(found))} in {', '.join([*REGIONS, *extra])}; "
            f"the members are {', '.join(names)}, the regions {', '.join(REGIONS)}"
        )
    return MemberWeights(MappingProxyType({name: (found[name][0], found[name][1], found[name][2]) for name in names}))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the members say about a case, where it can matter: a few percent of its voxels.

    Attributes
    ----------
    fold : int
        The fold that held the case out.
    levels : tuple of uint8 arrays (members, voxels)
        For each of `REGIONS`, probabilities in 255ths of the voxels that are tumour or more than nearly nothing.
    truth : tuple of bool arrays (voxels,)
        For each of `REGIONS`, whether these voxels belong to it.
    """

    fold: int
    levels: tuple[npt.NDArray[np.uint8], ...]
    truth: tuple[npt.NDArray[np.bool_], ...]


def evidence_of(members: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], fold: int) -> Evidence:
    """Return the evidence of a case.

    Parameters
    ----------
    members : uint8 array (members, 3, z, y, x)
        Out-of-fold probabilities in 255ths.
    labels : uint8 array (z, y, x)
        BraTS-2023 labels.
    fold : int
        The fold that held the case out.
    """
    truth = region_masks(labels)
    kept = [(members[:, i] > _NEARLY_NOTHING).any(0) | truth[i] for i in range(len(REGIONS))]
    return Evidence(
        fold, tuple(members[:, i, mask] for i, mask in enumerate(kept)), tuple(truth[i][m] for i, m in enumerate(kept))
    )


def learn_weights(cases: Sequence[Evidence], names: Sequence[str], among: Sequence[int] | None = None) -> MemberWeights:
    """Return the weights with the best mean Dice at a threshold of 0.5, region by region.

    Parameters
    ----------
    cases : sequence of Evidence
        Out-of-fold predictions; without any, and where all score alike, the weights are equal.
    names : sequence of str
        The members, in the order of `Evidence.levels`.
    among : sequence of int, optional
        Only these members; the others get no weight.

    Notes
    -----
    Source: Caruana, Niculescu-Mizil, Crew, Ksikes, Ensemble selection from libraries of models, ICML 2004.
    """
    allowed = list(range(len(names)) if among is None else among)
    counts = np.zeros((len(names), len(REGIONS)))
    for region in range(len(REGIONS)):
        chosen = _selected([(c.levels[region], c.truth[region]) for c in cases], allowed)
        np.add.at(counts[:, region], chosen, 1)
    return _weights(names, counts)


def _selected(cases: Sequence[RegionEvidence], allowed: Sequence[int]) -> list[int]:
    """Return the members, repeated as often as they were chosen, of the best ensemble on the way; else all once."""
    if not cases:
        return list(allowed)
    best, needed = list(allowed), _score(cases, _added(cases, allowed), len(allowed)) + _WORTH_IT
    chosen: list[int] = []
    sums = _added(cases, ())
    for size in range(1, _ADDITIONS + 2):
        candidates = [[total + levels[m] for total, (levels, _) in zip(sums, cases, strict=True)] for m in allowed]
        scores = [_score(cases, candidate, size) for candidate in candidates]
        winner = int(np.argmax(scores))
        sums = candidates[winner]
        chosen.append(allowed[winner])
        if scores[winner] > needed:
            best, needed = chosen.copy(), scores[winner]
    return best


def _added(cases: Sequence[RegionEvidence], members: Sequence[int]) -> list[npt.NDArray[np.uint16]]:
    return [levels[list(members)].sum(0, dtype=np.uint16) for levels, _ in cases]


def _score(cases: Sequence[RegionEvidence], sums: Sequence[npt.NDArray[np.uint16]], size: int) -> float:
    """Return the mean Dice of ensembles of `size` members whose levels are added up."""
    pairs = zip(sums, cases, strict=True)
    return float(np.mean([dice_or_absent(total > size * _HALF, truth) for total, (_, truth) in pairs]))


def mean_dice(cases: Sequence[Evidence], weights: MemberWeights) -> npt.NDArray[np.float64]:
    """Return the Dice (cases, 3) of the weighted mean at a threshold of 0.5, each region by itself.

    A region that is absent from truth and prediction counts 1.
    """
    table = np.array(list(weights.shares.values()), np.float32)
    scores = [
        [dice_or_absent(table[:, i] @ c.levels[i].astype(np.float32) > _HALF, c.truth[i]) for i in range(len(REGIONS))]
        for c in cases
    ]
    return np.array(scores, float).reshape(-1, len(REGIONS))

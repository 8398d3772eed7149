"""nnU-Net's automatic choice: the best single configuration, or the best pair of them where that is better."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from glialite_runtime.errors import ConfigError

from glialite_distill.member_weights import Evidence, MemberWeights, equal_weights, mean_dice

__all__ = ["best_configuration"]


def best_configuration(cases: Sequence[Evidence], names: Sequence[str]) -> MemberWeights:
    """Return equal weights for the one or two members with the best mean Dice, none for the others.

    Parameters
    ----------
    cases : sequence of Evidence
        Out-of-fold predictions, at least one.
    names : sequence of str
        The members, in the order of `Evidence.levels`; among equals the first, and one rather than two.

    Raises
    ------
    ConfigError
        No case or no member.

    Notes
    -----
    Source: Isensee et al., Nature Methods 18 (2021); nnU-Net's `find_best_configuration`, which leaves cases without a
    region out of its mean where we count 1 for a region that is rightly absent.
    """
    if not cases or not names:
        raise ConfigError("choosing the best configuration needs out-of-fold predictions of at least one member")
    sets = [among for size in (1, 2) for among in itertools.combinations(range(len(names)), size)]
    return max(
        (equal_weights(names, among) for among in sets), key=lambda weights: float(mean_dice(cases, weights).mean())
    )

"""The best single configuration, or the best pair."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_distill.automatic_choice import best_configuration
from glialite_distill.member_weights import Evidence
from glialite_runtime.errors import ConfigError

TRUTH = np.array([True, True, True, True, False, False, False, False])


def evidence(*members: list[int]) -> Evidence:
    """Return a case of eight voxels whose members have these levels in every region; the first half is tumour."""
    levels = np.array(members, np.uint8)
    return Evidence(0, (levels,) * 3, (TRUTH,) * 3)


def chosen(case: Evidence, names: tuple[str, ...]) -> set[str]:
    """Return the members with a weight."""
    return {name for name, shares in best_configuration([case], names).shares.items() if any(shares)}


def test_two_that_mend_each_other_are_taken() -> None:
    """Each alone is wrong in one voxel and sure where the other is not."""
    flat = [255, 255, 255, 100, 0, 0, 0, 0]
    deep = [255, 255, 100, 255, 0, 0, 0, 0]
    assert chosen(evidence(flat, deep), ("nnunet-2d", "baseline")) == {"nnunet-2d", "baseline"}


def test_one_is_better_than_a_pair_that_spoils_it() -> None:
    """A perfect member stays alone, wherever it stands."""
    perfect = [200] * 4 + [0] * 4
    wrong = [0] * 4 + [255] * 4
    assert chosen(evidence(wrong, perfect, wrong), ("a", "b", "c")) == {"b"}


def test_among_equals_the_simplest_and_first_is_taken() -> None:
    """As nnU-Net does."""
    perfect = [200] * 4 + [0] * 4
    assert chosen(evidence(perfect, perfect), ("a", "b")) == {"a"}


def test_a_pair_shares_equally() -> None:
    """Half each, in every region."""
    flat, deep = [255, 255, 255, 100, 0, 0, 0, 0], [255, 255, 100, 255, 0, 0, 0, 0]
    assert dict(best_configuration([evidence(flat, deep)], ("a", "b")).shares) == {"a": (0.5,) * 3, "b": (0.5,) * 3}


def test_nothing_to_choose_from_is_refused() -> None:
    """No case, or no member."""
    with pytest.raises(ConfigError, match="needs out-of-fold predictions"):
        best_configuration([], ("a",))

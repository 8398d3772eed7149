"""Weights of members: named, read, learnt; every answer known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.member_weights import (
    Evidence,
    MemberWeights,
    equal_weights,
    evidence_of,
    hybrid_weights,
    learn_weights,
    mean_dice,
    read_weights,
)
from glialite_runtime.errors import ConfigError

PAIR = ("baseline", "grokking")


def evidence(*members: str, truth: str, fold: int = 0) -> Evidence:
    """Return a case whose voxels are the characters: digits are probabilities in tenths, `x` is tumour.

    All three regions see the same.
    """
    levels = np.array([[round(int(c) * 25.5) for c in member] for member in members], np.uint8)
    tumour = np.array([c == "x" for c in truth])
    return Evidence(fold, (levels,) * 3, (tumour,) * 3)


def test_equal_weights_are_equal() -> None:
    """A third each, in every region; among some of them the others get nothing."""
    assert equal_weights(("a", "b", "c")).shares == dict.fromkeys("abc", (1 / 3,) * 3)
    assert equal_weights(("a", "b", "c"), [0, 2]).shares == {"a": (0.5,) * 3, "b": (0.0,) * 3, "c": (0.5,) * 3}


def test_the_published_hybrid() -> None:
    """The long run segments ET and TC, the short one WT (regions in the order WT, TC, ET)."""
    # seed 000 §3.2 and §3.3: "3500-epoch network to segment ET and TC and the 200-epoch model for WT"
    assert hybrid_weights(PAIR).shares == {"baseline": (1.0, 0.0, 0.0), "grokking": (0.0, 1.0, 1.0)}


def test_further_members_are_mixed_into_the_hybrid_at_an_equal_share() -> None:
    """With two MedNeXts a third each, whatever the order of the names."""
    third = 1 / 3
    assert hybrid_weights(("mednext-b", "grokking", "baseline", "mednext-m")).shares == {
        "mednext-b": (third, third, third),
        "grokking": (0.0, third, third),
        "baseline": (third, 0.0, 0.0),
        "mednext-m": (third, third, third),
    }


def test_a_hybrid_of_others_is_refused() -> None:
    """Without the long run there is none."""
    with pytest.raises(ConfigError, match="grokking is not one"):
        hybrid_weights(("baseline", "mednext-b"))


def test_folds_share_a_recipes_weight() -> None:
    """Five folds of a recipe that weighs a half are a tenth each."""
    assert MemberWeights({"a": (0.5, 1, 0), "b": (0.5, 0, 1)}).of_member("a", 5) == (0.1, 0.2, 0.0)


@pytest.mark.parametrize(
    "shares",
    [
        {"a": (0.5, 1, 1)},
        {"a": (1.5, 1, 1), "b": (-0.5, 0, 0)},
        {"a": (float("nan"), 1, 1)},
        {"a": (float("inf"), 1, 1)},
        {},
    ],
)
def test_weights_that_are_none_are_refused(shares: dict[str, tuple[float, float, float]]) -> None:
    """Negative, not finite, nobody's, or not adding up to 1 in each region."""
    with pytest.raises(ConfigError, match="weights"):
        MemberWeights(shares)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    """As written by `to_json`, alone or inside what a fit wrote."""
    weights = hybrid_weights(PAIR)
    for content in (weights.to_json(), {"weights": weights.to_json(), "decision": {}}):
        (tmp_path / "w.json").write_text(json.dumps(content))
        assert read_weights(tmp_path / "w.json", PAIR) == weights


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "3",
        '{"weights": 3}',
        '{"baseline": {"WT": 1, "TC": 1}}',
        '{"baseline": {"WT": 1, "TC": 1, "ET": "all"}}',
        '{"baseline": {"WT": 1, "TC": 1, "ET": 1}}',
        '{"baseline": {"WT": 1, "TC": 1, "ET": 1}, "nobody": {"WT": 0, "TC": 0, "ET": 0}}',
        '{"baseline": {"WT": 1, "TC": 1, "ET": 1, "CC": 1}, "grokking": {"WT": 0, "TC": 0, "ET": 0}}',
        '{"baseline": {"WT": 1, "TC": 1, "ET": 1}, "grokking": {"WT": 1, "TC": 0, "ET": 0}}',
        '{"baseline": {"WT": NaN, "TC": 1, "ET": 1}, "grokking": {"WT": 0, "TC": 0, "ET": 0}}',
    ],
)
def test_files_that_are_no_weights_are_refused(text: str, tmp_path: Path) -> None:
    """No JSON, another shape, other members or regions, sums that are not 1: never a crash, never a guess."""
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(ConfigError):
        read_weights(tmp_path / "w.json", PAIR)
    with pytest.raises(ConfigError, match="neither equal, hybrid, learnt, best nor a file"):
        read_weights(tmp_path / "nowhere.json", PAIR)


def test_evidence_keeps_what_can_matter() -> None:
    """Voxels that are tumour or more than nearly nothing to a member; the rest cannot change any Dice."""
    members = np.zeros((2, 3, 1, 1, 5), np.uint8)
    members[0, 0, 0, 0] = (0, 5, 6, 0, 255)
    labels = np.array([[[3, 0, 0, 0, 2]]], np.uint8)
    found = evidence_of(members, labels, 4)
    assert found.fold == 4
    assert [levels.tolist() for levels in found.levels] == [[[0, 6, 255], [0, 0, 0]], [[0], [0]], [[0], [0]]]
    assert [truth.tolist() for truth in found.truth] == [[True, False, True], [True], [True]]


def test_learning_finds_the_member_that_is_right() -> None:
    """One is right, one says the opposite, one says nothing: all weight goes to the first."""
    case = evidence("9900", "0099", "5555", truth="xx..")
    assert learn_weights([case], ("a", "b", "c")).shares == {"a": (1.0,) * 3, "b": (0.0,) * 3, "c": (0.0,) * 3}


def test_learning_mixes_members_that_complete_each_other() -> None:
    """Each misses half of the tumour and sees a ghost of its own: alone 4/7, together right."""
    case = evidence("994480", "449908", truth="xxxx..")
    together = learn_weights([case], ("a", "b"))
    alone = max(mean_dice([case], equal_weights(("a", "b"), [k])).mean() for k in (0, 1))
    assert (alone, mean_dice([case], together).mean()) == (pytest.approx(4 / 7), 1)
    assert all(0 < share < 1 for shares in together.shares.values() for share in shares)


def test_learning_is_by_region() -> None:
    """A member that is right about WT and another that is right about ET are told apart."""
    right, wrong = np.array([[230, 230, 25, 25]], np.uint8), np.array([[25, 25, 230, 230]], np.uint8)
    tumour = np.array([True, True, False, False])
    case = Evidence(0, (np.vstack([right, wrong]), np.vstack([right, right]), np.vstack([wrong, right])), (tumour,) * 3)
    found = learn_weights([case], ("a", "b")).shares
    assert (found["a"][0], found["b"][2]) == (1.0, 1.0)


def test_learning_never_does_worse_than_the_best_single_member() -> None:
    """On the cases that it learns from, for members of noise; and better than equal weights."""
    rng = np.random.default_rng(0)
    cases = []
    for fold in range(4):
        truth = rng.random(200) < 0.3
        noise = rng.normal(0, 60, (4, 200)) + np.array([[10], [30], [220], [240]])
        levels = np.clip(noise + 100 * truth, 0, 255).astype(np.uint8)
        cases.append(Evidence(fold, (levels,) * 3, (truth,) * 3))
    names = ("a", "b", "c", "d")
    learnt = mean_dice(cases, learn_weights(cases, names)).mean()
    assert learnt >= -0.005 + max(mean_dice(cases, equal_weights(names, [k])).mean() for k in range(4))
    assert learnt > mean_dice(cases, equal_weights(names)).mean()


def test_learning_keeps_equal_weights_where_nothing_tells_the_members_apart() -> None:
    """All find nothing, or all everything; or one is better by next to nothing: a single voxel of a thousand."""
    for member in ("0000", "9900"):
        assert learn_weights([evidence(member, member, truth="xx..")], ("a", "b")) == equal_weights(("a", "b"))
    nearly = evidence("9" * 1000 + "0", "9" * 999 + "00", truth="x" * 1000 + ".")
    assert learn_weights([nearly], ("b", "a")) == equal_weights(("b", "a"))
    assert mean_dice([nearly], equal_weights(("b", "a"))).max() < 1


def test_learning_leaves_out_whom_it_is_told_to() -> None:
    """A member that is not `among` gets nothing, though it is the best."""
    found = learn_weights([evidence("9900", "9990", truth="xx..")], ("a", "b"), [1])
    assert found.shares == {"a": (0.0,) * 3, "b": (1.0,) * 3}


def test_learning_from_nothing_is_equal() -> None:
    """Without a case, and with cases in which nothing can matter."""
    assert learn_weights([], ("a", "b")) == equal_weights(("a", "b"))
    empty = Evidence(0, (np.zeros((2, 0), np.uint8),) * 3, (np.zeros(0, bool),) * 3)
    assert mean_dice([empty], learn_weights([empty], ("a", "b"))).tolist() == [[1.0, 1.0, 1.0]]


def test_scores_are_dice_with_absent_regions_counted() -> None:
    """Half found is 2/3; tumour seen in a healthy brain is 0; none there and none seen is 1."""
    one = MemberWeights({"a": (1.0, 1.0, 1.0)})
    cases = [evidence("9000", truth="xx.."), evidence("9000", truth="...."), evidence("2000", truth="....")]
    np.testing.assert_allclose(mean_dice(cases, one)[:, 0], [2 / 3, 0, 1])

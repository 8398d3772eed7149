"""Logits to labels: thresholds, hierarchy, smallest components."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_runtime.decode import DecisionRule, components, decode, within_rim
from glialite_runtime.errors import ConfigError
from glialite_runtime.metrics import region_masks
from hypothesis import given, settings
from hypothesis import strategies as st


def logits(shape: tuple[int, int, int] = (8, 8, 8)) -> np.ndarray:
    return np.full((3, *shape), -5, np.float32)


def test_regions_become_labels() -> None:
    """WT alone is SNFH (2), TC alone NETC (1), ET is 3."""
    x = logits()
    x[0, :3], x[1, :2], x[2, :1] = 5, 5, 5
    labels = decode(x, DecisionRule(), 1.0)
    assert labels[:, 0, 0].tolist() == [3, 1, 2, 0, 0, 0, 0, 0]


def test_inner_regions_pull_outer_ones_along() -> None:
    """A voxel that is ET but not WT by its logits is ET: the union goes upward."""
    x = logits()
    x[2, 4, 4, 4] = 5
    assert decode(x, DecisionRule(), 1.0)[4, 4, 4] == 3


def test_threshold_is_a_probability() -> None:
    """0.7 lies at logit log(0.7/0.3); a logit just under it is out."""
    x = logits()
    edge = math.log(0.7 / 0.3)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = edge + 1e-3, edge - 1e-3
    labels = decode(x, DecisionRule(thresholds=(0.7, 0.5, 0.5)), 1.0)
    assert (labels[0, 0, 0], labels[1, 1, 1]) == (2, 0)


def test_temperature_divides_the_logits() -> None:
    """At temperature 2 a threshold of 0.7 needs twice the logit."""
    rule = DecisionRule(thresholds=(0.7, 0.5, 0.5), temperature=2.0)
    assert rule.logit_thresholds[0] == pytest.approx(2 * math.log(0.7 / 0.3))


def test_small_components_go_and_inner_labels_fall_back() -> None:
    """Small WT vanishes, small TC becomes oedema, small ET becomes core; sizes are in mm³."""
    x = logits((16, 16, 16))
    x[0, 0:6, 0:6, 0:6] = 5  # 216 voxels, kept
    x[1, 0:4, 0:4, 0:4] = 5  # 64 voxels, kept
    x[2, 0:2, 0:2, 0:2] = 5  # 8 voxels: under 10 mm³, becomes NETC
    x[0, 10:12, 10:12, 10:12] = 5  # 8 voxels: under 20 mm³, vanishes
    x[1, 5, 5, 5] = 5  # 1 voxel of TC: becomes SNFH
    labels = decode(x, DecisionRule(minimum_mm3=(20, 10, 10)), 1.0)
    assert labels[0, 0, 0] == 1
    assert labels[5, 5, 5] == 2
    assert not labels[10:12, 10:12, 10:12].any()
    assert 3 not in labels
    assert 3 in decode(x, DecisionRule(minimum_mm3=(20, 10, 10)), 8.0)  # the same voxels are 64 mm³ at 2 mm


def test_components_touch_at_corners() -> None:
    """26-connectivity: two voxels that share a corner are one lesion."""
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert components(mask)[1] == 2


def test_without_t1c_only_the_whole_tumour_is_told() -> None:
    """Core and enhancement are not invented from the other sequences."""
    x = logits()
    x[:, :2] = 5
    assert set(np.unique(decode(x, DecisionRule(), 1.0, has_t1c=False))) == {0, 2}


def ring() -> tuple[np.ndarray, np.ndarray]:
    """Return core and enhancement: a shell of 6 × 6 × 6 voxels, open at the top, and a lobe of core of 6 × 6 × 4."""
    core = np.zeros((10, 10, 20), np.bool_)
    core[2:8, 2:8, 2:8] = True
    enhancing = core.copy()
    enhancing[3:8, 3:7, 3:7] = False
    core[2:8, 2:8, 12:16] = True
    return core, enhancing


def test_core_outside_a_rim_goes_and_its_inside_stays() -> None:
    """An open rim is a rim: what has enhancement on both sides along one axis lies within."""
    core, enhancing = ring()
    kept = within_rim(core, enhancing, 0.5)
    assert kept[:, :, :10].sum() == 6**3
    assert not kept[:, :, 10:].any()


def test_two_spots_do_not_enclose_what_lies_between_them() -> None:
    """One piece of enhancement makes a rim, not two that face each other."""
    core = np.ones((5, 5, 9), np.bool_)
    enhancing = np.zeros_like(core)
    enhancing[2, 2, [1, 7]] = True
    assert within_rim(core, enhancing, 0.0).sum() == 2
    enhancing[2, 2, 1:8] = True
    enhancing[2, 2, 4] = False
    enhancing[3, 2, 3:6] = True  # joins the two around the gap
    assert within_rim(core, enhancing, 0.0).sum() == 10


def test_a_spot_is_no_rim() -> None:
    """216 of 360 voxels lie within: too few for a share above 0.6; without enhancement nothing is asked."""
    core, enhancing = ring()
    assert within_rim(core, enhancing, 0.6).sum() == 216
    assert within_rim(core, enhancing, 0.61).sum() == 360
    assert within_rim(core, np.zeros_like(core), 0.0).sum() == 360


def test_dropped_core_becomes_oedema() -> None:
    """With a rim share in the rule; without it nothing is dropped. A speck of enhancement makes no rim."""
    core, enhancing = ring()
    x = logits(core.shape)
    x[0], x[1][core], x[2][enhancing] = 5, 5, 5
    x[2, 4, 4, 19] = 5
    without, confined = (decode(x, DecisionRule(minimum_mm3=(0, 0, 2), rim_share=s), 1.0) for s in (1.0, 0.5))
    assert np.bincount(without.ravel()).tolist() == [0, 361 - enhancing.sum(), 2000 - 361, enhancing.sum()]
    assert np.bincount(confined.ravel()).tolist() == [0, 216 - enhancing.sum(), 2000 - 216, enhancing.sum()]


def test_an_empty_map_stays_empty() -> None:
    """No tumour is a result, not an error."""
    assert not decode(logits(), DecisionRule(minimum_mm3=(50, 50, 50)), 1.0).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), minimum=st.tuples(*[st.floats(0, 30)] * 3), share=st.floats(0, 1))
def test_regions_are_nested_whatever_the_logits(seed: int, minimum: tuple[float, float, float], share: float) -> None:
    """ET ⊆ TC ⊆ WT, and only the four label values occur."""
    x = np.random.default_rng(seed).normal(size=(3, 7, 8, 9)).astype(np.float32)
    labels = decode(x, DecisionRule(minimum_mm3=minimum, rim_share=share), 1.0)
    wt, tc, et = region_masks(labels)
    assert not (et & ~tc).any()
    assert not (tc & ~wt).any()
    assert labels.max() <= 3


def test_a_senseless_rule_is_refused_with_every_problem() -> None:
    """All problems come in one message."""
    with pytest.raises(ConfigError, match=r"threshold 1\.5.*minimum size -1.*temperature 0.*rim share nan"):
        DecisionRule((1.5, 0.5, 0.5), (-1, 0, 0), 0, math.nan)

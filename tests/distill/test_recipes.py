"""The recipes: the published numbers, the schedule, the order of training."""

from __future__ import annotations

import json

import pytest
from glialite_distill.grokking import poly_with_floor
from glialite_distill.recipes import (
    PLANS,
    RECIPES,
    cases_of,
    find_plan,
    in_training_order,
    iterations_of,
    learning_rate,
    problems_of,
    table,
)
from glialite_runtime.errors import ConfigError


def test_plans_fit_their_networks() -> None:
    """Every patch divides by the U-Net's strides and by MedNeXt's 16, and deep supervision has three stages."""
    for plan in PLANS.values():
        for axis, edge in enumerate(plan.patch_size):
            total = 1
            for stride in plan.strides:
                total *= stride[axis]
            assert edge % total == 0
            assert edge % (16 if plan.name != "tiny" else 1) == 0
        assert len(plan.widths) == len(plan.strides) >= 3


def test_poly_decay_by_hand() -> None:
    """0.01 · 0.5^0.9 half way, the floor near the end and past it, never a complex number."""
    assert poly_with_floor(0.01, 0, 3500) == 0.01
    assert poly_with_floor(0.01, 1750, 3500) == pytest.approx(0.00535887, rel=1e-5)
    assert poly_with_floor(0.01, 3499, 3500, 1e-4) == 1e-4
    assert poly_with_floor(0.01, 4000, 3500) == 0.0


def test_a_warm_up_climbs_to_the_reduced_rate() -> None:
    """A tenth of 0.01 is reached after five epochs and never passed."""
    recipe = RECIPES["baseline-finetune-10"]
    rates = [learning_rate(recipe, epoch, 200) for epoch in range(200)]
    assert max(rates) == rates[5] == pytest.approx(0.001)
    assert rates[:6] == sorted(rates[:6])


def test_a_site_limits_the_cases() -> None:
    """A recipe for African cases takes those alone, and says so when there are none."""
    cases = ("BraTS-GLI-00001-000", "BraTS-SSA-00002-000", "loose")
    assert cases_of(RECIPES["mednext-b-finetune"], cases) == ("BraTS-SSA-00002-000",)
    assert cases_of(RECIPES["mednext-b"], cases) == cases
    with pytest.raises(ConfigError, match="mednext-b-finetune uses cases of SSA only"):
        cases_of(RECIPES["mednext-b-finetune"], cases[:1])


def test_the_table_is_sound() -> None:
    """No recipe contradicts itself, and each starts from one of the same network."""
    assert [problem for recipe in RECIPES.values() for problem in problems_of(recipe)] == []
    parents = [(RECIPES[r.warm_start].architecture, r.architecture) for r in RECIPES.values() if r.warm_start]
    assert all(parent == child for parent, child in parents)


def test_a_warm_start_comes_after_its_parent() -> None:
    """Whatever order is asked for; the rest keeps its order and nothing is done twice."""
    names = [r.name for r in in_training_order(("mednext-b", "grokking", "baseline", "grokking"))]
    assert names == ["mednext-b", "baseline", "grokking"]
    assert [r.name for r in in_training_order(("grokking",))] == ["grokking"]


def test_one_pass_over_the_cases_is_counted_in_batches() -> None:
    """55 cases at batch 2 are 28 batches; overriding keeps nnU-Net's ratio of one validation batch in five."""
    assert iterations_of(RECIPES["mednext-b"], (55, 14), 2, None) == (28, 7)
    assert iterations_of(RECIPES["baseline"], (55, 14), 2, None) == (250, 50)
    assert iterations_of(RECIPES["mednext-b"], (55, 14), 2, 10) == (10, 2)
    assert iterations_of(RECIPES["baseline"], (55, 14), 2, 1) == (1, 1)


def test_unknown_names_list_the_known_ones() -> None:
    """A typing error is answered with the choice."""
    with pytest.raises(ConfigError, match="unknown recipe 'basline'; known: baseline, baseline-labels"):
        in_training_order(("basline",))
    with pytest.raises(ConfigError, match="unknown plan 'big'; known: full, small"):
        find_plan("big")


def test_the_table_is_plain() -> None:
    """It goes through JSON unchanged."""
    assert json.loads(json.dumps(table())) == table()

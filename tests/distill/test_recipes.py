"""The recipes: the published numbers, the schedule, the order of training."""

from __future__ import annotations

import json

import pytest
from glialite_distill.grokking import poly_with_floor
from glialite_distill.recipes import PLANS, RECIPES, find_plan, in_training_order, iterations_of, learning_rate, table
from glialite_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("baseline", {"epochs": 200, "iterations": 250, "validation_iterations": 50, "learning_rate": 0.01,
                      "learning_rate_floor": 0.0, "weight_decay": 3e-5, "loss": "dice+bce", "batch_dice": False,
                      "oversample_foreground": 0.33, "optimizer": "sgd", "warm_start": None}),
        ("grokking", {"epochs": 3500, "iterations": 250, "learning_rate": 0.01, "learning_rate_floor": 1e-4,
                      "weight_decay": 3e-5, "warm_start": "baseline", "loss": "dice+bce"}),
        ("mednext-b", {"epochs": 150, "iterations": None, "learning_rate": 0.0027, "weight_decay": 0.0,
                       "loss": "dice+focal", "focal_gamma": 2.0, "batch_dice": True, "kernel_size": 3,
                       "optimizer": "schedule-free-adamw", "warm_start": None}),
        ("mednext-m", {"epochs": 150, "learning_rate": 0.0027, "architecture": "mednext-m"}),
    ],
)  # fmt: skip
def test_published_numbers(name: str, published: dict[str, object]) -> None:
    """The table holds what the papers say."""
    recipe = RECIPES[name]
    assert {key: getattr(recipe, key) for key in published} == published


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


def test_learning_rates_of_the_recipes() -> None:
    """The baseline decays to nothing, the long run to its floor, the schedule-free one stays."""
    assert learning_rate(RECIPES["baseline"], 199, 200) == pytest.approx(0.01 * 0.005**0.9)
    assert learning_rate(RECIPES["grokking"], 3499, 3500) == 1e-4
    assert learning_rate(RECIPES["grokking"], 0, 3500) == 0.01
    assert learning_rate(RECIPES["mednext-b"], 149, 150) == 0.0027


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
    with pytest.raises(ConfigError, match="unknown recipe 'basline'; known: baseline, grokking"):
        in_training_order(("basline",))
    with pytest.raises(ConfigError, match="unknown plan 'big'; known: full, small"):
        find_plan("big")


def test_the_table_is_plain() -> None:
    """It goes through JSON unchanged."""
    assert json.loads(json.dumps(table())) == table()

"""The recipe's transforms in their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from glialite_distill.recipes import RECIPES, Recipe
from glialite_distill.training_pipeline import training_pipeline

EVERYTHING = ("small-component-removal", "modality-dropout", "low-field")


def pipeline_of(recipe: Recipe) -> Any:
    """Return the pipeline for patches of 16³ at one scale."""
    return training_pipeline(
        recipe, (16, 16, 16), (-0.1, 0.1), None, (0, 1, 2), False,
        use_mask_for_norm=[True] * 4, foreground_labels=[1, 2, 3], regions=[(1, 2, 3), (1, 3), 3],
    )  # fmt: skip


def names_of(recipe: Recipe) -> list[str]:
    """Return the transforms' class names, in order."""
    return [type(getattr(step, "transform", step)).__name__ for step in pipeline_of(recipe).transforms]


@pytest.mark.parametrize("name", ["baseline", "mednext-b"])
def test_what_a_recipe_adds_comes_last_before_the_mask(name: str) -> None:
    """In the order that they need, whatever order the recipe names them in; the rest stays."""
    plain = names_of(RECIPES[name])
    more = names_of(replace(RECIPES[name], extra_augmentation=EVERYTHING))
    at = plain.index("MaskImageTransform")
    added = ["LowFieldTransform", "ModalityDropoutTransform", "SmallComponentRemovalTransform"]
    assert more == [*plain[:at], *added, *plain[at:]]


def test_small_islands_leave_the_targets_of_every_region() -> None:
    """The labels are cleaned before they become regions."""
    recipe = replace(RECIPES["mednext-b"], extra_augmentation=("small-component-removal",))
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.int16)
    labels[0, 2:4, 2:4, 2:4] = 3
    labels[0, 6:14, 6:14, 6:14] = 2
    found = set()
    for seed in range(40):  # it is applied one time in ten
        torch.manual_seed(seed)
        out = pipeline_of(recipe)(image=torch.ones(4, 16, 16, 16), segmentation=labels.clone())["segmentation"]
        found.add((int(out[0].sum()), int(out[2].sum())))
    assert found == {(520, 8), (512, 0)}

"""Networks in nnU-Net's plans."""

from __future__ import annotations

import copy

import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.networks import dataset_of_recipe, mednext, plans_of_recipe, segresnet, unet
from glialite_distill.recipes import RECIPES
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import ConfigError


@pytest.mark.parametrize("factory", [segresnet, unet])
@pytest.mark.parametrize("filters", [2, 6, 8])
def test_narrow_networks_can_be_built(factory: object, filters: int) -> None:
    """Groups of channels follow the width; one output of full size, with and without nnU-Net's switch."""
    network = factory(4, 3, filters=filters, deep_supervision=True)  # type: ignore[operator]
    assert network(torch.zeros(1, 4, 32, 32, 16)).shape == (1, 3, 32, 32, 16)


def test_mednext_keeps_its_heads_without_deep_supervision() -> None:
    """The weights of a training network load into one for prediction, which computes one output."""
    training, predicting = (
        mednext(4, 3, size="mednext-b", filters=2, kernel_size=3, deep_supervision=on) for on in (True, False)
    )
    predicting.load_state_dict(training.state_dict())
    assert isinstance(predicting.train()(torch.zeros(1, 4, 32, 16, 16)), torch.Tensor)


def test_plans_are_copied_not_changed(prepared: Workspace) -> None:
    """One workspace serves every recipe."""
    plans, _ = nnunet.plans_and_dataset(prepared.root, prepared.plan)
    before = copy.deepcopy(plans)
    changed = plans_of_recipe(plans, RECIPES["mednext-b-k5"])
    assert plans == before
    architecture = changed["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == "glialite_distill.networks.mednext"
    assert architecture["arch_kwargs"] == {"filters": 2, "size": "mednext-b", "kernel_size": 5}
    assert changed["configurations"]["3d_fullres"]["batch_dice"] is True


def test_only_label_recipes_change_the_dataset(prepared: Workspace) -> None:
    """Labels 1, 2, 3 in place of three regions, and no order in which regions are painted."""
    _, dataset = nnunet.plans_and_dataset(prepared.root, prepared.plan)
    assert dataset_of_recipe(dataset, RECIPES["baseline"]) == dataset
    changed = dataset_of_recipe(dataset, RECIPES["baseline-labels"])
    assert changed["labels"] == {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3}
    assert "regions_class_order" not in changed
    assert "regions_class_order" in dataset


def test_plans_of_an_older_version_are_refused(prepared: Workspace) -> None:
    """They have no slices; the message says what to do."""
    plans, _ = nnunet.plans_and_dataset(prepared.root, prepared.plan)
    old = {**plans, "configurations": {"3d_fullres": plans["configurations"]["3d_fullres"]}}
    assert plans_of_recipe(old, RECIPES["baseline"])
    with pytest.raises(ConfigError, match="nnunet-2d needs the configuration 2d"):
        plans_of_recipe(old, RECIPES["nnunet-2d"])

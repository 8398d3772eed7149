"""The teachers' networks, written into nnU-Net's plans so that nnU-Net itself can build each of them again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Final

from glialite_runtime.errors import ConfigError
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.segresnet import SegResNet
from torch import nn

from glialite_distill.mednext import build_mednext
from glialite_distill.recipes import Recipe

__all__ = ["dataset_of_recipe", "mednext", "plans_of_recipe", "segresnet", "unet"]

_LABELS: Final = {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3}


def plans_of_recipe(plans: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return a copy of our plans in which the recipe's configuration describes its network and its Dice.

    The architecture is stated as nnU-Net states its own: a callable's dotted name and its arguments. So what a teacher
    leaves needs its plans and its weights, not the recipe.

    Raises
    ------
    ConfigError
        The plans have no such configuration: an older version wrote them.
    """
    changed = copy.deepcopy(dict(plans))
    if recipe.configuration not in changed["configurations"]:
        raise ConfigError(
            f"{recipe.name} needs the configuration {recipe.configuration}, which the workspace's plans do not have "
            f"({', '.join(changed['configurations'])} only); an older version prepared it: prepare a new workspace"
        )
    configuration = changed["configurations"][recipe.configuration]
    configuration["batch_dice"] = recipe.batch_dice
    filters = configuration.get("mednext_filters")
    arguments = {"size": recipe.architecture, "kernel_size": recipe.kernel_size} if recipe.is_mednext else {}
    factory = mednext if recipe.is_mednext else {"segresnet": segresnet, "unet": unet}.get(recipe.architecture)
    if factory is not None:
        configuration["architecture"] = {
            "network_class_name": f"{__name__}.{factory.__name__}",
            "arch_kwargs": {"filters": filters, **arguments},
            "_kw_requires_import": [],
        }
    return changed


def dataset_of_recipe(dataset: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return a copy of `dataset.json` with labels in place of regions where the recipe's loss wants them."""
    if recipe.loss != "dice+ce":
        return copy.deepcopy(dict(dataset))
    changed = {key: value for key, value in copy.deepcopy(dict(dataset)).items() if key != "regions_class_order"}
    return {**changed, "labels": dict(_LABELS)}


def mednext(
    input_channels: int, num_classes: int, *, size: str, filters: int, kernel_size: int, deep_supervision: bool = True
) -> nn.Module:
    """Return a MedNeXt; its heads at lower resolutions are always there, or their weights would not load."""
    network = build_mednext(size, filters, kernel_size, (input_channels, num_classes))
    network.do_ds = deep_supervision  # type: ignore[assignment]  # MONAI's switch, a plain bool
    return network


def segresnet(input_channels: int, num_classes: int, *, filters: int, deep_supervision: bool = False) -> nn.Module:  # noqa: ARG001
    """Return MONAI's SegResNet as its author shaped it: 1, 2, 2, 4 blocks down, one a level up, GroupNorm of 8.

    Notes
    -----
    Source: Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, arXiv:1810.11654 (without the
    autoencoder's branch). It has one output: nnU-Net's `deep_supervision` is accepted and means nothing.
    """
    network: nn.Module = SegResNet(
        init_filters=filters,
        in_channels=input_channels,
        out_channels=num_classes,
        norm=("GROUP", {"num_groups": math.gcd(8, filters)}),
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )
    return network


def unet(input_channels: int, num_classes: int, *, filters: int, deep_supervision: bool = False) -> nn.Module:  # noqa: ARG001
    """Return MONAI's plain U-Net: five levels, two convolutions each, widths f, f, 2f, 4f, 8f.

    Notes
    -----
    Source: Falk et al., U-Net, Nature Methods 16 (2019). It has one output: nnU-Net's `deep_supervision` is accepted
    and means nothing.
    """
    widths = (filters, filters, 2 * filters, 4 * filters, 8 * filters, filters)
    network: nn.Module = BasicUNet(in_channels=input_channels, out_channels=num_classes, features=widths)
    return network

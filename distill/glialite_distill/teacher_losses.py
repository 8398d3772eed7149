"""The teachers' losses by name: overlap, plus what each recipe adds to it.

All but "dice+ce" take logits (n, 3, z, y, x) or (n, 3, y, x) and targets of that shape (0 or 1; regions WT, TC, ET) and
return a scalar; what they add to nnU-Net's terms is computed in float32 under automatic mixed precision. Targets may be
empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from glialite_runtime.errors import ConfigError
from monai.losses.focal_loss import FocalLoss
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

from glialite_distill.distance_maps import signed_distance, unsigned_distance

__all__ = [
    "TEACHER_LOSSES",
    "DiceBoundaryLoss",
    "DiceFocalLoss",
    "DiceHausdorffLoss",
    "DiceRegionFocalLoss",
    "LossSettings",
    "boundary_loss",
    "hausdorff_loss",
    "region_focal_loss",
]

_SMOOTH: Final = 1e-5  # nnU-Net's


@dataclass(frozen=True, slots=True)
class LossSettings:
    """What a recipe says about its loss.

    Attributes
    ----------
    batch_dice : bool
        Sum overlaps over the batch before dividing.
    focal_gamma : float or None
        Exponent of the focal losses; they refuse None.
    boundary_weight : float
        Weight of the boundary loss in the last epoch.
    ddp : bool
        Sum batch Dice over all processes.
    """

    batch_dice: bool = False
    focal_gamma: float | None = None
    boundary_weight: float = 1.0
    ddp: bool = False

    @property
    def gamma(self) -> float:
        """The focal exponent; a `ConfigError` where the recipe has none."""
        if self.focal_gamma is None:
            raise ConfigError("a recipe with a focal loss needs focal_gamma (published: 2.0); it has none")
        return self.focal_gamma


def boundary_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of probability × signed distance to the target's boundary, in voxels.

    It is smallest (negative) for the target itself; a region that is absent adds 0.

    Notes
    -----
    Source: Kervadec et al., Boundary loss for highly unbalanced segmentation, arXiv:1812.07032.
    """
    return (torch.sigmoid(logits.float()) * signed_distance(target > 0.5)).mean()


def hausdorff_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of squared error × (squared distance to the prediction's + to the target's boundary), voxels².

    The prediction's boundary is where the probability passes one half; no gradient flows through the distances. Either
    without a boundary adds no distance.

    Notes
    -----
    Source: Karimi and Salcudean, Reducing the Hausdorff Distance, arXiv:1904.10030, distance-transform loss with α = 2.
    The values are those of MONAI's `HausdorffDTLoss`, which computes its distances on the processor.
    """
    probabilities = torch.sigmoid(logits.float())
    weight = unsigned_distance(logits.detach() > 0) ** 2 + unsigned_distance(target > 0.5) ** 2
    return ((probabilities - target.float()) ** 2 * weight).mean()


def region_focal_loss(logits: torch.Tensor, target: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the focal loss averaged inside and outside each region apart, then over both and over the regions.

    So a small enhancing tumour weighs as much as the whole tumour, and a region as much as what is around it. A region
    that is nowhere in the batch counts by what is outside it alone.

    Notes
    -----
    Source: the aim of Li et al., Region-related focal loss for 3D brain tumor MRI segmentation, Medical Physics 50
    (2023), which reshapes Dice instead; the focal term is that of Lin et al., arXiv:1708.02002.
    """
    truth = target.float()
    focal = FocalLoss(gamma=gamma, reduction="none")(logits.float(), truth)
    axes = (0, *range(2, logits.ndim))
    inside = (focal * truth).sum(axes) / truth.sum(axes).clamp_min(1)
    outside = (focal * (1 - truth)).sum(axes) / (1 - truth).sum(axes).clamp_min(1)
    return ((inside + outside) / 2).mean()


def _region_dice(settings: LossSettings) -> nn.Module:
    return MemoryEfficientSoftDiceLoss(
        apply_nonlin=torch.sigmoid, batch_dice=settings.batch_dice, do_bg=True, smooth=_SMOOTH, ddp=settings.ddp
    )


def _dice_bce(settings: LossSettings) -> nn.Module:
    """Return nnU-Net's loss for regions."""
    dice = {"batch_dice": settings.batch_dice, "do_bg": True, "smooth": _SMOOTH, "ddp": settings.ddp}
    return DC_and_BCE_loss({}, dice, dice_class=MemoryEfficientSoftDiceLoss)


def _dice_ce(settings: LossSettings) -> nn.Module:
    """Return nnU-Net's loss for labels: logits (n, 4, z, y, x) against label maps (n, 1, z, y, x)."""
    dice = {"batch_dice": settings.batch_dice, "do_bg": False, "smooth": _SMOOTH, "ddp": settings.ddp}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)


class DiceFocalLoss(nn.Module):
    """Dice plus focal loss.

    Notes
    -----
    Source: Hashmi et al., arXiv:2411.15872 (batch Dice, γ = 2); Lin et al., arXiv:1708.02002.
    """

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        self.dice = _region_dice(settings)
        self.focal = FocalLoss(gamma=settings.gamma)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        loss: torch.Tensor = self.dice(logits, target) + self.focal(logits, target.float())
        return loss


class DiceRegionFocalLoss(nn.Module):
    """Dice plus `region_focal_loss`."""

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        self.dice = _region_dice(settings)
        self.gamma = settings.gamma

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        loss: torch.Tensor = self.dice(logits, target) + region_focal_loss(logits, target, self.gamma)
        return loss


class DiceBoundaryLoss(nn.Module):
    """nnU-Net's Dice + BCE plus `boundary_loss`, whose weight grows from 0 in the first epoch to its full in the last.

    Notes
    -----
    Source: Kervadec et al., arXiv:1812.07032 (the "increase" strategy): distances say nothing to a network that does
    not yet find the tumour.
    """

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        self.regions = _dice_bce(settings)
        self.final_weight = settings.boundary_weight
        self.weight: float | None = None

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set the weight of an epoch (from 0) of a run of `epochs` epochs."""
        self.weight = self.final_weight * min(1.0, epoch / max(1, epochs - 1))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss; a `RuntimeError` before the first `set_epoch`."""
        if self.weight is None:
            raise RuntimeError("the boundary loss has no weight yet: call set_epoch at the start of every epoch")
        loss: torch.Tensor = self.regions(logits, target)
        return loss + self.weight * boundary_loss(logits, target) if self.weight else loss


class DiceHausdorffLoss(nn.Module):
    """nnU-Net's Dice + BCE plus `hausdorff_loss`, scaled so that both have the same value in every batch.

    Notes
    -----
    Source: Karimi and Salcudean, arXiv:1904.10030, who set this ratio after each epoch; by batch it is no state that a
    resumed run would have to carry. The overlap is taken as 1 − Dice here, so that the ratio is never negative.
    """

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        self.regions = _dice_bce(settings)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        regions: torch.Tensor = self.regions(logits, target)
        distance = hausdorff_loss(logits, target)
        ratio = (1 + regions.detach()) / distance.detach().clamp_min(_SMOOTH)
        return regions + ratio * distance


TEACHER_LOSSES: Final[Mapping[str, Callable[[LossSettings], nn.Module]]] = MappingProxyType(
    {
        "dice+bce": _dice_bce,
        "dice+ce": _dice_ce,
        "dice+focal": DiceFocalLoss,
        "dice+boundary": DiceBoundaryLoss,
        "dice+hausdorff": DiceHausdorffLoss,
        "dice+region-focal": DiceRegionFocalLoss,
    }
)
"""A recipe's loss -> what builds it."""

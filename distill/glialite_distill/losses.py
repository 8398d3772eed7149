"""What a student is trained to make small: overlap and cross-entropy with the truth, divergence from its teachers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from glialite_distill.patches import Batch

__all__ = ["DistillationLoss", "LossTerms", "RegionBce", "RegionDice", "SoftTarget"]


@dataclass(frozen=True, slots=True)
class RegionDice:
    """Soft Dice loss, region by region over the whole batch, then averaged over the regions.

    A region's loss is 1 − (2 Σ p t + s) / (Σ p + Σ t + s), p the sigmoid of the logits. A region that is nowhere in
    the batch has the loss 0 when nothing is predicted and near 1 when anything is.

    Attributes
    ----------
    smooth : float
        s, in voxels.

    Notes
    -----
    Source: Milletari et al., V-Net, 3DV 2016 (arXiv:1606.04797); summed over the batch ("batch Dice") as in Isensee
    et al., Nature Methods 18 (2021), because a patch often holds no enhancing tumour.
    """

    smooth: float = 1.0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss (scalar) of logits (b, 3, z, y, x) against targets of that shape in [0, 1]."""
        probabilities = torch.sigmoid(logits)
        axes = (0, *range(2, logits.ndim))
        overlap = (probabilities * targets).sum(axes)
        total = probabilities.sum(axes) + targets.sum(axes)
        return (1 - (2 * overlap + self.smooth) / (total + self.smooth)).mean()


@dataclass(frozen=True, slots=True)
class RegionBce:
    """Binary cross-entropy a voxel and region, averaged.

    Notes
    -----
    Source: nnU-Net's region mode (Isensee et al., Nature Methods 18, 2021): overlapping regions are independent
    yes-or-no questions, so sigmoid and not softmax.
    """

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss (scalar) of logits (b, 3, z, y, x) against targets of that shape in [0, 1]."""
        return F.binary_cross_entropy_with_logits(logits, targets)


@dataclass(frozen=True, slots=True)
class SoftTarget:
    """Divergence of the student's softened probabilities from the teachers', times T².

    Both are softened in logit space: q = σ(logit(p) / T) for the teachers, σ(logit / T) for the student. The value is
    T² KL(q ‖ student): its gradient is that of the cross-entropy, and it is 0 exactly when the student agrees. The
    factor T² keeps the size of the gradient when T changes.

    Attributes
    ----------
    temperature : float
        T > 0; above 1 the teachers' doubts weigh more.
    clip : float
        Probabilities are limited to [clip, 1 − clip] first: a stored 0 or 1 is rounding, not certainty.

    Notes
    -----
    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531), section 2.
    """

    temperature: float = 2.0
    clip: float = 1e-3

    def __call__(
        self, logits: torch.Tensor, probabilities: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss (scalar).

        Parameters
        ----------
        logits : float tensor (b, 3, z, y, x)
            Of the student.
        probabilities : float tensor (b, 3, z, y, x)
            Of the teachers, in [0, 1].
        weight : float tensor (b,), optional
            Share of each sample; a sample of weight 0 counts for nothing, and all of weight 0 give the loss 0.
        """
        t = self.temperature
        target = torch.sigmoid(torch.logit(probabilities, self.clip) / t)
        cross = F.binary_cross_entropy_with_logits(logits / t, target, reduction="none")
        entropy = F.binary_cross_entropy(target, target, reduction="none")
        each = t * t * (cross - entropy).flatten(1).mean(1)
        if weight is None:
            return each.mean()
        return (each * weight).sum() / weight.sum().clamp_min(1e-9)


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss and what it is made of, each a scalar tensor before its weight: `total`, `dice`, `bce`, `soft`."""

    total: torch.Tensor
    dice: torch.Tensor
    bce: torch.Tensor
    soft: torch.Tensor


@dataclass(frozen=True, slots=True)
class DistillationLoss:
    """hard_weight · (Dice + BCE) against the truth + soft_weight · divergence from the teachers.

    A sample without soft labels adds to the first part alone.

    Attributes
    ----------
    temperature : float
        See `SoftTarget`.
    hard_weight, soft_weight : float
        Weights ≥ 0 of the two parts.
    """

    temperature: float = 2.0
    hard_weight: float = 1.0
    soft_weight: float = 1.0

    def __call__(self, logits: torch.Tensor, batch: Batch) -> LossTerms:
        """Return the loss of logits (b, 3, z, y, x), computed in float32 whatever their type."""
        logits = logits.float()
        targets = batch.targets()
        dice, bce = RegionDice()(logits, targets), RegionBce()(logits, targets)
        soft = torch.zeros((), device=logits.device)
        if self.soft_weight > 0 and bool(batch.has_soft.any()):
            soft = SoftTarget(self.temperature)(logits, batch.soft, batch.has_soft.float())
        return LossTerms(self.hard_weight * (dice + bce) + self.soft_weight * soft, dice, bce, soft)

"""What a student is trained to make small: overlap and cross-entropy with the truth, divergence from its teachers.

Weights say how much of a loss counts: (b, 3) for the regions of each sample, or a value a voxel. What weighs nothing
changes nothing; where nothing weighs anything the loss is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional as F

from glialite_distill.patches import Batch

__all__ = ["DistillationLoss", "LossTerms", "RegionBce", "RegionDice", "Regionwise", "SoftTarget", "weighted_mean"]

Regionwise = tuple[float, float, float]
"""A value for each of `REGIONS`."""


def weighted_mean(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Return the mean (scalar) of values (b, 3, z, y, x), weighted with (b, 3) or a tensor of their shape."""
    if weight is None:
        return values.mean()
    weight = weight[..., None, None, None].expand_as(values) if weight.ndim == 2 else weight
    return (values * weight).sum() / weight.sum().clamp_min(1e-9)


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

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss (scalar) of logits (b, 3, z, y, x) against targets of that shape in [0, 1].

        Samples of weight 0 in `weight` (b, 3) are left out of a region, a region without samples costs 0.
        """
        probabilities = torch.sigmoid(logits)
        if weight is not None:
            probabilities, targets = (each * weight[..., None, None, None] for each in (probabilities, targets))
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

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss (scalar) of logits (b, 3, z, y, x) against targets of that shape in [0, 1]."""
        return weighted_mean(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"), weight)


@dataclass(frozen=True, slots=True)
class SoftTarget:
    """Divergence of the student's softened probabilities from the teachers', times T².

    Both are softened in logit space: q = σ(logit(p) / T) for the teachers, σ(logit / T) for the student. The value is
    T² KL(q ‖ student): its gradient is that of the cross-entropy, and it is 0 exactly when the student agrees. The
    factor T² keeps the size of the gradient when T changes.

    Attributes
    ----------
    temperature : tuple of float
        T > 0 of each of `REGIONS`; above 1 the teachers' doubts weigh more.
    clip : float
        Probabilities are limited to [clip, 1 − clip] first: a stored 0 or 1 is rounding, not certainty.

    Notes
    -----
    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531), section 2.
    """

    temperature: Regionwise = (2.0, 2.0, 2.0)
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
        weight : float tensor, optional
            How much counts, see the module.
        """
        t = logits.new_tensor(self.temperature)[:, None, None, None]
        with torch.no_grad():
            wanted = torch.logit(probabilities, self.clip) / t
            target = torch.sigmoid(wanted)
            entropy = F.binary_cross_entropy_with_logits(wanted, target, reduction="none")
        cross = F.binary_cross_entropy_with_logits(logits / t, target, reduction="none")
        return weighted_mean(t * t * (cross - entropy), weight)


def _nothing() -> torch.Tensor:
    return torch.zeros(())


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss and what it is made of, each a scalar tensor before its weight.

    Attributes
    ----------
    total : Tensor
        The weighted sum.
    dice, bce, soft : Tensor
        See `DistillationLoss`.
    assistant, features, unlabelled : Tensor
        See `train_step`; 0 where a training has no such term.
    """

    total: torch.Tensor
    dice: torch.Tensor
    bce: torch.Tensor
    soft: torch.Tensor
    assistant: torch.Tensor = field(default_factory=_nothing)
    features: torch.Tensor = field(default_factory=_nothing)
    unlabelled: torch.Tensor = field(default_factory=_nothing)

    def plus(self, name: str, weight: float, value: torch.Tensor) -> LossTerms:
        """Return these terms with one more."""
        return replace(self, total=self.total + weight * value, **{name: value})


@dataclass(frozen=True, slots=True)
class DistillationLoss:
    """hard_weight · (Dice + BCE) against the truth + soft_weight · divergence from the teachers.

    A sample without soft labels adds to the first part alone; a region that its sequences cannot tell
    (`Batch.told`) adds to neither.

    Attributes
    ----------
    temperature : tuple of float
        See `SoftTarget`.
    hard_weight, soft_weight : float
        Weights ≥ 0 of the two parts.
    doubt : float
        In [0, 1]: a voxel on which the teachers' probabilities have the standard deviation d counts 1 − 2 · doubt · d
        in the second part, so with 1 not at all where half of them say yes and half no.
    """

    temperature: Regionwise = (2.0, 2.0, 2.0)
    hard_weight: float = 1.0
    soft_weight: float = 1.0
    doubt: float = 0.0

    def __call__(self, logits: torch.Tensor, batch: Batch) -> LossTerms:
        """Return the loss of logits (b, 3, z, y, x), computed in float32 whatever their type."""
        logits, told = logits.float(), batch.told()
        targets = batch.targets()
        dice, bce = RegionDice()(logits, targets, told), RegionBce()(logits, targets, told)
        soft = self.soft_loss(logits, batch)
        return LossTerms(self.hard_weight * (dice + bce) + self.soft_weight * soft, dice, bce, soft)

    def soft_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the divergence of float32 logits from the teachers alone; 0 without soft labels or weight."""
        if self.soft_weight == 0 or not bool(batch.has_soft.any()):
            return torch.zeros((), device=logits.device)
        weight = (batch.told() * batch.has_soft[:, None])[..., None, None, None].expand_as(logits)
        if self.doubt > 0:
            weight = weight * (1 - 2 * self.doubt * batch.doubt)
        return SoftTarget(self.temperature)(logits, batch.soft, weight)

"""The teachers' losses against values derived by hand, and against empty targets and half precision."""

from __future__ import annotations

import math

import pytest
import torch
from glialite_distill.teacher_losses import (
    TEACHER_LOSSES,
    DiceBoundaryLoss,
    DiceFocalLoss,
    DiceHausdorffLoss,
    LossSettings,
    boundary_loss,
    hausdorff_loss,
    region_focal_loss,
)
from glialite_runtime.errors import ConfigError
from monai.losses.hausdorff_loss import HausdorffDTLoss
from torch import nn

SURE = 50.0  # a logit whose sigmoid is 1 in float32
REGION_LOSSES = [name for name in TEACHER_LOSSES if name != "dice+ce"]


def line(*values: float) -> torch.Tensor:
    """Return one sample with the same row of voxels in all three regions, (1, 3, 1, 1, n)."""
    return torch.tensor(values, dtype=torch.float32)[None, None, None, None].repeat(1, 3, 1, 1, 1)


def settings(batch_dice: bool = False) -> LossSettings:
    return LossSettings(batch_dice, focal_gamma=2.0, boundary_weight=0.5)


def loss_of(name: str) -> nn.Module:
    """Return a loss as in the last epoch of a run."""
    loss = TEACHER_LOSSES[name](settings())
    if isinstance(loss, DiceBoundaryLoss):
        loss.set_epoch(9, 10)
    return loss


def test_dice_bce_by_hand() -> None:
    """Undecided on one true and one false voxel: Dice 2·.5 / (1 + 1) = .5, cross-entropy ln 2."""
    value = loss_of("dice+bce")(line(0, 0), line(1, 0))
    assert value.item() == pytest.approx(-0.5 + math.log(2), abs=1e-4)


def test_dice_ce_by_hand() -> None:
    """Four equal logits, one voxel each of labels 0 to 3: Dice of a label 2·.25 / (1 + 1), cross-entropy ln 4."""
    labels = torch.arange(4)[None, None, None, None]
    value = loss_of("dice+ce")(torch.zeros(1, 4, 1, 1, 4), labels)
    assert value.item() == pytest.approx(-0.25 + math.log(4), abs=1e-4)


def test_dice_focal_by_hand() -> None:
    """Undecided on one true and one false voxel: Dice .5, each voxel (1 − .5)² ln 2."""
    assert loss_of("dice+focal")(line(0, 0), line(1, 0)).item() == pytest.approx(-0.5 + math.log(2) / 4, abs=1e-4)


def test_batch_dice_pools_the_samples() -> None:
    """One voxel right in one sample, one false in the other: 2·1 / (2 + 1) over the batch; 1 and 0 apart."""
    logits = torch.cat((line(SURE, -SURE), line(SURE, -SURE)))
    target = torch.cat((line(1, 0), line(0, 0)))
    pooled, apart = (DiceFocalLoss(settings(b)).dice(logits, target).item() for b in (True, False))
    assert (pooled, apart) == (pytest.approx(-2 / 3, abs=1e-4), pytest.approx(-0.5, abs=1e-4))


def test_boundary_loss_of_an_undecided_network() -> None:
    """Distances 1, 0, −1, 0, 1 times .5, averaged: .1."""
    assert boundary_loss(line(0, 0, 0, 0, 0), line(0, 1, 1, 1, 0)).item() == pytest.approx(0.1)


def test_boundary_loss_grows_with_the_distance_of_an_error() -> None:
    """Of six voxels the first is true: a false one at distance 5 adds 5/6, one at distance 1 adds 1/6."""
    near, far = (torch.full((6,), -SURE) for _ in range(2))
    near[1], far[5] = SURE, SURE
    values = [boundary_loss(line(*row.tolist()), line(1, 0, 0, 0, 0, 0)).item() for row in (near, far)]
    assert values == [pytest.approx(1 / 6), pytest.approx(5 / 6)]


def test_boundary_loss_is_scheduled_in() -> None:
    """Weight 0, then a half of it, then all: the term of .1 is added 0, .5 · .5 and .5 times."""
    loss, logits, target = DiceBoundaryLoss(settings()), line(0, 0, 0, 0, 0), line(0, 1, 1, 1, 0)
    regions = loss.regions(logits, target).item()
    added = []
    for epoch in (0, 5, 10):
        loss.set_epoch(epoch, 11)
        added.append(loss(logits, target).item() - regions)
    assert added == pytest.approx([0, 0.025, 0.05], abs=1e-6)


@pytest.mark.parametrize("epoch", [0, 7])
def test_a_run_of_one_epoch_has_a_schedule(epoch: int) -> None:
    """Nothing divides by zero; beyond the end the weight stays what it was."""
    loss = DiceBoundaryLoss(settings())
    loss.set_epoch(epoch, 1)
    assert loss.weight == min(epoch, 1) * 0.5


def test_the_boundary_loss_does_not_run_without_its_schedule() -> None:
    """A trainer that forgets to say the epoch is told, instead of training without the term."""
    with pytest.raises(RuntimeError, match="set_epoch"):
        DiceBoundaryLoss(settings())(line(0), line(1))


def test_hausdorff_loss_by_hand() -> None:
    """True in the middle, found at the end of five voxels: both errors weigh 1² + 2², so (5 + 5) / 5."""
    value = hausdorff_loss(line(-SURE, -SURE, -SURE, -SURE, SURE), line(0, 0, 1, 0, 0))
    assert value.item() == pytest.approx(2.0, abs=1e-5)


def test_hausdorff_loss_is_monais() -> None:
    """On random blobs, one of the targets empty, the value and the gradient are those of the reference."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 6, 5, 7, generator=generator)
    target = (torch.rand(2, 3, 6, 5, 7, generator=generator) < 0.2).float()
    target[1, 2] = 0
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    reference = HausdorffDTLoss(sigmoid=True, include_background=True)(theirs, target)
    value = hausdorff_loss(mine, target)
    value.backward()
    reference.backward()
    assert value.item() == pytest.approx(reference.item(), rel=1e-5)
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_hausdorff_term_weighs_as_much_as_the_regions() -> None:
    """The value is Dice + BCE plus 1 + the same; without any distance the term is nothing."""
    loss, logits, target = DiceHausdorffLoss(settings()), line(2, -1, 0.5, -3), line(1, 1, 0, 0)
    regions = loss.regions(logits, target).item()
    assert loss(logits, target).item() == pytest.approx(1 + 2 * regions, abs=1e-6)
    nothing = line(-SURE, -SURE)
    assert loss(nothing, torch.zeros_like(nothing)).item() == loss.regions(nothing, torch.zeros_like(nothing)).item()


def test_region_focal_by_hand() -> None:
    """One true voxel missed at p = .2, three false ones at .5: (.8² ln 5 + .5² ln 2) / 2."""
    missed = math.log(0.2 / 0.8)
    value = region_focal_loss(line(missed, 0, 0, 0), line(1, 0, 0, 0), 2.0)
    assert value.item() == pytest.approx((0.64 * math.log(5) + 0.25 * math.log(2)) / 2, abs=1e-6)


def test_region_focal_does_not_ask_how_large_a_region_is() -> None:
    """One missed voxel of one costs as much as four of four."""
    missed, right = -1.0, -SURE
    small = region_focal_loss(line(missed, right, right, right, right), line(1, 0, 0, 0, 0), 2.0)
    large = region_focal_loss(line(missed, missed, missed, missed, right), line(1, 1, 1, 1, 0), 2.0)
    assert small.item() == pytest.approx(large.item(), rel=1e-6)


def test_region_focal_of_an_absent_region() -> None:
    """Only what is outside counts: .5² ln 2 of an undecided network, halved."""
    assert region_focal_loss(line(0, 0), line(0, 0), 2.0).item() == pytest.approx(math.log(2) / 8, abs=1e-6)


@pytest.mark.parametrize("name", ["dice+focal", "dice+region-focal"])
def test_a_focal_loss_without_its_exponent_is_refused(name: str) -> None:
    """The message says which setting is missing."""
    with pytest.raises(ConfigError, match="focal_gamma"):
        TEACHER_LOSSES[name](LossSettings())


@pytest.mark.parametrize("name", REGION_LOSSES)
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_targets_of_one_kind_give_finite_gradients(name: str, fill: float) -> None:
    """A batch of one that is all background, or all tumour, neither explodes nor divides by zero."""
    for scale in (1.0, 1e4):
        logits = (torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1)) * scale).requires_grad_()
        value = loss_of(name)(logits, torch.full((1, 3, 4, 4, 4), fill))
        value.backward()
        assert torch.isfinite(value)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_the_gradient_points_to_the_truth(name: str) -> None:
    """From undecided, each loss pushes up inside the target and down outside it, far away included."""
    target = torch.zeros(1, 3, 9, 9, 9)
    target[:, :, 3:6, 3:6, 3:6] = 1
    logits = torch.full_like(target, 0.1).requires_grad_()
    loss_of(name)(logits, target).backward()
    assert logits.grad is not None
    assert logits.grad[:, :, 4, 4, 4].max() < 0
    assert logits.grad[:, :, 0, 0, 0].min() > 0


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_following_the_gradient_ends_at_the_truth(name: str) -> None:
    """From a false island far away and nothing found, 60 steps of each loss alone give the true voxels."""
    target = torch.zeros(1, 3, 9, 9, 9)
    target[:, :, 2:5, 2:5, 2:5] = 1
    logits = torch.full_like(target, -2.0)
    logits[:, :, 7:, 7:, 7:] = 2.0
    logits.requires_grad_()
    optimizer, loss = torch.optim.Adam([logits], lr=0.3), loss_of(name)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    assert torch.equal(logits > 0, target > 0)


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_half_precision_logits_keep_the_value(name: str) -> None:
    """Squared distances of a long patch pass float16's range; logits in float16 give the float32 loss all the same."""
    target = torch.zeros(1, 3, 1, 1, 400)
    target[..., 0] = 1
    logits = torch.where(torch.arange(400) == 399, 4.0, -4.0).expand_as(target).clone()
    full = loss_of(name)(logits, target).item()
    with torch.autocast("cpu", torch.float16):
        half = loss_of(name)(logits.half(), target)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full, rel=5e-3)


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_integer_and_boolean_targets_are_taken(name: str) -> None:
    """nnU-Net hands regions over as integers or booleans."""
    target = torch.zeros(1, 3, 4, 4, 4)
    target[..., 1:3] = 1
    logits = torch.zeros_like(target)
    values = {loss_of(name)(logits, target.to(kind)).item() for kind in (torch.float32, torch.int16, torch.bool)}
    assert len(values) == 1

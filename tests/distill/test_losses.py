"""Losses against values derived by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from glialite_distill.losses import DistillationLoss, RegionBce, RegionDice, SoftTarget
from glialite_distill.patches import Batch

SURE = 50.0  # a logit whose sigmoid is 1 in float32


def region(values: list[float]) -> torch.Tensor:
    """Return one sample with the same values in all three regions, (1, 3, 1, 1, n)."""
    return torch.tensor(values)[None, None, None, None].expand(1, 3, 1, 1, -1)


def batch_of(labels: list[int], soft: list[float], has_soft: bool) -> Batch:
    n = len(labels)
    return Batch(
        torch.ones(1, 4, 1, 1, n),
        torch.tensor(labels, dtype=torch.uint8)[None, None, None],
        region(soft),
        region([0.0] * n),
        torch.tensor([has_soft]),
    )


def test_dice_of_two_voxels_of_which_one_is_right() -> None:
    """2·1 / (2 + 1) overlaps: the loss is a third."""
    loss = RegionDice(smooth=0)(region([SURE, SURE, -SURE]), region([1.0, 0.0, 0.0]))
    assert loss.item() == pytest.approx(1 / 3, abs=1e-6)


def test_dice_counts_half_a_probability_as_half_a_voxel() -> None:
    """Probability .5 on the one true voxel, smoothing 1: 1 − (2·.5 + 1) / (.5 + 1 + 1) = .2."""
    assert RegionDice()(region([0.0]), region([1.0])).item() == pytest.approx(0.2, abs=1e-6)


def test_dice_is_taken_over_the_batch() -> None:
    """One voxel right in one sample, one false in the other: 1 − 2·1 / (2 + 1), and not the mean of 0 and 1."""
    logits = torch.cat((region([SURE, -SURE]), region([SURE, -SURE])))
    targets = torch.cat((region([1.0, 0.0]), region([0.0, 0.0])))
    assert RegionDice(smooth=0)(logits, targets).item() == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize(("logit", "wanted"), [(-SURE, 0.0), (SURE, 1 - 1 / 3)])
def test_dice_of_an_absent_region(logit: float, wanted: float) -> None:
    """Nothing predicted costs 0, two false voxels cost 1 − 1 / (2 + 1)."""
    assert RegionDice()(region([logit, logit]), region([0.0, 0.0])).item() == pytest.approx(wanted, abs=1e-6)


def test_dice_averages_the_regions() -> None:
    """One region all wrong and two all right: a third."""
    targets = region([1.0, 0.0]).clone()
    logits = (targets - 0.5) * 2 * SURE
    logits[:, 1] *= -1
    assert RegionDice(smooth=0)(logits, targets).item() == pytest.approx(1 / 3, abs=1e-6)


def test_bce_of_an_undecided_voxel() -> None:
    """A logit of 0 costs ln 2 whatever the truth."""
    assert RegionBce()(region([0.0, 0.0]), region([1.0, 0.0])).item() == pytest.approx(math.log(2))


def test_soft_target_by_hand() -> None:
    """At T = 2, p = .8 is q = 2/3; a student at .5 is 4 · (2/3 ln 4/3 + 1/3 ln 2/3) away."""
    wanted = 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert SoftTarget((2.0, 2.0, 2.0))(region([0.0]), region([0.8])).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_target_is_zero_for_a_student_that_agrees(temperature: float) -> None:
    """Equal probabilities cost nothing at any temperature."""
    probabilities = region([0.1, 0.5, 0.97])
    loss = SoftTarget((temperature,) * 3)(torch.logit(probabilities), probabilities)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_soft_target_gradient_keeps_its_size_over_temperatures() -> None:
    """For small logits the gradient is (z − t) / 4 at every temperature, which is what T² is for."""
    for temperature in (1.0, 3.0, 10.0):
        logits = region([0.04]).clone().requires_grad_()
        SoftTarget((temperature,) * 3)(logits, torch.sigmoid(region([-0.02]))).backward()
        assert logits.grad is not None
        assert logits.grad.sum().item() == pytest.approx((0.04 + 0.02) / 4, rel=0.01)


def test_soft_target_takes_certain_teachers() -> None:
    """Stored zeros and ones give a finite loss and gradient."""
    logits = region([SURE, -SURE]).clone().requires_grad_()
    loss = SoftTarget()(logits, region([0.0, 1.0]))
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_soft_target_does_not_ask_for_more_certainty_than_was_stored() -> None:
    """Against a stored 0 a student at the clip of .001 is right, and one at .0001 is not."""
    right, beyond = (torch.logit(region([p])) for p in (1e-3, 1e-4))
    assert SoftTarget(clip=1e-3)(right, region([0.0])).item() == pytest.approx(0, abs=1e-6)
    assert SoftTarget(clip=1e-3)(beyond, region([0.0])).item() > 1e-3


def test_soft_target_leaves_samples_of_weight_zero_out() -> None:
    """A sample without soft labels changes nothing; none with any cost nothing."""
    logits, probabilities = region([0.0, 1.0]), region([0.8, 0.3])
    alone = SoftTarget()(logits, probabilities)
    both = torch.cat((logits, logits + 7)), torch.cat((probabilities, probabilities))
    assert SoftTarget()(*both, torch.tensor([[1.0] * 3, [0.0] * 3])).item() == pytest.approx(alone.item())
    assert SoftTarget()(*both, torch.zeros(2, 3)).item() == 0


def test_regions_of_the_truth() -> None:
    """Oedema is WT alone, necrosis WT and TC, enhancing tumour all three."""
    targets = batch_of([0, 1, 2, 3], [0.0] * 4, False).targets()[0, :, 0, 0]
    assert targets.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]


def test_the_whole_loss_is_the_weighted_sum() -> None:
    """The total is hard_weight · (Dice + BCE) + soft_weight · divergence."""
    batch, logits = batch_of([0, 3], [0.2, 0.9], True), region([0.3, -0.4])
    terms = DistillationLoss((3.0, 3.0, 3.0), 0.5, 2.0)(logits, batch)
    assert terms.dice.item() == pytest.approx(RegionDice()(logits, batch.targets()).item())
    assert terms.bce.item() == pytest.approx(RegionBce()(logits, batch.targets()).item())
    assert terms.soft.item() == pytest.approx(SoftTarget((3.0, 3.0, 3.0))(logits, batch.soft).item())
    wanted = 0.5 * (terms.dice + terms.bce) + 2 * terms.soft
    assert terms.total.item() == pytest.approx(wanted.item())


def test_without_soft_labels_only_the_truth_counts() -> None:
    """A batch without soft labels has no soft term."""
    terms = DistillationLoss()(region([0.3, -0.4]), batch_of([0, 3], [0.0, 0.0], False))
    assert terms.soft.item() == 0
    assert terms.total.item() == pytest.approx((terms.dice + terms.bce).item())


def test_half_precision_logits_are_computed_in_full() -> None:
    """A float16 logit gives the float32 loss."""
    logits, batch = region([0.5, -0.25]), batch_of([0, 3], [0.2, 0.9], True)
    assert DistillationLoss()(logits.half(), batch).total.dtype == torch.float32


def test_each_region_has_a_temperature() -> None:
    """At T = 1, 2 and 4 the three regions cost what each alone would cost, averaged."""
    logits, probabilities = region([0.3, -1.0]), region([0.8, 0.1])
    each = [SoftTarget((t, t, t))(logits, probabilities).item() for t in (1.0, 2.0, 4.0)]
    assert len({round(loss, 4) for loss in each}) == 3
    assert SoftTarget((1.0, 2.0, 4.0))(logits, probabilities).item() == pytest.approx(sum(each) / 3)


def test_voxels_that_teachers_dispute_count_less() -> None:
    """With doubt 1 a standard deviation of .5 counts nothing, one of .25 half; with doubt 0 all count alike."""
    batch = replace(batch_of([0, 0], [0.8, 0.2], True), doubt=region([0.5, 0.25]))
    logits = region([1.0, -0.4])
    sure = DistillationLoss(hard_weight=0, doubt=1.0)(logits, batch).soft
    assert sure.item() == pytest.approx(SoftTarget()(region([-0.4]), region([0.2])).item())
    assert DistillationLoss(doubt=0.0)(logits, batch).soft.item() == pytest.approx(
        SoftTarget()(logits, batch.soft).item()
    )


def test_dice_leaves_regions_of_weight_zero_out() -> None:
    """One sample right, one wrong but of no weight: no loss; without any weight no loss either."""
    logits = torch.cat((region([SURE, -SURE]), region([-SURE, SURE])))
    targets = torch.cat((region([1.0, 0.0]), region([1.0, 0.0])))
    assert RegionDice()(logits, targets, torch.tensor([[1.0] * 3, [0.0] * 3])).item() == pytest.approx(0, abs=1e-6)
    assert RegionDice()(logits, targets, torch.zeros(2, 3)).item() == 0
    assert RegionBce()(logits, targets, torch.tensor([[1.0] * 3, [0.0] * 3])).item() == pytest.approx(0, abs=1e-6)


def test_a_term_joins_the_total_with_its_weight() -> None:
    """Named, and added."""
    terms = DistillationLoss()(region([0.3]), batch_of([3], [0.2], True))
    more = terms.plus("assistant", 0.5, torch.tensor(4.0))
    assert more.assistant.item() == 4
    assert more.total.item() == pytest.approx(terms.total.item() + 2)

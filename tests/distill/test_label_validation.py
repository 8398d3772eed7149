"""Pseudo Dice by region for teachers that are trained on labels."""

from __future__ import annotations

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import pytest
import torch
from glialite_distill.label_validation import regions_of_labels, validation_by_region


def test_labels_become_nested_regions() -> None:
    """0 is nothing, oedema is WT alone, the core WT and TC, what enhances all three; the first channel stays empty."""
    regions = regions_of_labels(torch.tensor([[[0, 2, 1, 3]]]))
    assert regions[0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_overlaps_are_counted_by_region() -> None:
    """By hand: the core is taken for what enhances, one voxel of oedema is missed."""
    truth = torch.tensor([[[2.0, 2, 1, 3, 0]]])
    predicted = torch.nn.functional.one_hot(torch.tensor([[2, 0, 3, 3, 0]]), 4).movedim(-1, 1).half()
    with validation_by_region():
        tp, fp, fn, _ = nnunet_trainer_module.get_tp_fp_fn_tn(predicted, truth, axes=[0, 2], mask=None)
    assert (tp.tolist(), fp.tolist(), fn.tolist()) == ([0, 3, 2, 1], [0, 0, 0, 1], [0, 1, 0, 0])


def test_nnunets_own_counting_comes_back() -> None:
    """Also after an error."""
    before = nnunet_trainer_module.get_tp_fp_fn_tn
    with pytest.raises(ZeroDivisionError), validation_by_region():
        _ = 1 / 0
    assert nnunet_trainer_module.get_tp_fp_fn_tn is before

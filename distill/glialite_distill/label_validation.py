"""Validation of a teacher that is trained on labels: its pseudo Dice is that of the regions, as for all teachers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import torch
from glialite_runtime.sequences import REGION_LABELS, REGIONS

__all__ = ["regions_of_labels", "validation_by_region"]


def regions_of_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return what is no region (always 0), then `REGIONS`, as channels (n, 4, …) of 0 and 1 of a map (n, 1, …)."""
    regions = [torch.isin(labels, torch.tensor(REGION_LABELS[region], device=labels.device)) for region in REGIONS]
    return torch.cat([torch.zeros_like(regions[0]), *regions], 1).float()


@contextmanager
def validation_by_region() -> Iterator[None]:
    """Let nnU-Net's validation step count overlaps by region; it drops the first channel, its background, itself."""
    original = nnunet_trainer_module.get_tp_fp_fn_tn

    def by_region(prediction: torch.Tensor, target: torch.Tensor, **settings: Any) -> Any:
        labels = prediction.argmax(1, keepdim=True)
        return original(regions_of_labels(labels), regions_of_labels(target), **settings)

    nnunet_trainer_module.get_tp_fp_fn_tn = by_region
    try:
        yield
    finally:
        nnunet_trainer_module.get_tp_fp_fn_tn = original

"""What happens to a training patch between the file and the network, as a recipe says."""

from __future__ import annotations

from typing import Any, Final

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import (
    BrightnessAdditiveTransform,
    MultiplicativeBrightnessTransform,
)
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from glialite_distill.recipes import Recipe
from glialite_distill.teacher_augment import EXTRA_TRANSFORMS

__all__ = ["training_pipeline"]

_INTENSITY_RANGE: Final = 0.1  # scale 1 ± 0.1, shift by 0.1 SD: MONAI's BraTS pipeline; the paper names no numbers


def training_pipeline(recipe: Recipe, *args: Any, **kwargs: Any) -> BasicTransform:
    """Return the recipe's transforms; what it adds to them comes last before the background is masked.

    The arguments are those of nnU-Net's `get_training_transforms`.
    """
    transforms = _light(*args, **kwargs) if recipe.augmentation == "flip+intensity" else _full(*args, **kwargs)
    steps = list(transforms.transforms)
    masking = next(i for i, step in enumerate(steps) if isinstance(step, MaskImageTransform))
    extra = [build() for name, build in EXTRA_TRANSFORMS.items() if name in recipe.extra_augmentation]
    return ComposeTransforms([*steps[:masking], *extra, *steps[masking:]])


def _full(*args: Any, **kwargs: Any) -> BasicTransform:
    """Return nnU-Net's whole pipeline; its blur must not choose its algorithm by wall clock."""
    transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
    for transform in transforms.transforms:
        inner = getattr(transform, "transform", transform)
        if hasattr(inner, "benchmark"):
            inner.benchmark = False
    return transforms


def _light(*args: Any, **kwargs: Any) -> BasicTransform:
    """Return flips, intensity scale and shift (by channel, inside the brain), and the targets at every scale."""
    _, _, scales, mirror_axes, _ = args
    channels = [i for i, masked in enumerate(kwargs["use_mask_for_norm"]) if masked]
    spread = (1 - _INTENSITY_RANGE, 1 + _INTENSITY_RANGE)
    regions, targets = kwargs["regions"], []
    if regions is not None:
        targets.append(ConvertSegmentationToRegionsTransform(regions=regions, channel_in_seg=0))
    if scales is not None:
        targets.append(DownsampleSegForDSTransform(ds_scales=scales))
    return ComposeTransforms(
        [
            MultiplicativeBrightnessTransform(spread, synchronize_channels=False),
            BrightnessAdditiveTransform(0.0, _INTENSITY_RANGE, synchronize_channels=False),
            MirrorTransform(allowed_axes=mirror_axes),
            MaskImageTransform(apply_to_channels=channels, channel_idx_in_seg=0, set_outside_to=0),
            RemoveLabelTansform(-1, 0),
            *targets,
        ]
    )

"""nnU-Net's trainer driven by a recipe: its loop, its data loading, its losses; our schedule, saving and resuming."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import schedulefree
import torch
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
from glialite_runtime.files import replacing
from monai.losses.focal_loss import FocalLoss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule

from glialite_distill.mednext import MEDNEXT_STAGES, build_mednext
from glialite_distill.recipes import RECIPES, Recipe, learning_rate, trainer_name

__all__ = ["TRAINERS", "DiceFocalLoss", "GliaLiteTrainer", "MedNeXtTrainer", "register_trainers", "seed_everything"]

_NEVER: Final = 1 << 62
_INTENSITY_RANGE: Final = 0.1  # scale 1 ± 0.1, shift by 0.1 SD: MONAI's BraTS pipeline; the paper names no numbers


def seed_everything(seed: int) -> None:
    """Seed the three generators that nnU-Net draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - nnU-Net's data loader uses the global generator
    torch.manual_seed(seed)


class _EpochSchedule:
    """Sets the learning rate as a function of the epoch alone, so that a resumed run continues it exactly."""

    def __init__(self, trainer: GliaLiteTrainer) -> None:
        self.trainer = trainer

    def step(self, epoch: int) -> None:
        rate = learning_rate(self.trainer.recipe, epoch, self.trainer.num_epochs)
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = rate


class GliaLiteTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a recipe's numbers.

    The caller sets `num_epochs`, `num_iterations_per_epoch`, `num_val_iterations_per_epoch`, `base_seed` and
    `after_epoch` before training. Every epoch starts from seeds of its own, so a run that was interrupted between two
    epochs continues bit for bit (with augmentation in this process: nnU-Net's background workers have no seeds).
    """

    recipe: ClassVar[Recipe] = RECIPES["baseline"]

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.recipe.learning_rate
        self.weight_decay = self.recipe.weight_decay
        self.oversample_foreground_percent = self.recipe.oversample_foreground
        self.num_epochs = self.recipe.epochs
        self.save_every = _NEVER  # `save_latest` is called from outside, when it is worth it
        self.base_seed = 0
        self.after_epoch: Callable[[GliaLiteTrainer], None] = lambda _: None
        self.logger.plot_progress_png = lambda _: None  # a second an epoch; history.csv holds the numbers

    def initialize(self) -> None:
        """Build network, optimizer and loss; on a CPU in the memory layout that its convolutions are fastest in."""
        seed_everything(self.base_seed)
        super().initialize()
        if self.device.type == "cpu":
            self.network.to(memory_format=torch.channels_last_3d)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, _EpochSchedule]:
        """Return SGD with Nesterov momentum 0.99 and the recipe's schedule."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, _EpochSchedule(self)

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> BasicTransform:
        """Return nnU-Net's augmentation; its blur must not choose its algorithm by wall clock."""
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        for transform in transforms.transforms:
            inner = getattr(transform, "transform", transform)
            if hasattr(inner, "benchmark"):
                inner.benchmark = False
        return transforms

    def on_epoch_start(self) -> None:
        """Seed the epoch: what it draws depends on the run's seed and the epoch's number alone."""
        seed_everything(self.base_seed + 1 + self.current_epoch)
        super().on_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log the pseudo Dice; an epoch without any tumour voxel keeps the last average instead of poisoning it."""
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            super().on_validation_epoch_end(val_outputs)
        averages = self.logger.get_value("ema_fg_dice", step=None)
        if np.isnan(averages[-1]):
            averages[-1] = averages[-2] if len(averages) > 1 else 0.0

    def on_epoch_end(self) -> None:
        """Finish the epoch, then tell the caller, who may save or stop by raising."""
        super().on_epoch_end()
        self.after_epoch(self)

    def save_latest(self) -> None:
        """Save the state between two epochs as `checkpoint_latest.pth`."""
        self.current_epoch -= 1  # nnU-Net's saving adds one: it is meant to run before the counter moves
        try:
            self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_latest.pth"))  # noqa: PTH118
        finally:
            self.current_epoch += 1

    def save_checkpoint(self, filename: str) -> None:
        """Save in one step: a power cut leaves the old checkpoint, never half of a new one."""
        with replacing(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def load_checkpoint(self, filename_or_checkpoint: str | dict[str, Any]) -> None:
        """Continue from a checkpoint; the best average is the log's (the file is written before it is updated)."""
        super().load_checkpoint(filename_or_checkpoint)
        self._best_ema = max(self.logger.get_value("ema_fg_dice", step=None), default=None)

    def warm_start(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over another run's weights; optimizer, schedule and log start anew."""
        if not self.was_initialized:
            self.initialize()
        network = self.network._orig_mod if isinstance(self.network, OptimizedModule) else self.network
        network.load_state_dict(weights)

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Write nnU-Net's log file; stdout is for results."""
        del also_print_to_console
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def plot_network_architecture(self) -> None:
        """Do nothing: the drawing library is not there."""

    def _save_debug_information(self) -> None:
        """Do nothing: it would write the computer's name."""


class DiceFocalLoss(nn.Module):
    """Batch Dice plus focal loss on sigmoid regions.

    Parameters
    ----------
    gamma : float
        Exponent of the focal loss.

    Notes
    -----
    Source: Hashmi et al., arXiv:2411.15872 (γ = 2); Lin et al., arXiv:1708.02002.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.dice = MemoryEfficientSoftDiceLoss(
            apply_nonlin=torch.sigmoid, batch_dice=True, do_bg=True, smooth=1e-5, ddp=False
        )
        self.focal = FocalLoss(gamma=gamma)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of logits (n, 3, z, y, x) against regions of the same shape (0 or 1)."""
        loss: torch.Tensor = self.dice(logits, target) + self.focal(logits, target.float())
        return loss


class MedNeXtTrainer(GliaLiteTrainer):
    """The same with a MedNeXt, a schedule-free optimizer and a light augmentation."""

    recipe: ClassVar[Recipe] = RECIPES["mednext-b"]

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,  # noqa: ARG003 - nnU-Net calls it by these names
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,  # noqa: ARG003 - always built with its heads, else weights do not load
    ) -> nn.Module:
        """Return the recipe's MedNeXt in the plan's width."""
        filters = int(configuration_manager.configuration["mednext_filters"])
        channels = (num_input_channels, num_output_channels)
        return build_mednext(cls.recipe.architecture, filters, cls.recipe.kernel_size, channels)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the heads at lower resolutions on or off."""
        module = self.network.module if self.is_ddp else self.network
        (module._orig_mod if isinstance(module, OptimizedModule) else module).do_ds = enabled

    def _get_deep_supervision_scales(self) -> list[list[float]]:
        return [[1 / 2**stage] * 3 for stage in range(MEDNEXT_STAGES)]

    def _build_loss(self) -> nn.Module:
        weights = np.array([1 / 2**stage for stage in range(MEDNEXT_STAGES)])
        loss = DiceFocalLoss(self.recipe.focal_gamma or 0.0)
        return DeepSupervisionWrapper(loss, weights / weights.sum())

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, _EpochSchedule]:
        """Return schedule-free AdamW at a constant learning rate."""
        optimizer = schedulefree.AdamWScheduleFree(
            self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, _EpochSchedule(self)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, tuple[int, ...]]:  # noqa: N802 - nnU-Net's name
        """Return nnU-Net's settings with patches cut at their final size: nothing is rotated or scaled."""
        rotation, dummy_2d, _, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return rotation, dummy_2d, np.array(self.configuration_manager.patch_size), axes

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> BasicTransform:
        """Return flips, intensity scale and shift (by channel, inside the brain), and the targets at every scale."""
        _, _, scales, mirror_axes, _ = args
        channels = [i for i, masked in enumerate(kwargs["use_mask_for_norm"]) if masked]
        return ComposeTransforms(
            [
                MultiplicativeBrightnessTransform(
                    (1 - _INTENSITY_RANGE, 1 + _INTENSITY_RANGE), synchronize_channels=False
                ),
                BrightnessAdditiveTransform(0.0, _INTENSITY_RANGE, synchronize_channels=False),
                MirrorTransform(allowed_axes=mirror_axes),
                MaskImageTransform(apply_to_channels=channels, channel_idx_in_seg=0, set_outside_to=0),
                RemoveLabelTansform(-1, 0),
                ConvertSegmentationToRegionsTransform(regions=kwargs["regions"], channel_in_seg=0),
                DownsampleSegForDSTransform(ds_scales=scales),
            ]
        )

    def on_train_epoch_start(self) -> None:
        """Start the epoch with the optimizer's gradient points."""
        super().on_train_epoch_start()
        self.optimizer.train()

    def on_validation_epoch_start(self) -> None:
        """Validate (and save) the optimizer's averaged weights.

        The network stays in training mode for its five outputs; GroupNorm computes the same in both modes.
        """
        self.optimizer.eval()
        self.network.train()


def _trainer_of(recipe: Recipe) -> type[GliaLiteTrainer]:
    base = GliaLiteTrainer if recipe.architecture == "unet" else MedNeXtTrainer
    return type(
        trainer_name(recipe.name), (base,), {"recipe": recipe, "__doc__": recipe.summary, "__module__": __name__}
    )


TRAINERS: Final[Mapping[str, type[GliaLiteTrainer]]] = MappingProxyType(
    {name: _trainer_of(recipe) for name, recipe in RECIPES.items()}
)
"""Recipe name -> trainer class; nnU-Net names the results folder after the class."""


def register_trainers() -> None:
    """Let nnU-Net's own predictor find our trainers by name.

    nnU-Net looks into this module first; otherwise it imports every trainer that it ships, some of which need packages
    that are not installed.
    """
    for trainer in TRAINERS.values():
        setattr(nnunet_trainer_module, trainer.__name__, trainer)

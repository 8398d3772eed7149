"""nnU-Net's trainer driven by a recipe: its loop, its data loading, its losses; our schedule, saving and resuming."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import schedulefree
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from glialite_runtime.files import replacing
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from glialite_distill import transfer
from glialite_distill.carvemix_loader import carvemix_training
from glialite_distill.device import mixed_precision
from glialite_distill.label_validation import validation_by_region
from glialite_distill.mednext import MEDNEXT_STAGES
from glialite_distill.networks import dataset_of_recipe, plans_of_recipe
from glialite_distill.recipes import RECIPES, Recipe, cases_of, learning_rate, trainer_name
from glialite_distill.teacher_inputs import wants_mask_channel, with_mask_channel
from glialite_distill.teacher_losses import TEACHER_LOSSES, LossSettings
from glialite_distill.training_pipeline import training_pipeline

__all__ = ["TRAINERS", "GliaLiteTrainer", "register_trainers", "seed_everything", "trainer_of"]

LOG = logging.getLogger(__name__)

_NEVER: Final = 1 << 62
_UNUSED_SCALE: Final = 1e-6  # of nnU-Net's: under DDP a weight of 0 would leave parameters without a gradient


def seed_everything(seed: int) -> None:
    """Seed the three generators that nnU-Net draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - nnU-Net's data loader uses the global generator
    torch.manual_seed(seed)


def _in_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Return the outputs of a network in float32: a loss sums over more voxels than bfloat16 can count."""
    del module, inputs
    return [one.float() for one in outputs] if isinstance(outputs, (list, tuple)) else outputs.float()


class _EpochSchedule:
    """Sets the learning rates as a function of the epoch alone, so that a resumed run continues them exactly."""

    def __init__(self, trainer: GliaLiteTrainer) -> None:
        self.trainer = trainer

    def step(self, epoch: int) -> None:
        rate = learning_rate(self.trainer.recipe, epoch, self.trainer.num_epochs)
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)


class GliaLiteTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a recipe's network, optimizer, loss, augmentation and numbers.

    The caller sets `num_epochs`, `num_iterations_per_epoch`, `num_val_iterations_per_epoch`, `base_seed` and
    `after_epoch` before training. Every epoch starts from seeds of its own, so a run that was interrupted between two
    epochs continues bit for bit (with augmentation in this process: nnU-Net's background workers have no seeds).

    The network is written into the plans and so into every checkpoint: nnU-Net's own predictor builds it from there.
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
        plans = plans_of_recipe(plans, self.recipe)
        super().__init__(plans, configuration, fold, dataset_of_recipe(dataset_json, self.recipe), device)
        self.initial_lr = self.recipe.learning_rate
        self.weight_decay = self.recipe.weight_decay
        self.oversample_foreground_percent = self.recipe.oversample_foreground
        self.num_epochs = self.recipe.epochs
        self.enable_deep_supervision = self.recipe.deep_supervision
        self.save_every = _NEVER  # `save_latest` is called from outside, when it is worth it
        self.base_seed = 0
        self.after_epoch: Callable[[GliaLiteTrainer], None] = lambda _: None
        self.logger.plot_progress_png = lambda _: None  # a second an epoch; history.csv holds the numbers

    def initialize(self) -> None:
        """Build network, optimizer and loss; on a CPU in the memory layout that its convolutions are fastest in."""
        seed_everything(self.base_seed)
        super().initialize()
        if self.device.type == "cpu":
            self.network.register_forward_hook(_in_float32)
            if len(self.configuration_manager.patch_size) == 3:
                self.network.to(memory_format=torch.channels_last_3d)

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Return the network of the plans, with a channel for the brain where `prepare` was asked for one."""
        masked = wants_mask_channel(configuration_manager.configuration)
        channels = (num_input_channels + masked, num_output_channels)
        network: nn.Module = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, *channels, enable_deep_supervision
        )
        return with_mask_channel(network) if masked else network

    @property
    def plain_network(self) -> nn.Module:
        """The network without the wrappers of compilation and of distributed training."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        plain: nn.Module = network._orig_mod if isinstance(network, OptimizedModule) else network
        return plain

    def trainable_names(self) -> tuple[str, ...]:
        """Return the names of the tensors that the recipe trains."""
        part = self.recipe.finetune.part if self.recipe.finetune else "all"
        return transfer.trainable_names(self.plain_network, part)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, _EpochSchedule]:
        """Freeze what does not train, then return the recipe's optimizer and schedule."""
        network, finetune = self.plain_network, self.recipe.finetune
        names = self.trainable_names()
        transfer.freeze_except(network, names)
        if finetune is not None:
            count = len(list(network.parameters()))
            listed = "all" if len(names) == count else " ".join(names)
            LOG.info("%s trains %d of %d tensors: %s", self.recipe.name, len(names), count, listed)
        rates = finetune.layer_rates if finetune else None
        parameters: Any = (
            transfer.parameter_groups(network, rates, self.initial_lr)
            if rates
            else [p for p in network.parameters() if p.requires_grad]
        )
        settings: dict[str, Any] = {"lr": self.initial_lr, "weight_decay": self.weight_decay}
        return _OPTIMIZERS[self.recipe.optimizer](parameters, **settings), _EpochSchedule(self)

    def _get_deep_supervision_scales(self) -> Any:
        if not self.recipe.is_mednext:
            return super()._get_deep_supervision_scales()
        return [[1 / 2**stage] * 3 for stage in range(MEDNEXT_STAGES)]

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the heads at lower resolutions on or off."""
        if self.recipe.is_mednext:
            self.plain_network.do_ds = enabled  # type: ignore[assignment]  # MONAI's switch, a plain bool
        elif self.recipe.deep_supervision:
            super().set_deep_supervision_enabled(enabled)

    def _build_loss(self) -> nn.Module:
        settings = LossSettings(self.recipe.batch_dice, self.recipe.focal_gamma, ddp=self.is_ddp)
        loss: Any = TEACHER_LOSSES[self.recipe.loss](settings)
        if self._do_i_compile() and hasattr(loss, "dc"):
            loss.dc = torch.compile(loss.dc)  # as nnU-Net does
        if not self.recipe.deep_supervision:
            return loss
        weights = 0.5 ** np.arange(len(self._get_deep_supervision_scales()))
        if not self.recipe.is_mednext:  # nnU-Net leaves its lowest resolution out
            weights[-1] = _UNUSED_SCALE if self.is_ddp else 0
        return DeepSupervisionWrapper(loss, weights / weights.sum())

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's training and validation cases, those of the recipe's site only."""
        training, validation = super().do_split()
        return list(cases_of(self.recipe, training)), list(cases_of(self.recipe, validation))

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders, that for training with CarveMix where the recipe wants it."""
        mixing = "carvemix" in self.recipe.extra_augmentation
        with carvemix_training() if mixing else nullcontext():
            return super().get_dataloaders()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, tuple[int, ...]]:  # noqa: N802 - nnU-Net's name
        """Return nnU-Net's settings; where nothing is rotated or scaled, patches are cut at their final size."""
        rotation, dummy_2d, initial, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        light = self.recipe.augmentation == "flip+intensity"
        return rotation, dummy_2d, np.array(self.configuration_manager.patch_size) if light else initial, axes

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> BasicTransform:
        """Return the recipe's augmentation."""
        return training_pipeline(cls.recipe, *args, **kwargs)

    def on_epoch_start(self) -> None:
        """Seed the epoch: what it draws depends on the run's seed and the epoch's number alone."""
        seed_everything(self.base_seed + 1 + self.current_epoch)
        loss: Any = getattr(self.loss, "loss", self.loss)
        if hasattr(loss, "set_epoch"):
            loss.set_epoch(self.current_epoch, self.num_epochs)
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Start the epoch; a schedule-free optimizer goes to its gradient points."""
        super().on_train_epoch_start()
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()

    def on_validation_epoch_start(self) -> None:
        """Validate (and save) a schedule-free optimizer's averaged weights.

        MedNeXt stays in training mode, in which it has its five outputs; GroupNorm computes the same in both modes.
        """
        super().on_validation_epoch_start()
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()
        self.network.train(self.recipe.is_mednext)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take nnU-Net's step; it has mixed precision on CUDA alone, we have it on processors that can."""
        with self._precision():
            outcome: dict[str, Any] = super().train_step(batch)
        return outcome

    def _precision(self) -> AbstractContextManager[Any]:
        """Return mixed precision on a CPU for nnU-Net's networks; depthwise convolutions and GroupNorm lose by it."""
        if self.device.type != "cpu" or not self.recipe.architecture.startswith(("nnunet", "resenc")):
            return nullcontext()
        strides = np.prod(self.configuration_manager.pool_op_kernel_sizes, axis=0)
        return mixed_precision(self.device, int(min(self.configuration_manager.patch_size // strides)))

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return nnU-Net's loss and overlaps, these by region whatever the network is trained on."""
        with self._precision(), nullcontext() if self.label_manager.has_regions else validation_by_region():
            outcome: dict[str, Any] = super().validation_step(batch)
        return outcome

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
        """Save in one step: a power cut leaves the old file, never half a new one. Of several processes one saves."""
        if self.local_rank:
            return
        with replacing(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def load_checkpoint(self, filename_or_checkpoint: str | dict[str, Any]) -> None:
        """Continue from a checkpoint; the best average is the log's (the file is written before it is updated)."""
        super().load_checkpoint(filename_or_checkpoint)
        self._best_ema = max(self.logger.get_value("ema_fg_dice", step=None), default=None)

    def warm_start(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over another run's weights; optimizer, schedule and log start anew.

        Smaller kernels are interpolated (UpKern); where the recipe says so, what it trains starts from fresh weights.
        """
        if not self.was_initialized:
            self.initialize()
        network = self.plain_network
        network.load_state_dict(transfer.upkern(weights, network) if self.recipe.is_mednext else weights)
        if self.recipe.finetune is not None and self.recipe.finetune.reinitialise:
            transfer.reinitialise(network, self.trainable_names(), self.base_seed)

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Write nnU-Net's log file; stdout is for results."""
        del also_print_to_console
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def plot_network_architecture(self) -> None:
        """Do nothing: the drawing library is not there."""

    def _save_debug_information(self) -> None:
        """Do nothing: it would write the computer's name."""


_OPTIMIZERS: Final[Mapping[str, Callable[..., torch.optim.Optimizer]]] = MappingProxyType(
    {
        "sgd": partial(torch.optim.SGD, momentum=0.99, nesterov=True),
        "adamw": torch.optim.AdamW,
        "schedule-free-adamw": schedulefree.AdamWScheduleFree,
    }
)


def trainer_of(recipe: Recipe) -> type[GliaLiteTrainer]:
    """Return a recipe's trainer class, named after it: nnU-Net names results folders and looks trainers up by class.

    Recipes of one name have classes of one name, whatever their values: predicting needs the plans alone.
    """
    return type(
        trainer_name(recipe.name),
        (GliaLiteTrainer,),
        {"recipe": recipe, "__doc__": recipe.summary, "__module__": __name__},
    )


TRAINERS: Final[Mapping[str, type[GliaLiteTrainer]]] = MappingProxyType(
    {name: trainer_of(recipe) for name, recipe in RECIPES.items()}
)
"""Recipe name -> trainer class."""


def register_trainers() -> None:
    """Let nnU-Net's own predictor find our trainers by name.

    nnU-Net looks into this module first; otherwise it imports every trainer that it ships, some of which need packages
    that are not installed.
    """
    for trainer in TRAINERS.values():
        setattr(nnunet_trainer_module, trainer.__name__, trainer)

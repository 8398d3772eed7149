"""The trainers: augmentation, loss, seeds, saving and exact resuming."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.recipes import RECIPES, trainer_name
from glialite_distill.trainers import TRAINERS, DiceFocalLoss, GliaLiteTrainer, MedNeXtTrainer
from glialite_distill.workspace import CONFIGURATION, Workspace


class Stop(Exception):  # noqa: N818 - an orderly stop
    """Raised after an epoch, as a time limit would."""


@contextmanager
def quietly(workspace: Workspace) -> Iterator[None]:
    """Let nnU-Net work in the workspace without workers and without printing."""
    with (
        nnunet.environment(workspace.root),
        nnunet.quiet(),
        nnunet.single_process_augmentation(nnunet_trainer_module),
    ):
        yield


def trainer_of(workspace: Workspace, recipe: str, folder: Path, epochs: int = 2) -> GliaLiteTrainer:
    """Return an initialised trainer that writes into `folder`."""
    plans, dataset = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    plans["continue_training"] = False
    trainer = TRAINERS[recipe](plans, CONFIGURATION, 0, dataset, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = epochs, 1, 1
    trainer.base_seed = 7
    trainer.output_folder_base = str(folder)
    trainer.output_folder = str(folder)
    trainer.log_file = str(folder / "log.txt")
    trainer.initialize()
    return trainer


def weights_of(trainer: GliaLiteTrainer) -> dict[str, torch.Tensor]:
    """Return a copy of the network's weights."""
    return {k: v.clone() for k, v in trainer.network.state_dict().items()}


def transforms_of(trainer: GliaLiteTrainer) -> Any:
    """Return the training transforms as the data loader gets them."""
    loader, _ = trainer.get_dataloaders()
    return loader.data_loader.transforms


@pytest.mark.parametrize("recipe", ["baseline", "mednext-b"])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(recipe: str, prepared: Workspace, tmp_path: Path) -> None:
    """Stopped after the first epoch, saved, loaded into a new trainer and finished: the same weights and log."""
    with quietly(prepared):
        whole = trainer_of(prepared, recipe, tmp_path)
        whole.run_training()

        def stop(trainer: GliaLiteTrainer) -> None:
            trainer.save_latest()
            raise Stop

        first = trainer_of(prepared, recipe, tmp_path)
        first.after_epoch = stop
        with pytest.raises(Stop):
            first.run_training()
        second = trainer_of(prepared, recipe, tmp_path)
        second.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
        assert second.current_epoch == 1
        second.run_training()
    for key, value in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    assert second.logger.get_value("val_losses", None) == whole.logger.get_value("val_losses", None)


def test_the_seed_decides_the_network(prepared: Workspace, tmp_path: Path) -> None:
    """Whatever was drawn before, the same seed starts from the same weights."""
    with quietly(prepared):
        first = weights_of(trainer_of(prepared, "baseline", tmp_path))
        torch.rand(5)
        second = weights_of(trainer_of(prepared, "baseline", tmp_path))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_checkpoint_replaces_the_old_one_or_leaves_it(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing fails half way, the checkpoint before is whole and nothing else is left."""
    with quietly(prepared):
        trainer = trainer_of(prepared, "baseline", tmp_path)
        trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
        before = (tmp_path / "checkpoint_latest.pth").read_bytes()

        def broken(_: Any, path: str) -> None:
            Path(path).write_bytes(b"half")
            raise RuntimeError("power cut")

        monkeypatch.setattr(torch, "save", broken)
        with pytest.raises(RuntimeError, match="power cut"):
            trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert (tmp_path / "checkpoint_latest.pth").read_bytes() == before
    assert not list(tmp_path.glob(".*part"))


def test_no_computer_name_is_written(prepared: Workspace, tmp_path: Path) -> None:
    """nnU-Net's debug file with the host name is not made."""
    with quietly(prepared):
        trainer = trainer_of(prepared, "baseline", tmp_path, epochs=1)
        trainer.on_train_start()
    assert not (tmp_path / "debug.json").exists()


def test_the_schedule_free_weights_are_saved_in_evaluation_form(prepared: Workspace, tmp_path: Path) -> None:
    """A checkpoint holds the averaged weights, not the gradient points."""
    with quietly(prepared):
        trainer = trainer_of(prepared, "mednext-b", tmp_path, epochs=1)
        trainer.run_training()
    saved = torch.load(tmp_path / "checkpoint_final.pth", weights_only=False)
    assert all(group["train_mode"] is False for group in saved["optimizer_state"]["param_groups"])


def test_an_epoch_without_tumour_does_not_poison_the_average(prepared: Workspace, tmp_path: Path) -> None:
    """Dice is then not defined; the running average stays what it was."""
    with quietly(prepared):
        trainer = trainer_of(prepared, "baseline", tmp_path)
        some = {"loss": np.array(1.0), "tp_hard": np.full(3, 4), "fp_hard": np.zeros(3), "fn_hard": np.zeros(3)}
        trainer.on_validation_epoch_end([some])
        trainer.current_epoch = 1
        trainer.on_validation_epoch_end([{**some, "tp_hard": np.zeros(3)}])
    assert trainer.logger.get_value("ema_fg_dice", None) == [1.0, 1.0]


def test_blur_does_not_choose_its_algorithm_by_wall_clock(prepared: Workspace, tmp_path: Path) -> None:
    """nnU-Net's pipeline is there, with its one time-dependent transform made deterministic."""
    with quietly(prepared):
        inner = [
            getattr(t, "transform", t) for t in transforms_of(trainer_of(prepared, "baseline", tmp_path)).transforms
        ]
    assert {type(t).__name__ for t in inner} >= {"SpatialTransform", "GaussianBlurTransform", "MirrorTransform"}
    assert [t.benchmark for t in inner if hasattr(t, "benchmark")] == [False]


def test_the_light_augmentation_keeps_the_background_zero(prepared: Workspace, tmp_path: Path) -> None:
    """Intensities are shifted inside the brain only; targets are the three regions at five scales."""
    with quietly(prepared):
        transforms = transforms_of(trainer_of(prepared, "mednext-b", tmp_path))
    image = torch.ones(4, 32, 32, 32)
    labels = torch.full((1, 32, 32, 32), -1, dtype=torch.int16)
    labels[:, 8:24, 8:24, 8:24] = 0
    labels[:, 12:20, 12:20, 12:20] = 3
    image[:, labels[0] < 0] = 0
    torch.manual_seed(0)
    out = transforms(image=image.clone(), segmentation=labels.clone())
    assert torch.equal(out["image"][0] == 0, image[0] == 0)
    assert not torch.equal(out["image"], image)
    assert [tuple(s.shape) for s in out["segmentation"]] == [(3, *[32 >> i] * 3) for i in range(5)]
    assert [int(r.sum()) for r in out["segmentation"][0]] == [512, 512, 512]


def test_dice_focal_prefers_the_truth() -> None:
    """A perfect prediction scores near −1, its opposite near 0 plus a large focal term."""
    target = torch.zeros(2, 3, 8, 8, 8)
    target[:, :, 2:6, 2:6, 2:6] = 1
    loss = DiceFocalLoss(2.0)
    right, wrong = (float(loss(sign * (target * 20 - 10), target)) for sign in (1, -1))
    assert right == pytest.approx(-1, abs=1e-3)
    assert wrong > 1


def test_batch_dice_pools_the_batch() -> None:
    """An empty sample beside a perfect one does not halve the score, as Dice by sample would."""
    target = torch.zeros(2, 3, 8, 8, 8)
    target[0, :, 2:6, 2:6, 2:6] = 1
    logits = target * 20 - 10
    logits[1, :, 0, 0, 0] = 10
    assert float(DiceFocalLoss(2.0).dice(logits, target)) < -0.98


def test_every_recipe_has_a_trainer_of_its_own() -> None:
    """nnU-Net names the results folder after the class, so names must differ."""
    assert {name: t.__name__ for name, t in TRAINERS.items()} == {name: trainer_name(name) for name in RECIPES}
    assert len({t.__name__ for t in TRAINERS.values()}) == len(RECIPES)
    assert issubclass(TRAINERS["mednext-m"], MedNeXtTrainer)
    assert TRAINERS["mednext-m"].recipe.name == "mednext-m"


def test_a_warm_start_takes_weights_only(prepared: Workspace, tmp_path: Path) -> None:
    """Momentum, epoch and log start anew."""
    with quietly(prepared):
        parent = trainer_of(prepared, "baseline", tmp_path, epochs=1)
        parent.run_training()
        child = trainer_of(prepared, "grokking", tmp_path)
        child.warm_start(copy.deepcopy(parent.network.state_dict()))
    assert all(torch.equal(child.network.state_dict()[k], v) for k, v in parent.network.state_dict().items())
    assert (child.current_epoch, len(child.optimizer.state), child.logger.get_value("lrs", None)) == (0, 0, [])

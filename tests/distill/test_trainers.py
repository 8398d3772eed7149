"""The trainers: augmentation, loss, seeds, saving and exact resuming."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.input_options import InputOptions
from glialite_distill.recipes import RECIPES, Recipe, trainer_name
from glialite_distill.trainers import TRAINERS, GliaLiteTrainer, register_trainers, trainer_of
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import ConfigError
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


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


def start(workspace: Workspace, recipe: Recipe | str, folder: Path, epochs: int = 2) -> GliaLiteTrainer:
    """Return an initialised trainer that writes into `folder`."""
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    plans, dataset = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    plans["continue_training"] = False
    trainer = trainer_of(recipe)(plans, recipe.configuration, 0, dataset, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = epochs, 1, 1
    trainer.base_seed = 7
    folder.mkdir(exist_ok=True)
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


@pytest.mark.parametrize("recipe", ["baseline", "grokking", "mednext-b", "mednext-b-layerwise", "nnunet-2d"])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(recipe: str, prepared: Workspace, tmp_path: Path) -> None:
    """Stopped after the first epoch, saved, loaded into a new trainer and finished: the same weights and log."""
    with quietly(prepared):
        whole = start(prepared, recipe, tmp_path)
        whole.run_training()

        def stop(trainer: GliaLiteTrainer) -> None:
            trainer.save_latest()
            raise Stop

        first = start(prepared, recipe, tmp_path)
        first.after_epoch = stop
        with pytest.raises(Stop):
            first.run_training()
        second = start(prepared, recipe, tmp_path)
        second.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
        assert second.current_epoch == 1
        second.run_training()
    for key, value in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    for curve in ("train_losses", "val_losses", "ema_fg_dice", "lrs"):
        assert second.logger.get_value(curve, None) == whole.logger.get_value(curve, None)


def test_the_seed_decides_the_network(prepared: Workspace, tmp_path: Path) -> None:
    """Whatever was drawn before, the same seed starts from the same weights."""
    with quietly(prepared):
        first = weights_of(start(prepared, "baseline", tmp_path))
        torch.rand(5)
        second = weights_of(start(prepared, "baseline", tmp_path))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_checkpoint_replaces_the_old_one_or_leaves_it(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing fails half way, the checkpoint before is whole and nothing else is left."""
    with quietly(prepared):
        trainer = start(prepared, "baseline", tmp_path)
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
        trainer = start(prepared, "baseline", tmp_path, epochs=1)
        trainer.on_train_start()
    assert not (tmp_path / "debug.json").exists()


def test_the_schedule_free_weights_are_saved_in_evaluation_form(prepared: Workspace, tmp_path: Path) -> None:
    """A checkpoint holds the averaged weights, not the gradient points."""
    with quietly(prepared):
        trainer = start(prepared, "mednext-b", tmp_path, epochs=1)
        trainer.run_training()
    saved = torch.load(tmp_path / "checkpoint_final.pth", weights_only=False)
    assert all(group["train_mode"] is False for group in saved["optimizer_state"]["param_groups"])


def test_an_epoch_without_tumour_does_not_poison_the_average(prepared: Workspace, tmp_path: Path) -> None:
    """Dice is then not defined; the running average stays what it was."""
    with quietly(prepared):
        trainer = start(prepared, "baseline", tmp_path)
        some = {"loss": np.array(1.0), "tp_hard": np.full(3, 4), "fp_hard": np.zeros(3), "fn_hard": np.zeros(3)}
        trainer.on_validation_epoch_end([some])
        trainer.current_epoch = 1
        trainer.on_validation_epoch_end([{**some, "tp_hard": np.zeros(3)}])
    assert trainer.logger.get_value("ema_fg_dice", None) == [1.0, 1.0]


def test_blur_does_not_choose_its_algorithm_by_wall_clock(prepared: Workspace, tmp_path: Path) -> None:
    """nnU-Net's pipeline is there, with its one time-dependent transform made deterministic."""
    with quietly(prepared):
        inner = [getattr(t, "transform", t) for t in transforms_of(start(prepared, "baseline", tmp_path)).transforms]
    assert {type(t).__name__ for t in inner} >= {"SpatialTransform", "GaussianBlurTransform", "MirrorTransform"}
    assert [t.benchmark for t in inner if hasattr(t, "benchmark")] == [False]


def test_the_light_augmentation_keeps_the_background_zero(prepared: Workspace, tmp_path: Path) -> None:
    """Intensities are shifted inside the brain only; targets are the three regions at five scales."""
    with quietly(prepared):
        transforms = transforms_of(start(prepared, "mednext-b", tmp_path))
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


def test_every_recipe_has_a_trainer_of_its_own() -> None:
    """nnU-Net names the results folder after the class, so names must differ."""
    assert {name: t.__name__ for name, t in TRAINERS.items()} == {name: trainer_name(name) for name in RECIPES}
    assert len({t.__name__ for t in TRAINERS.values()}) == len(RECIPES)
    assert issubclass(TRAINERS["mednext-m"], GliaLiteTrainer)
    assert TRAINERS["mednext-m"].recipe.name == "mednext-m"


def test_a_warm_start_takes_weights_only(prepared: Workspace, tmp_path: Path) -> None:
    """Momentum, epoch and log start anew."""
    with quietly(prepared):
        parent = start(prepared, "baseline", tmp_path, epochs=1)
        parent.run_training()
        child = start(prepared, "grokking", tmp_path)
        child.warm_start(copy.deepcopy(parent.network.state_dict()))
    assert all(torch.equal(child.network.state_dict()[k], v) for k, v in parent.network.state_dict().items())
    assert (child.current_epoch, len(child.optimizer.state), child.logger.get_value("lrs", None)) == (0, 0, [])


@pytest.mark.parametrize("name", ["baseline", "baseline-labels", "mednext-b", "segresnet", "nnunet-2d", "resenc-m"])
def test_nnunets_own_predictor_reads_what_a_trainer_leaves(name: str, prepared: Workspace, tmp_path: Path) -> None:
    """A results folder of every kind of network: nnU-Net builds it, loads the weights and segments a volume."""
    with quietly(prepared):
        trainer = start(prepared, name, tmp_path / "fold_0", epochs=1)
        trainer.output_folder_base = str(tmp_path)
        trainer.run_training()
    register_trainers()
    with nnunet.quiet():
        predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(tmp_path), (0,))
        image = np.random.default_rng(0).normal(size=(4, 40, 36, 44)).astype(np.float32)
        labels, probabilities = predictor.predict_single_npy_array(image, {"spacing": [2, 2, 2]}, None, None, True)
    assert labels.shape == image.shape[1:]
    assert probabilities.shape == (4 if name == "baseline-labels" else 3, *image.shape[1:])
    for key, value in predictor.network.state_dict().items():
        assert torch.equal(value, trainer.network.state_dict()[key])


def test_an_overridden_network_is_rebuilt_from_its_plans(prepared: Workspace, tmp_path: Path) -> None:
    """What a results folder holds needs no recipe: kernels of 5 come back although the table says 3."""
    with quietly(prepared):
        trainer = start(prepared, replace(RECIPES["mednext-b"], kernel_size=5), tmp_path / "fold_0", epochs=1)
        trainer.output_folder_base = str(tmp_path)
        trainer.run_training()
    register_trainers()
    with nnunet.quiet():
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(tmp_path), (0,))
    assert predictor.network.state_dict()["enc_stages.0.0.conv1.weight"].shape[2:] == (5, 5, 5)


def test_upkern_starts_larger_kernels_from_smaller_ones(prepared: Workspace, tmp_path: Path) -> None:
    """Depthwise kernels are the trilinear interpolation to 5³, every other tensor is bit-equal."""
    with quietly(prepared):
        small = weights_of(start(prepared, "mednext-b", tmp_path))
        large = start(prepared, "mednext-b-k5", tmp_path)
        large.warm_start(small)
    for key, value in large.network.state_dict().items():
        same = value.shape == small[key].shape
        wanted = small[key] if same else torch.nn.functional.interpolate(small[key], size=(5, 5, 5), mode="trilinear")
        assert torch.equal(value, wanted), key


@pytest.mark.parametrize("fresh", [False, True])
def test_finetuning_trains_the_last_decoder_block_and_the_heads(
    fresh: bool, prepared: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything else stays bit-equal to what was loaded; with re-initialisation that part starts anew."""
    name = "mednext-b-finetune-reinit" if fresh else "mednext-b-finetune"
    with quietly(prepared), caplog.at_level("INFO"):
        parent = weights_of(start(prepared, "mednext-b", tmp_path))
        trainer = start(prepared, name, tmp_path, epochs=1)
        trainer.base_seed = 8
        trainer.warm_start(parent)
        loaded = weights_of(trainer)
        trainer.run_training()
    names = set(trainer.trainable_names())
    assert {n.split(".")[0] for n in names} == {"out_0", "out_blocks", "up_blocks", "dec_stages"}
    assert f"{name} trains {len(names)} of" in caplog.text
    assert sorted(names)[0] in caplog.text
    changed = {key for key, value in trainer.network.state_dict().items() if not torch.equal(value, parent[key])}
    assert changed
    assert changed <= names
    assert {key for key in parent if not torch.equal(loaded[key], parent[key])} <= (names if fresh else set())
    assert fresh == any(not torch.equal(loaded[key], parent[key]) for key in names)


def test_a_recipe_for_one_site_sees_no_other_case(prepared: Workspace, tmp_path: Path) -> None:
    """A fold without cases of the site is refused before training."""
    with quietly(prepared):
        trainer = start(prepared, replace(RECIPES["mednext-b-finetune"], site="GLI"), tmp_path)
        with pytest.raises(ConfigError, match="cases of GLI only"):
            trainer.on_train_start()


def test_a_scheduled_loss_is_told_the_epoch(prepared: Workspace, tmp_path: Path) -> None:
    """The boundary loss starts without weight and ends with all of it."""
    with quietly(prepared):
        trainer = start(prepared, replace(RECIPES["baseline"], loss="dice+boundary"), tmp_path)
        weights = []
        for trainer.current_epoch in (0, 1):
            trainer.on_epoch_start()
            weights.append(trainer.loss.loss.weight)
    assert weights == [0.0, 1.0]


def test_a_brain_channel_is_part_of_the_network(prepared: Workspace, tmp_path: Path) -> None:
    """Where the plans ask for it: one input channel more, made from the four that the files have."""
    plans, dataset = nnunet.plans_and_dataset(prepared.root, prepared.plan)
    plans = InputOptions(mask_channel=True).in_plans(plans)
    plans["continue_training"] = False
    with quietly(prepared):
        trainer = TRAINERS["mednext-b"](plans, "3d_fullres", 0, dataset, torch.device("cpu"))
        trainer.log_file = str(tmp_path / "log.txt")
        trainer.initialize()
        trainer.dataloader_train, _ = trainer.get_dataloaders()
        trainer.network.train()
        trainer.optimizer.train()
        assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert trainer.network.state_dict()["stem.weight"].shape[1] == 5


def test_dice_is_compiled_where_nnunet_compiles(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, as nnU-Net does; here it is only asked for."""
    with quietly(prepared):
        trainer = start(prepared, "baseline", tmp_path)
    monkeypatch.setattr(trainer, "_do_i_compile", lambda: True)
    monkeypatch.setattr(torch, "compile", torch.nn.Sequential)
    (dice,) = trainer._build_loss().loss.dc
    assert type(dice).__name__ == "MemoryEfficientSoftDiceLoss"


def test_a_label_teachers_history_is_by_region(prepared: Workspace, tmp_path: Path) -> None:
    """Oedema seen where all is enhancing tumour: WT is right, TC and ET are missed."""
    with quietly(prepared):
        trainer = start(prepared, "baseline-labels", tmp_path)
    scales = [(2, 1, 8 >> i, 8 >> i, 8 >> i) for i in range(len(trainer._get_deep_supervision_scales()))]
    oedema = torch.tensor([0.0, 0.0, 9.0, 0.0]).view(1, 4, 1, 1, 1)
    trainer.network = lambda _: [oedema.expand(2, 4, *shape[2:]) for shape in scales]
    batch = {"data": torch.zeros(2, 4, 8, 8, 8), "target": [torch.full(shape, 3.0) for shape in scales]}
    outcome = trainer.validation_step(batch)
    assert outcome["tp_hard"].tolist() == [1024, 0, 0]
    assert outcome["fn_hard"].tolist() == [0, 1024, 1024]

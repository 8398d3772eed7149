"""Every recipe against literal numbers from the publications, which `docs/fidelity.md` lists with their sections.

Nothing here is read from the recipes' own table: network, parameters, optimizer, learning rates, loss, patch, batch and
augmentation are those of the trainer that nnU-Net would run at the full plan.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.recipes import PLANS, RECIPES
from glialite_distill.trainers import TRAINERS, GliaLiteTrainer
from glialite_distill.workspace import Workspace, prepared_folder
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

NNUNET_PIPELINE = (
    "SpatialTransform", "GaussianNoiseTransform", "GaussianBlurTransform", "MultiplicativeBrightnessTransform",
    "ContrastTransform", "SimulateLowResolutionTransform", "GammaTransform", "GammaTransform", "MirrorTransform",
    "MaskImageTransform", "RemoveLabelTransform", "ConvertSegmentationToRegionsTransform",
    "DownsampleSegForDSTransform",
)  # fmt: skip
"""Seed 000 §2.3 and seed 003 §nnU-Net's Augmentation Pipeline: rotation, scaling, noise, blur, brightness, contrast,
low resolution, gamma (twice: inverted and not), mirroring; then what every nnU-Net training needs. nnU-Net 2.8.1 ships
its elastic deformation switched off (`p_elastic_deform=0`), although both seeds name it."""

FLIPS_AND_INTENSITY = (
    "MultiplicativeBrightnessTransform", "BrightnessAdditiveTransform", "MirrorTransform", "MaskImageTransform",
    "RemoveLabelTransform", "ConvertSegmentationToRegionsTransform", "DownsampleSegForDSTransform",
)  # fmt: skip
"""Seed 001 §2.5: random crop (the patch), flips, intensity scaling and shifting."""

NNUNET_SCALES = (8 / 15, 4 / 15, 2 / 15, 1 / 15, 0)  # nnU-Net's halving, its lowest resolution left out
MEDNEXT_SCALES = (16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31)  # seed 001 fig. 3: "lower loss weights at lower resolutions"

SGD = ("SGD", {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5})  # seed 000 §2.4
SCHEDULE_FREE = ("AdamWScheduleFree", {"weight_decay": 0})  # seed 001 §2.5

# Zero logits; two samples of 8³ voxels, a quarter of the first is tumour in every region (or ET): p = 1/2, so
# BCE = ln 2, focal = ln 2 / 4; Dice by sample = mean(2 · ½ · ¼ / (½ + ¼), 0) = 1/6, over the batch 0.25 / 1.25 = 1/5.
DICE_BCE = 0.526481  # −1/6 + ln 2
BATCH_DICE_BCE = 0.493147  # −1/5 + ln 2
BATCH_DICE_FOCAL = -0.026713  # −1/5 + ln 2 / 4
DICE_CE = 1.344628  # softmax 1/4: ln 4 − (2 · ¼ · ¼ / (¼ + ¼)) / 6, over two samples and three labels


@dataclass(frozen=True)
class Published:
    """What the seeds say of a recipe; `rates` at epochs 0, 1, 100 and last."""

    cite: str
    network: str
    parameters: int
    epochs: int
    rates: tuple[float, float, float, float]
    optimizer: tuple[str, dict[str, object]] = SGD
    loss: float = DICE_BCE
    scales: tuple[float, ...] | None = NNUNET_SCALES
    patch: tuple[int, ...] = (128, 160, 112)
    batch: int = 2
    pipeline: tuple[str, ...] = NNUNET_PIPELINE
    iterations: tuple[int | None, int | None] = (250, 50)
    trained: int | None = None  # parameters that train, where that is not all of them


BASELINE = Published(
    "seed 000 §2.4 (six stages, width 32, patch, SGD, decay, poly, 300 iterations of which 50 validate) and §2.5 (200 "
    "epochs); batch 2 and 30.8 M from nnU-Net; Dice + BCE on regions: seed 003 §Region-Based Training",
    "PlainConvUNet", 30_789_391, 200, (1e-2, 9.954989e-3, 5.358867e-3, 8.493232e-5),
)  # fmt: skip
MEDNEXT = Published(
    "seed 001 §2.3 and §2.5 (k 3, 150 epochs, schedule-free AdamW, 0.0027, no decay, batch 2, batch Dice + focal γ 2, "
    "crop 128×160×112); 10.53 M: Roy et al., table of configurations",
    "MedNeXt", 10_529_327, 150, (0.0027,) * 4, SCHEDULE_FREE, BATCH_DICE_FOCAL, MEDNEXT_SCALES,
    pipeline=FLIPS_AND_INTENSITY, iterations=(None, None),
)  # fmt: skip
PRESET = replace(
    BASELINE,
    cite="seed 003 §Fixed Training Parameters: SGD 0.99, 3e-5, 0.01 poly 0.9, 1000 epochs of 250 iterations",
    epochs=1000,
    rates=(1e-2, 9.991000e-3, 9.095326e-3, 1.995262e-5),
)
MONAI = replace(
    MEDNEXT,
    cite="seed 002 §Our Architectural Spectrum names them without numbers: Myronenko, arXiv:1810.11654 (1e-4, poly "
    "0.9, decay 1e-5, 300 epochs)",
    epochs=300,
    rates=(1e-4, 9.969995e-5, 6.942532e-5, 5.896453e-7),
    optimizer=("AdamW", {"weight_decay": 1e-5}),
    scales=None,
    pipeline=FLIPS_AND_INTENSITY[:-1],
)
TABLE = {
    "baseline": BASELINE,
    "baseline-labels": replace(
        BASELINE, cite="seed 000 §2.4: Dice + cross-entropy on each deep-supervision output",
        parameters=30_790_196, loss=DICE_CE, pipeline=tuple(t for t in NNUNET_PIPELINE if "Regions" not in t),
    ),
    "grokking": replace(
        BASELINE, cite="seed 000 §2.6: 3 500 epochs, rate re-initialised, not below 1e-4",
        epochs=3500, rates=(1e-2, 9.997429e-3, 9.742486e-3, 1e-4),
    ),
    "mednext-b": MEDNEXT,
    "mednext-m": replace(MEDNEXT, cite="seed 001 §2.3; 17.55 M: Roy et al.", parameters=17_551_983),
    "mednext-b-ped": replace(MEDNEXT, cite="seed 001 §2.3: 75 epochs, 0.0027", epochs=75),
    "mednext-b-ped-low": replace(MEDNEXT, cite="seed 001 §2.3: 75 epochs, 0.0005", epochs=75, rates=(0.0005,) * 4),
    "mednext-b-finetune": replace(
        MEDNEXT, cite="seed 001 §2.3 Finetuning: last decoder block and heads, original hyper-parameters",
        trained=29_743,
    ),
    "mednext-b-finetune-reinit": replace(
        MEDNEXT, cite="seed 001 §2.3 Finetuning (b): re-initialised", trained=29_743
    ),
    "baseline-finetune-10": replace(
        BASELINE, cite="seed 004, Transfer learning: the entire network at 1/10, 5 epochs of warm-up",
        rates=(1.666667e-4, 3.333333e-4, 5.201330e-4, 6.488751e-8),
    ),
    "baseline-finetune-100": replace(
        BASELINE, cite="seed 004, Transfer learning: 1/100, 10 epochs of warm-up",
        rates=(9.090909e-6, 1.818182e-5, 5.412897e-5, 6.834750e-9),
    ),
    "baseline-shallow": replace(
        BASELINE, cite="seed 004, Transfer learning: shallow layers rather than deep ones",
        rates=(1.666667e-4, 3.333333e-4, 5.201330e-4, 6.488751e-8), trained=31_296,
    ),
    "mednext-b-layerwise": replace(
        MEDNEXT, cite="seed 002 §Smart Transfer Learning: 1e-6 stem and first encoder, 1e-4 decoder, AdamW, cosine",
        optimizer=("AdamW", {"weight_decay": 0}),
        rates=(1.666667e-7, 3.333333e-7, 2.657958e-7, 1.173510e-10),
    ),
    "mednext-b-k5": replace(
        MEDNEXT, cite="seed 002 §The UpKern Innovation; k 5: seed 001 §2.2", parameters=10_958_959
    ),
    "unet": replace(MONAI, network="BasicUNet", parameters=5_752_035),
    "segresnet": replace(MONAI, network="SegResNet", parameters=18_798_627),
    "nnunet-2d": replace(
        PRESET, cite="seed 003 §2D Configuration: 2-D convolutions, up to 512 channels; patch and batch: nnU-Net 2.8.1",
        parameters=20_620_943, loss=BATCH_DICE_BCE, patch=(192, 160), batch=105,
    ),
    "resenc-m": replace(
        PRESET, cite="seed 003 §Residual Encoder; nnU-Net's M preset at our patch",
        network="ResidualEncoderUNet", parameters=101_943_567,
    ),
    "resenc-l": replace(
        PRESET, cite="seed 003 §Residual Encoder; nnU-Net's L preset",
        network="ResidualEncoderUNet", parameters=102_353_167, patch=(160, 192, 160), batch=3,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def full_size(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, GliaLiteTrainer]:
    """Return every recipe's trainer at the full plan, its network without memory for weights."""
    folder = prepared_folder(prepared.root)
    plans = nnunet._our_plans(json.loads((folder / "nnUNetPlans.json").read_text()), PLANS["full"])
    dataset = nnunet.plans_and_dataset(prepared.root, prepared.plan)[1]
    trainers = {}
    with nnunet.environment(tmp_path_factory.mktemp("full")), nnunet.quiet():
        for name, recipe in RECIPES.items():
            settings = {**plans, "continue_training": False}
            trainer = TRAINERS[name](settings, recipe.configuration, 0, dataset, torch.device("cpu"))
            heads = trainer.label_manager.num_segmentation_heads
            with torch.device("meta"):
                trainer.network = trainer.build_network_architecture(
                    trainer.plans_manager, trainer.configuration_manager, 4, heads
                )
            trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
            trainer.loss = trainer._build_loss()
            trainers[name] = trainer
    return trainers


def test_every_recipe_is_in_the_literal_table() -> None:
    """None can be added without a line that says where its numbers come from."""
    assert set(TABLE) == set(RECIPES)
    assert all("seed 00" in row.cite for row in TABLE.values())


@pytest.mark.parametrize("name", TABLE)
def test_network(name: str, full_size: dict[str, GliaLiteTrainer]) -> None:
    """Its class, its number of parameters and how many of them train, its patch and its batch."""
    trainer, row = full_size[name], TABLE[name]
    counts = [p.numel() for p in trainer.network.parameters()]
    trained = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
    plan = trainer.configuration_manager
    assert (type(trainer.network).__name__, sum(counts)) == (row.network, row.parameters)
    assert trained == (row.trained or row.parameters)
    assert (tuple(plan.patch_size), plan.batch_size) == (row.patch, row.batch)


@pytest.mark.parametrize("name", TABLE)
def test_optimizer_and_learning_rates(name: str, full_size: dict[str, GliaLiteTrainer]) -> None:
    """Optimizer with its constants; the rates that it is given at epochs 0, 1, 100 and the last; the epochs' length."""
    trainer, row = full_size[name], TABLE[name]
    kind, constants = row.optimizer
    assert type(trainer.optimizer).__name__ == kind
    assert {key: trainer.optimizer.param_groups[0][key] for key in constants} == constants
    assert trainer.num_epochs == row.epochs
    assert (trainer.recipe.iterations, trainer.recipe.validation_iterations) == row.iterations
    rates = []
    for epoch in (0, 1, 100, row.epochs - 1):
        trainer.lr_scheduler.step(min(epoch, row.epochs - 1))
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(row.rates, rel=1e-5)


def test_layer_wise_rates(full_size: dict[str, GliaLiteTrainer]) -> None:
    """At the top of the warm-up stem and first encoder stage have 1e-6, all that is deeper 1e-4."""
    trainer = full_size["mednext-b-layerwise"]
    trainer.lr_scheduler.step(5)
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([1e-6, 1e-4])


def fixed_tensors(dimensions: int, labels: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return zero logits and a target of which a quarter of the first of two samples is tumour."""
    shape = (8,) * dimensions
    target = torch.zeros(2, 1 if labels else 3, *shape)
    target[0, :, :2] = 3 if labels else 1
    return torch.zeros(2, 4 if labels else 3, *shape), target


@pytest.mark.parametrize("name", TABLE)
def test_loss_on_fixed_tensors(name: str, full_size: dict[str, GliaLiteTrainer]) -> None:
    """The value that follows by hand from Dice, cross-entropy and focal terms, and the weights of the resolutions."""
    trainer, row = full_size[name], TABLE[name]
    wrapped = row.scales is not None
    loss = trainer.loss.loss if wrapped else trainer.loss
    logits, target = fixed_tensors(len(row.patch), row.loss == DICE_CE)
    assert float(loss(logits, target)) == pytest.approx(row.loss, abs=2e-6)
    if row.scales is not None:
        assert tuple(trainer.loss.weight_factors) == pytest.approx(row.scales)


@pytest.mark.parametrize("name", TABLE)
def test_augmentation(name: str, full_size: dict[str, GliaLiteTrainer]) -> None:
    """The transforms in their order, and nnU-Net's larger crop only where something is rotated."""
    trainer, row = full_size[name], TABLE[name]
    rotation, dummy, initial, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    manager = trainer.label_manager
    transforms = trainer.get_training_transforms(
        trainer.configuration_manager.patch_size, rotation, trainer._get_deep_supervision_scales(), axes, dummy,
        use_mask_for_norm=trainer.configuration_manager.use_mask_for_norm,
        foreground_labels=manager.foreground_labels,
        regions=manager.foreground_regions if manager.has_regions else None,
    )  # fmt: skip
    names = tuple(type(getattr(step, "transform", step)).__name__ for step in transforms.transforms)
    assert names == row.pipeline
    assert axes == tuple(range(len(row.patch)))
    assert (tuple(initial) == row.patch) == (row.pipeline[0] != "SpatialTransform")
    assert trainer.oversample_foreground_percent == 0.33


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, prepared: Workspace, tmp_path: Path) -> None:
    """Two optimizer steps on tiny patches: what trains changes, what does not stays bit-equal, the loss is finite."""
    recipe = RECIPES[name]
    plans, dataset = nnunet.plans_and_dataset(prepared.root, prepared.plan)
    with (
        nnunet.environment(prepared.root),
        nnunet.quiet(),
        nnunet.single_process_augmentation(nnunet_trainer_module),
    ):
        settings = {**plans, "continue_training": False}
        trainer = TRAINERS[name](settings, recipe.configuration, 0, dataset, torch.device("cpu"))
        trainer.output_folder_base = trainer.output_folder = str(tmp_path)
        trainer.log_file = str(tmp_path / "log.txt")
        trainer.num_epochs = 1
        trainer.initialize()
        trainer.on_train_start()
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
        losses = [trainer.train_step(next(trainer.dataloader_train))["loss"] for _ in range(2)]
    assert np.isfinite(losses).all()
    changed = {key for key, value in trainer.network.state_dict().items() if not torch.equal(before[key], value)}
    # nnU-Net's decoder registers its encoder a second time, and gives the lowest resolution no weight.
    trained = {key for key, value in trainer.network.named_parameters() if value.requires_grad}
    assert changed & trained
    assert not {key for key in changed & set(dict(trainer.network.named_parameters())) if key not in trained}


def test_the_plan_has_what_nnunet_plans_for_brats(prepared: Workspace) -> None:
    """The 2-D and ResEnc layouts are literal; every patch divides by its strides."""
    stock = json.loads((prepared_folder(prepared.root) / "nnUNetPlans.json").read_text())
    manager = PlansManager(nnunet._our_plans(stock, PLANS["full"]))
    for name in ("3d_fullres", "2d", "3d_resenc_m", "3d_resenc_l"):
        plan = manager.get_configuration(name)
        assert (np.array(plan.patch_size) % np.prod(plan.pool_op_kernel_sizes, axis=0) == 0).all()
    assert manager.get_configuration("2d").network_arch_init_kwargs["features_per_stage"] == [
        32,
        64,
        128,
        256,
        512,
        512,
    ]
    assert manager.get_configuration("3d_resenc_l").network_arch_init_kwargs["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6]


def test_the_page_names_tests_that_exist() -> None:
    """Every test that `docs/fidelity.md` cites is there, and it has a line for every recipe and row."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "fidelity.md").read_text(encoding="utf-8")
    missing = []
    for file, function in re.findall(r"`((?:tests/\w+/)?test_\w+\.py)(?:::(\w+))?`", page):
        path = root / file if file.startswith("tests/") else root / "tests" / "distill" / file
        if not path.is_file() or (function and f"def {function}(" not in path.read_text(encoding="utf-8")):
            missing.append(f"{file}::{function}")
    assert not missing
    names = {name for name in RECIPES if f"`{name}`" not in page}
    assert names == {"mednext-b-finetune-reinit", "baseline-finetune-100"}  # abbreviated there
    assert all(f"## {row}" in page for row in ("T1", "T2", "T3", "T4", "T5", "T6", "E1", "L1", "A1", "P1", "M1", "S1"))


@pytest.mark.parametrize("name", ["baseline", "baseline-labels", "nnunet-2d"])
def test_nnunets_losses_are_nnunets_own(name: str, full_size: dict[str, GliaLiteTrainer]) -> None:
    """On random tensors at every resolution the same value as the loss that nnU-Net itself would build."""
    trainer = full_size[name]
    draw = torch.Generator().manual_seed(0)
    heads, labels = trainer.label_manager.num_segmentation_heads, not trainer.label_manager.has_regions
    outputs, targets = [], []
    for scale in range(len(NNUNET_SCALES)):
        shape = (2, 1 if labels else 3, *[32 >> scale] * len(trainer.configuration_manager.patch_size))
        outputs.append(torch.randn((2, heads, *shape[2:]), generator=draw))
        targets.append(torch.randint(4 if labels else 2, shape, generator=draw).float())
    theirs = nnUNetTrainer._build_loss(trainer)(outputs, targets)
    assert float(trainer.loss(outputs, targets)) == pytest.approx(float(theirs), abs=1e-6)

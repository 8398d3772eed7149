"""What a recipe is: one teacher's hyper-parameters, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from glialite_runtime.errors import ConfigError

from glialite_distill.cohort import site_of
from glialite_distill.grokking import poly_with_floor

__all__ = ["Finetune", "Recipe", "cases_of", "iterations_of", "learning_rate", "problems_of", "trainer_name"]

Architecture = Literal[
    "nnunet", "nnunet-2d", "resenc-m", "resenc-l", "mednext-b", "mednext-m", "segresnet", "unet"
]  # fmt: skip
Loss = Literal["dice+bce", "dice+ce", "dice+focal", "dice+boundary", "dice+hausdorff", "dice+region-focal"]
ExtraAugmentation = Literal["low-field", "modality-dropout", "small-component-removal", "carvemix"]

_CONFIGURATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {"nnunet-2d": "2d", "resenc-m": "3d_resenc_m", "resenc-l": "3d_resenc_l"}
)


@dataclass(frozen=True, slots=True)
class Finetune:
    """How a trained network is trained on.

    Attributes
    ----------
    part : str
        "all", "last-decoder" (with the deep-supervision heads) or "shallow" (stem and first encoder stage).
    reinitialise : bool
        Whether that part starts from fresh weights.
    learning_rate_factor : float
        Times the recipe's learning rate.
    warmup_epochs : int
        Epochs of linear warm-up, then a cosine; 0 keeps the optimizer's own schedule.
    layer_rates : tuple of float or None
        Learning rates of the stem with the first encoder stage, and of the decoder.
    """

    part: Literal["all", "last-decoder", "shallow"] = "all"
    reinitialise: bool = False
    learning_rate_factor: float = 1.0
    warmup_epochs: int = 0
    layer_rates: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """One teacher's hyper-parameters; patch and batch are the training plan's.

    Attributes
    ----------
    name, summary : str
        Name on the command line, and one sentence.
    architecture : str
        "nnunet" (the plan's U-Net), "nnunet-2d", "resenc-m" and "resenc-l" (nnU-Net's presets), a MedNeXt size, or
        MONAI's "segresnet" and "unet".
    kernel_size : int
        Edge of MedNeXt's kernels, voxels; the others have 3.
    epochs : int
        Epochs of a run.
    iterations, validation_iterations : int or None
        Batches of an epoch; None is one pass over the training (validation) cases.
    optimizer : str
        "sgd" (Nesterov, momentum 0.99), "adamw" or "schedule-free-adamw".
    learning_rate, learning_rate_floor : float
        Start and smallest value; polynomial decay, constant for the schedule-free optimizer.
    weight_decay : float
        As the optimizer takes it.
    loss : str
        "dice+ce" trains on labels, every other one on regions.
    batch_dice : bool
        Whether Dice is computed over the batch rather than over each sample.
    focal_gamma : float or None
        Exponent of the focal losses.
    augmentation : str
        "nnunet" (its full pipeline) or "flip+intensity" (crop, flips, intensity scale and shift).
    oversample_foreground : float
        Share of patches that are centred on a tumour voxel.
    warm_start : str or None
        Recipe whose final weights (same fold) this one starts from; smaller kernels are interpolated (UpKern).
    source : str
        Where the numbers come from.
    extra_augmentation : tuple of str
        Further transforms, before nnU-Net's mask.
    finetune : Finetune or None
        How weights that were taken over are trained on; None is as from scratch.
    site : str or None
        Train and validate on the cases of this site only, such as "SSA".
    """

    name: str
    summary: str
    architecture: Architecture
    kernel_size: int
    epochs: int
    iterations: int | None
    validation_iterations: int | None
    optimizer: Literal["sgd", "adamw", "schedule-free-adamw"]
    learning_rate: float
    learning_rate_floor: float
    weight_decay: float
    loss: Loss
    batch_dice: bool
    focal_gamma: float | None
    augmentation: Literal["nnunet", "flip+intensity"]
    oversample_foreground: float
    warm_start: str | None
    source: str
    extra_augmentation: tuple[ExtraAugmentation, ...] = ()
    finetune: Finetune | None = None
    site: str | None = None

    @property
    def configuration(self) -> str:
        """The configuration in our nnU-Net plans that has the recipe's patch and batch."""
        return _CONFIGURATIONS.get(self.architecture, "3d_fullres")

    @property
    def is_mednext(self) -> bool:
        """Whether the network is a MedNeXt."""
        return self.architecture.startswith("mednext")

    @property
    def deep_supervision(self) -> bool:
        """Whether the network has outputs at lower resolutions, too."""
        return self.architecture not in ("segresnet", "unet")


def learning_rate(recipe: Recipe, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch (from 0) of a run of `epochs` epochs."""
    finetune = recipe.finetune or Finetune()
    initial = recipe.learning_rate * finetune.learning_rate_factor
    if finetune.warmup_epochs:
        from glialite_distill.transfer import warmup_cosine  # noqa: PLC0415 - brings torch; printing a table needs none

        return max(recipe.learning_rate_floor, warmup_cosine(initial, epoch, epochs, finetune.warmup_epochs))
    if recipe.optimizer == "schedule-free-adamw":
        return initial
    return poly_with_floor(initial, epoch, epochs, recipe.learning_rate_floor)


def iterations_of(recipe: Recipe, cases: tuple[int, int], batch_size: int, override: int | None) -> tuple[int, int]:
    """Return (training, validation) batches of an epoch.

    Parameters
    ----------
    recipe : Recipe
        Its counts hold unless they are None (one pass).
    cases : tuple of int
        Training and validation cases of the fold.
    batch_size : int
        Cases of a batch.
    override : int or None
        Training batches that the user asked for; a fifth of them (nnU-Net's 50 to 250) is then validated.
    """
    if override is not None:
        return override, max(1, override // 5)
    passes = tuple(-(-count // batch_size) for count in cases)
    return recipe.iterations or passes[0], recipe.validation_iterations or passes[1]


def cases_of(recipe: Recipe, cases: Sequence[str]) -> tuple[str, ...]:
    """Return those of the cases that a recipe uses; none at all is a `ConfigError`."""
    found = tuple(case for case in cases if recipe.site is None or site_of(case) == recipe.site)
    if not found:
        raise ConfigError(
            f"{recipe.name} uses cases of {recipe.site} only (named BraTS-{recipe.site}-…) and the fold has none; "
            "prepare a cohort with such cases, or override its site"
        )
    return found


def trainer_name(recipe: str) -> str:
    """Return the name of a recipe's trainer class, which nnU-Net names its results folder after."""
    return "GliaLite" + "".join(word.title() for word in recipe.split("-"))


def problems_of(recipe: Recipe) -> list[str]:
    """Return what is wrong with the values of a recipe, by themselves and together."""
    finetune = recipe.finetune or Finetune()
    rates = (*(finetune.layer_rates or ()), recipe.learning_rate, finetune.learning_rate_factor)
    counts = (recipe.epochs, recipe.iterations or 1, recipe.validation_iterations or 1)
    checks = {
        "epochs and iterations must be at least 1": min(counts) >= 1,
        "learning rates must be above 0": min(rates) > 0,
        "learning_rate_floor must lie between 0 and the learning rate": (
            0 <= recipe.learning_rate_floor <= recipe.learning_rate
        ),
        "weight_decay and warmup_epochs must not be negative": min(recipe.weight_decay, finetune.warmup_epochs) >= 0,
        "oversample_foreground must lie between 0 and 1": 0 <= recipe.oversample_foreground <= 1,
        "kernel_size must be 3, or another odd number for MedNeXt": (
            recipe.kernel_size == 3 or (recipe.is_mednext and recipe.kernel_size > 0 and recipe.kernel_size % 2 == 1)
        ),
        "carvemix needs volumes": recipe.configuration != "2d" or "carvemix" not in recipe.extra_augmentation,
        "focal losses need focal_gamma": "focal" not in recipe.loss or recipe.focal_gamma is not None,
        "finetune needs warm_start": recipe.finetune is None or recipe.warm_start is not None,
        "layer_rates need optimizer adamw or sgd": (
            finetune.layer_rates is None or recipe.optimizer != "schedule-free-adamw"
        ),
        "a warm-up needs optimizer adamw or sgd": (
            not finetune.warmup_epochs or recipe.optimizer != "schedule-free-adamw"
        ),
    }
    return [f"{recipe.name}: {sentence}" for sentence, holds in checks.items() if not holds]

"""The teachers' recipes and the training plans: every published number in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from glialite_runtime.errors import ConfigError

from glialite_distill.grokking import poly_with_floor

__all__ = [
    "PLANS",
    "RECIPES",
    "Recipe",
    "TrainingPlan",
    "find_plan",
    "find_recipe",
    "in_training_order",
    "iterations_of",
    "learning_rate",
    "table",
    "trainer_name",
]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One teacher's hyper-parameters.

    Attributes
    ----------
    name : str
        Name on the command line.
    summary : str
        One sentence.
    architecture : str
        "unet" is the plan's nnU-Net U-Net, else the MedNeXt size.
    kernel_size : int
        Edge of the convolution kernels, voxels.
    epochs : int
        Epochs of a run.
    iterations, validation_iterations : int or None
        Batches of an epoch; None is one pass over the training (validation) cases.
    optimizer : str
        "sgd" (Nesterov, momentum 0.99) or "schedule-free-adamw".
    learning_rate, learning_rate_floor : float
        Start and smallest value; polynomial decay for SGD, constant for the schedule-free optimizer.
    weight_decay : float
        L2 penalty.
    loss : str
        "dice+bce" (nnU-Net's region loss) or "dice+focal".
    batch_dice : bool
        Whether Dice is computed over the batch rather than over each sample.
    focal_gamma : float or None
        Exponent of the focal loss.
    augmentation : str
        "nnunet" (its full pipeline) or "flip+intensity" (crop, flips, intensity scale and shift).
    oversample_foreground : float
        Share of patches that are centred on a tumour voxel.
    warm_start : str or None
        Recipe whose final weights (same fold) this one starts from.
    source : str
        Where the numbers come from.
    """

    name: str
    summary: str
    architecture: Literal["unet", "mednext-b", "mednext-m"]
    kernel_size: int
    epochs: int
    iterations: int | None
    validation_iterations: int | None
    optimizer: Literal["sgd", "schedule-free-adamw"]
    learning_rate: float
    learning_rate_floor: float
    weight_decay: float
    loss: Literal["dice+bce", "dice+focal"]
    batch_dice: bool
    focal_gamma: float | None
    augmentation: Literal["nnunet", "flip+intensity"]
    oversample_foreground: float
    warm_start: str | None
    source: str


_BASELINE: Final = Recipe(
    name="baseline",
    summary="nnU-Net v2 3d_fullres, trained on regions",
    architecture="unet",
    kernel_size=3,
    epochs=200,
    iterations=250,
    validation_iterations=50,
    optimizer="sgd",
    learning_rate=0.01,
    learning_rate_floor=0.0,
    weight_decay=3e-5,
    loss="dice+bce",
    batch_dice=False,
    focal_gamma=None,
    augmentation="nnunet",
    oversample_foreground=0.33,
    warm_start=None,
    source="Barakat et al., Grokking nnU-Net for Glioma Segmentation in Sub-Saharan MRI; "
    "Isensee et al., Nature Methods 18 (2021)",
)


def _grokking() -> Recipe:
    changed = {
        "name": "grokking",
        "summary": "the baseline, trained on with a fresh learning rate that stops at a floor",
        "epochs": 3500,
        "learning_rate_floor": 1e-4,
        "warm_start": "baseline",
        "source": "Barakat et al., as the baseline (3 500-epoch run)",
    }
    return Recipe(**{**asdict(_BASELINE), **changed})


def _mednext(size: Literal["mednext-b", "mednext-m"]) -> Recipe:
    return Recipe(
        name=size,
        summary=f"MedNeXt-{size[-1].upper()} with a schedule-free optimizer",
        architecture=size,
        kernel_size=3,
        epochs=150,
        iterations=None,
        validation_iterations=None,
        optimizer="schedule-free-adamw",
        learning_rate=0.0027,
        learning_rate_floor=0.0027,
        weight_decay=0.0,
        loss="dice+focal",
        batch_dice=True,
        focal_gamma=2.0,
        augmentation="flip+intensity",
        oversample_foreground=0.33,
        warm_start=None,
        source="Hashmi et al., arXiv:2411.15872; Roy et al., arXiv:2303.09975",
    )


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {r.name: r for r in (_BASELINE, _grokking(), _mednext("mednext-b"), _mednext("mednext-m"))}
)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What depends on the data and the machine rather than on the method.

    Attributes
    ----------
    name : str
        Name on the command line.
    spacing_mm : tuple of float
        Voxel size (z, y, x) that every case is brought to.
    patch_size : tuple of int
        Voxels (z, y, x) of a training patch and of the sliding window.
    batch_size : int
        Patches of a batch.
    widths : tuple of int
        Channels of the U-Net's stages.
    strides : tuple of tuples of int
        Stride (z, y, x) into each stage.
    mednext_filters : int
        Channels of MedNeXt's first stage; each further stage doubles them.
    """

    name: str
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    batch_size: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]
    mednext_filters: int


PLANS: Final[Mapping[str, TrainingPlan]] = MappingProxyType(
    {
        # Published: 1 mm, 128×160×112, six stages; the last stride is 1 along the axis of 112 (112 = 16 · 7).
        "full": TrainingPlan(
            "full",
            (1.0, 1.0, 1.0),
            (128, 160, 112),
            2,
            (32, 64, 128, 256, 320, 320),
            ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1)),
            32,
        ),
        # The same methods at 2 mm with narrow networks: what two cores can train in minutes.
        "small": TrainingPlan(
            "small",
            (2.0, 2.0, 2.0),
            (48, 48, 48),
            2,
            (8, 16, 32, 64),
            ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            6,
        ),
    }
)


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name; a `ConfigError` lists the known ones."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def find_plan(name: str) -> TrainingPlan:
    """Return a training plan by name; a `ConfigError` lists the known ones."""
    if name not in PLANS:
        raise ConfigError(f"unknown plan {name!r}; known: {', '.join(PLANS)}")
    return PLANS[name]


def in_training_order(names: tuple[str, ...]) -> tuple[Recipe, ...]:
    """Return the recipes so that a warm start comes after what it starts from; duplicates are dropped."""
    asked = list(dict.fromkeys(find_recipe(name).name for name in names))
    ordered: list[Recipe] = []
    while asked:
        ready = next(name for name in asked if RECIPES[name].warm_start not in asked)
        asked.remove(ready)
        ordered.append(RECIPES[ready])
    return tuple(ordered)


def learning_rate(recipe: Recipe, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch (from 0) of a run of `epochs` epochs."""
    if recipe.optimizer == "schedule-free-adamw":
        return recipe.learning_rate
    return poly_with_floor(recipe.learning_rate, epoch, epochs, recipe.learning_rate_floor)


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


def trainer_name(recipe: str) -> str:
    """Return the name of a recipe's trainer class, which nnU-Net names its results folder after."""
    return "GliaLite" + "".join(word.title() for word in recipe.split("-"))


def table() -> list[dict[str, Any]]:
    """Return the recipes as plain values, ready for JSON."""
    return [asdict(recipe) for recipe in RECIPES.values()]

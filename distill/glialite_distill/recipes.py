"""The teachers' recipes and the training plans: every published number in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from glialite_runtime.errors import ConfigError

from glialite_distill.hyperparameters import (
    Finetune,
    Recipe,
    cases_of,
    iterations_of,
    learning_rate,
    problems_of,
    trainer_name,
)

__all__ = [
    "PLANS",
    "RECIPES",
    "Finetune",
    "Layout",
    "Recipe",
    "TrainingPlan",
    "cases_of",
    "find_plan",
    "find_recipe",
    "in_training_order",
    "iterations_of",
    "learning_rate",
    "problems_of",
    "table",
    "trainer_name",
]

_GROKKING: Final = "Barakat et al., Grokking nnU-Net for Glioma Segmentation in Sub-Saharan MRI"
_NNUNET: Final = "Isensee et al., Nature Methods 18 (2021)"
_HASHMI: Final = "Hashmi et al., arXiv:2411.15872"
_MYRONENKO: Final = "Myronenko, arXiv:1810.11654"

_BASELINE: Final = Recipe(
    name="baseline",
    summary="nnU-Net v2 3d_fullres, trained on regions",
    architecture="nnunet",
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
    source=f"{_GROKKING}; {_NNUNET}",
)

_MEDNEXT_B: Final = Recipe(
    name="mednext-b",
    summary="MedNeXt-B with a schedule-free optimizer",
    architecture="mednext-b",
    kernel_size=3,
    epochs=150,
    iterations=None,
    validation_iterations=None,
    optimizer="schedule-free-adamw",
    learning_rate=0.0027,
    learning_rate_floor=0.0,
    weight_decay=0.0,
    loss="dice+focal",
    batch_dice=True,
    focal_gamma=2.0,
    augmentation="flip+intensity",
    oversample_foreground=0.33,
    warm_start=None,
    source=f"{_HASHMI}; Roy et al., arXiv:2303.09975",
)

# The authors' learning rate, decay and number of epochs; the loss and what else they do not share is MedNeXt's here.
_SEGRESNET: Final = replace(
    _MEDNEXT_B,
    name="segresnet",
    summary="SegResNet: residual blocks, moderate complexity",
    architecture="segresnet",
    epochs=300,
    optimizer="adamw",
    learning_rate=1e-4,
    weight_decay=1e-5,
    source=f"{_MYRONENKO}; loss as mednext-b",
)

_NNUNET_PRESET: Final = replace(_BASELINE, epochs=1000, source=_NNUNET)

_SHORT: Final = Finetune(learning_rate_factor=0.1, warmup_epochs=5)

_TRANSFER: Final = (
    replace(
        _MEDNEXT_B,
        name="mednext-b-finetune",
        summary="mednext-b's last decoder block and deep-supervision heads, trained on with African cases only",
        warm_start="mednext-b",
        finetune=Finetune("last-decoder"),
        site="SSA",
        source=_HASHMI,
    ),
    replace(
        _MEDNEXT_B,
        name="mednext-b-finetune-reinit",
        summary="the same, from fresh weights of that block and these heads",
        warm_start="mednext-b",
        finetune=Finetune("last-decoder", reinitialise=True),
        site="SSA",
        source=_HASHMI,
    ),
    replace(
        _BASELINE,
        name="baseline-finetune-10",
        summary="the whole baseline, trained on with African cases at a tenth of the learning rate",
        warm_start="baseline",
        finetune=_SHORT,
        site="SSA",
        source="lecture notes on winning BraTS: 1/10 to 1/100 of the rate, 5 to 10 epochs of warm-up",
    ),
    replace(
        _BASELINE,
        name="baseline-finetune-100",
        summary="the same at a hundredth of the learning rate",
        warm_start="baseline",
        finetune=Finetune(learning_rate_factor=0.01, warmup_epochs=10),
        site="SSA",
        source="as baseline-finetune-10",
    ),
    replace(
        _BASELINE,
        name="baseline-shallow",
        summary="the baseline's first encoder stage alone, trained on with African cases",
        warm_start="baseline",
        finetune=replace(_SHORT, part="shallow"),
        site="SSA",
        source="Amiri et al., arXiv:2002.08438; rate as baseline-finetune-10",
    ),
    replace(
        _MEDNEXT_B,
        name="mednext-b-layerwise",
        summary="mednext-b, trained on with African cases at learning rates that grow from stem to decoder",
        optimizer="adamw",
        learning_rate=1e-4,
        warm_start="mednext-b",
        finetune=Finetune(warmup_epochs=5, layer_rates=(1e-6, 1e-4)),
        site="SSA",
        source="ODC AI Hackathon report: 1e-6 in stem and first encoder, 1e-4 in the decoder, warm-up and cosine",
    ),
    replace(
        _MEDNEXT_B,
        name="mednext-b-k5",
        summary="MedNeXt-B with kernels of 5, started from the trained kernels of 3 (UpKern)",
        kernel_size=5,
        warm_start="mednext-b",
        source=f"Roy et al., arXiv:2303.09975; {_HASHMI}",
    ),
)

_ALL: Final = (
    _BASELINE,
    replace(
        _BASELINE,
        name="baseline-labels",
        summary="the baseline, trained on labels instead of regions",
        loss="dice+ce",
    ),
    replace(
        _BASELINE,
        name="grokking",
        summary="the baseline, trained on with a fresh learning rate that stops at a floor",
        epochs=3500,
        learning_rate_floor=1e-4,
        warm_start="baseline",
        source=f"{_GROKKING} (3 500-epoch run)",
    ),
    _MEDNEXT_B,
    replace(_MEDNEXT_B, name="mednext-m", summary="MedNeXt-M with a schedule-free optimizer", architecture="mednext-m"),
    replace(_MEDNEXT_B, name="mednext-b-ped", summary="mednext-b for children's tumours", epochs=75, source=_HASHMI),
    replace(
        _MEDNEXT_B,
        name="mednext-b-ped-low",
        summary="the same at a lower learning rate, which was better",
        epochs=75,
        learning_rate=0.0005,
        source=_HASHMI,
    ),
    *_TRANSFER,
    replace(_SEGRESNET, name="unet", summary="a plain U-Net: the safe baseline", architecture="unet"),
    _SEGRESNET,
    replace(
        _NNUNET_PRESET,
        name="nnunet-2d",
        summary="nnU-Net v2 2d: slice by slice",
        architecture="nnunet-2d",
        batch_dice=True,
    ),
    replace(_NNUNET_PRESET, name="resenc-m", summary="nnU-Net v2 ResEnc M preset", architecture="resenc-m"),
    replace(_NNUNET_PRESET, name="resenc-l", summary="nnU-Net v2 ResEnc L preset", architecture="resenc-l"),
)

RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType({recipe.name: recipe for recipe in _ALL})
"""Recipe name -> recipe."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Patch and stages of a network other than the plan's main one; patch and strides over (z, y, x) or (y, x)."""

    patch_size: tuple[int, ...]
    batch_size: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]


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
        Channels of the first stage of MedNeXt, SegResNet and MONAI's U-Net; they grow from there.
    slices : Layout or None
        Of nnU-Net 2-D, in (y, x); None takes the plan's own last two axes with four times its batch.
    large : Layout or None
        Of the ResEnc L preset; None takes the plan's own with one more patch in a batch.
    """

    name: str
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    batch_size: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]
    mednext_filters: int
    slices: Layout | None = None
    large: Layout | None = None

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Configuration of our nnU-Net plans -> its layout."""
        own = Layout(self.patch_size, self.batch_size, self.widths, self.strides)
        flat = Layout(self.patch_size[1:], 4 * self.batch_size, self.widths, tuple(s[1:] for s in self.strides))
        return {
            "3d_fullres": own,
            "2d": self.slices or flat,
            "3d_resenc_m": own,
            "3d_resenc_l": self.large or replace(own, batch_size=self.batch_size + 1),
        }


PLANS: Final[Mapping[str, TrainingPlan]] = MappingProxyType(
    {
        # Published: 1 mm, 128×160×112, six stages; the last stride is 1 along the axis of 112 (112 = 16 · 7).
        # The other two are what nnU-Net 2.8.1 plans for sixty cropped BraTS cases (2-D: 8 GB; ResEnc L: 24 GB).
        "full": TrainingPlan(
            "full",
            (1.0, 1.0, 1.0),
            (128, 160, 112),
            2,
            (32, 64, 128, 256, 320, 320),
            ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1)),
            32,
            slices=Layout((192, 160), 105, (32, 64, 128, 256, 512, 512), ((1, 1), *((2, 2),) * 5)),
            large=Layout((160, 192, 160), 3, (32, 64, 128, 256, 320, 320), ((1, 1, 1), *((2, 2, 2),) * 5)),
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
        # The voxels of the bundle that ships: a student of 1.5 mm takes the clinic half a second more than one of 2 mm.
        "medium": TrainingPlan(
            "medium",
            (1.5, 1.5, 1.5),
            (80, 96, 80),
            2,
            (16, 32, 64, 128, 160),
            ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            12,
        ),
    }
)


def find_recipe(name: str, recipes: Mapping[str, Recipe] = RECIPES) -> Recipe:
    """Return a recipe by name; a `ConfigError` lists the known ones."""
    if name not in recipes:
        raise ConfigError(f"unknown recipe {name!r}; known: {', '.join(recipes)}")
    return recipes[name]


def find_plan(name: str) -> TrainingPlan:
    """Return a training plan by name; a `ConfigError` lists the known ones."""
    if name not in PLANS:
        raise ConfigError(f"unknown plan {name!r}; known: {', '.join(PLANS)}")
    return PLANS[name]


def in_training_order(names: Sequence[str], recipes: Mapping[str, Recipe] = RECIPES) -> tuple[Recipe, ...]:
    """Return the recipes so that a warm start comes after what it starts from; duplicates are dropped."""
    asked = list(dict.fromkeys(find_recipe(name, recipes).name for name in names))
    ordered: list[Recipe] = []
    while asked:
        ready = next(name for name in asked if recipes[name].warm_start not in asked)
        asked.remove(ready)
        ordered.append(recipes[ready])
    return tuple(ordered)


def table(recipes: Mapping[str, Recipe] = RECIPES) -> list[dict[str, Any]]:
    """Return the recipes as plain values, ready for JSON."""
    rows: list[dict[str, Any]] = json.loads(json.dumps([asdict(recipe) for recipe in recipes.values()]))
    return rows

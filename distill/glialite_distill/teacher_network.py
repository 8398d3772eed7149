"""A trained teacher from its nnU-Net results folder, ours or a stock one: nnU-Net loads it, its outputs become ours.

What the channels and labels are is read from the names in `dataset.json`, never guessed from their numbers. The teacher
runs on our prepared cases, so it must have been trained on the same kind: four sequences, z-scored over the brain mask,
at the workspace's voxel size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.errors import ConfigError
from glialite_runtime.sequences import ALIASES, ET, NETC, REGION_LABELS, REGIONS, SEQUENCES, SNFH
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn

from glialite_distill import nnunet
from glialite_distill.input_options import CLIPPED_NORMALIZATION
from glialite_distill.trainers import register_trainers

__all__ = ["RegionNetwork", "Teacher", "finished_folds", "load_teacher"]

_CHECKPOINT: Final = "checkpoint_final.pth"
_SLICES_AT_ONCE: Final = 16

# What nnU-Net and torch raise on damaged files, unknown trainers and dataset.json that contradicts itself.
_UNLOADABLE: Final = (
    AssertionError, AttributeError, EOFError, ImportError, KeyError, OSError, RuntimeError, UnpicklingError, ValueError,
)  # fmt: skip

_REGION_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "wt": "WT", "wholetumor": "WT", "wholetumour": "WT",
        "tc": "TC", "tumorcore": "TC", "tumourcore": "TC",
        "et": "ET", "enhancing": "ET", "enhancingtumor": "ET", "enhancingtumour": "ET",
    }
)  # fmt: skip
_LABEL_NAMES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "netc": NETC, "ncr": NETC, "necrosis": NETC, "necrotic": NETC, "necroticcore": NETC, "ncrnet": NETC,
        "nonenhancing": NETC, "nonenhancingtumor": NETC, "nonenhancingtumorcore": NETC,
        "snfh": SNFH, "ed": SNFH, "edema": SNFH, "oedema": SNFH, "peritumoraledema": SNFH,
        "surroundingnonenhancingflairhyperintensity": SNFH,
        "et": ET, "enhancing": ET, "enhancingtumor": ET, "enhancingtumour": ET,
    }
)  # fmt: skip


def finished_folds(folder: Path) -> dict[int, Path]:
    """Return fold -> final checkpoint of an nnU-Net results folder.

    Raises
    ------
    ConfigError
        The folder is none: `plans.json` or `dataset.json` is not there.
    """
    if missing := [name for name in ("plans.json", "dataset.json") if not (folder / name).is_file()]:
        raise ConfigError(
            f"{folder} is not an nnU-Net results folder: {' and '.join(missing)} is missing; "
            "give the folder that is called Trainer__Plans__3d_fullres"
        )
    found = {int(path.parent.name[5:]): path for path in folder.glob(f"fold_[0-9]*/{_CHECKPOINT}")}
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Teacher:
    """A network in evaluation mode, and what it is to look at.

    Attributes
    ----------
    network : nn.Module
        Image (n, 4, z, y, x) -> logits (n, 3, z, y, x), in terms of `SEQUENCES` and `REGIONS`.
    patch_size : tuple of int
        Voxels over (z, y, x), or over (y, x) of a teacher that goes slice by slice.
    """

    network: nn.Module
    patch_size: tuple[int, ...]

    def patch_for(self, image: npt.NDArray[np.float32]) -> tuple[int, int, int]:
        """Return the patch (z, y, x) for a case (4, z, y, x); slice by slice that is all slices at once."""
        z, y, x = (image.shape[1], *self.patch_size)[-3:]
        return z, y, x


def load_teacher(
    folder: Path, fold: int, spacing_mm: tuple[float, float, float], device: torch.device, *, clip: bool = False
) -> Teacher:
    """Return a finished teacher.

    nnU-Net's checkpoints are pickles, which can run code when they are read: take them only from people you trust.

    Parameters
    ----------
    folder : Path
        nnU-Net results folder.
    fold : int
        Fold, finished.
    spacing_mm : tuple of float
        Voxel size (z, y, x) of the cases that it is to run on.
    device : torch.device
        Where it is to run.
    clip : bool
        Whether the cases are clipped to percentiles.

    Raises
    ------
    ConfigError
        The checkpoint cannot be loaded, or the teacher's sequences, labels, normalisation, axes or voxel size are not
        those of our prepared cases.
    """
    register_trainers()
    try:
        with nnunet.quiet():
            predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(folder), (fold,), _CHECKPOINT)
    except _UNLOADABLE as error:
        raise ConfigError(f"nnU-Net cannot load fold {fold} of {folder}: {error}") from error
    problems = _foreign(predictor, spacing_mm, CLIPPED_NORMALIZATION if clip else "ZScoreNormalization")
    channels, unknown = _channels(predictor.dataset_json["channel_names"])
    problems += unknown
    groups, unknown = _groups(predictor.label_manager, predictor.dataset_json["labels"])
    problems += unknown
    if problems:
        raise ConfigError("\n  ".join([f"{folder} cannot be a teacher here:", *problems]))
    patch = tuple(int(n) for n in predictor.configuration_manager.patch_size)
    network: nn.Module = predictor.network
    if len(patch) == 2:
        network = SliceNetwork(network)
    elif device.type == "cpu":  # the memory layout whose 3-D convolutions are fastest there
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub lacks it
    wrapped = RegionNetwork(network, channels, groups, regions=predictor.label_manager.has_regions)
    return Teacher(wrapped.to(device).eval(), patch)


def _foreign(predictor: Any, spacing_mm: tuple[float, float, float], normalization: str) -> list[str]:
    """Return what of the plan our preprocessing does not do."""
    plan = predictor.configuration_manager
    axes = len(plan.patch_size)
    wanted = list(spacing_mm[-axes:])
    problems = []
    if list(predictor.plans_manager.transpose_forward) != [0, 1, 2]:
        problems.append(f"it turns its axes ({predictor.plans_manager.transpose_forward}); train it with them in order")
    if any(abs(have / want - 1) > 0.01 for have, want in zip(plan.spacing[-axes:], wanted, strict=True)):
        problems.append(f"it works at {list(plan.spacing)} mm, the workspace at {list(spacing_mm)} mm (z, y, x)")
    if set(plan.normalization_schemes) != {normalization} or not all(plan.use_mask_for_norm):
        problems.append(f"it does not z-score every sequence over the brain mask ({normalization}, its mask used)")
    if set(predictor.allowed_mirroring_axes or ()) != set(range(axes)):
        problems.append("it was not trained with mirroring along all its axes")
    return problems


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _channels(names: Mapping[str, str]) -> tuple[tuple[int, ...], list[str]]:
    """Return which of our channels each of the teacher's is."""
    known = [ALIASES.get(name.lower(), "") for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    if sorted(known) != sorted(SEQUENCES):
        return (), [f"its channels are {', '.join(names.values())}; each of {', '.join(SEQUENCES)} is needed once"]
    return tuple(SEQUENCES.index(sequence) for sequence in known), []


def _groups(manager: Any, labels: Mapping[str, Any]) -> tuple[tuple[tuple[int, ...], ...], list[str]]:
    """Return the teacher's output channels that make up each of `REGIONS`."""
    foreground = [name for name, value in labels.items() if name not in ("background", "ignore") and value != 0]
    if manager.has_regions:
        names = [_REGION_NAMES.get(_plain(name), "") for name in foreground]
        if sorted(names) != sorted(REGIONS):
            return (), [f"its regions are {', '.join(foreground)}; whole tumor, tumor core and enhancing are needed"]
        return tuple((names.index(region),) for region in REGIONS), []
    ours = {manager.all_labels.index(int(labels[name])): _LABEL_NAMES.get(_plain(name), 0) for name in foreground}
    if sorted(ours.values()) != [NETC, SNFH, ET]:
        return (), [f"its labels are {', '.join(foreground)}; necrosis, edema and enhancing tumor are needed"]
    return tuple(tuple(c for c, ours_ in ours.items() if ours_ in REGION_LABELS[r]) for r in REGIONS), []


class RegionNetwork(nn.Module):
    """A network in terms of our sequences and regions.

    Parameters
    ----------
    network : nn.Module
        (n, channels, z, y, x) -> logits (n, heads, z, y, x).
    channels : sequence of int
        Which of `SEQUENCES` each of its channels is.
    groups : sequence of sequences of int
        Heads that make up each of `REGIONS`.
    regions : bool
        Whether heads are regions (sigmoid) or labels (softmax); of labels, the logit of a region's summed probability
        comes out.
    """

    def __init__(
        self, network: nn.Module, channels: Sequence[int], groups: Sequence[Sequence[int]], *, regions: bool
    ) -> None:
        super().__init__()
        self.network, self.channels = network, list(channels)
        self.groups, self.regions = [list(group) for group in groups], regions

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 3, z, y, x) of an image (n, 4, z, y, x)."""
        heads: torch.Tensor = self.network(image[:, self.channels]).float()
        if self.regions:
            return heads[:, [group[0] for group in self.groups]]
        found = []
        for group in self.groups:
            others = [head for head in range(heads.shape[1]) if head not in group]
            found.append(torch.logsumexp(heads[:, group], 1) - torch.logsumexp(heads[:, others], 1))
        return torch.stack(found, 1)


class SliceNetwork(nn.Module):
    """A 2-D network that takes volumes and computes them slice by slice, a few at a time.

    Parameters
    ----------
    network : nn.Module
        (n, channels, y, x) -> (n, heads, y, x), without statistics over a batch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (n, heads, z, y, x) of an image (n, channels, z, y, x)."""
        slices = image.transpose(1, 2).flatten(0, 1)
        logits = torch.cat([self.network(few) for few in slices.split(_SLICES_AT_ONCE)])
        return logits.unflatten(0, (image.shape[0], image.shape[2])).transpose(1, 2)

"""Patches to train on: cut from memory-mapped cases, the same ones for the same seed and iteration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import replacing
from glialite_runtime.sequences import REGION_LABELS, REGIONS, SEQUENCES

__all__ = [
    "Batch",
    "CachedCase",
    "Images",
    "PatchSampler",
    "SoftLabels",
    "TrainingData",
    "TrainingSplit",
    "cache_case",
    "cut",
]

Shape = tuple[int, int, int]

_MOST_LOCATIONS: Final = 5000
"""Voxels remembered for each label of a case as places to put a patch on."""


class TrainingSplit(Protocol):
    """One fold."""

    @property
    def train(self) -> tuple[str, ...]:
        """Cases to train on."""

    @property
    def validation(self) -> tuple[str, ...]:
        """Cases to validate on."""


class Images(Protocol):
    """Where prepared cases are read from."""

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Return the normalised image (4, z, y, x) and the labels (z, y, x), values 0 to 3."""


class TrainingData(Images, Protocol):
    """What training reads of a workspace; `glialite_distill.workspace.Workspace` is one."""

    @property
    def cohort_hash(self) -> str:
        """Changes with the cohort's files."""

    @property
    def held_out(self) -> tuple[str, ...]:
        """Cases that must not be trained on."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x)."""

    @property
    def splits(self) -> tuple[TrainingSplit, ...]:
        """The folds."""


class SoftLabels(Protocol):
    """What training reads of a soft-label store; `glialite_distill.soft_labels.SoftLabelStore` is one."""

    @property
    def key(self) -> str:
        """Changes with whatever made the soft labels."""

    @property
    def members(self) -> tuple[str, ...]:
        """The teachers."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Cases that have soft labels."""

    def load(self, case: str) -> npt.NDArray[np.float32]:
        """Return the probabilities (3, z, y, x), regions as in `REGIONS`, in the geometry of `TrainingData.load`."""

    def disagreement(self, case: str) -> npt.NDArray[np.float32]:
        """Return the standard deviation of the teachers' probabilities, of the same shape, in [0, 0.5]."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches cut at the same places out of image, truth and soft labels.

    Attributes
    ----------
    image : float tensor (b, 4, z, y, x)
        Normalised; 0 outside the brain and outside the case. float16 as it is cut, float32 after `to`.
    labels : uint8 tensor (b, z, y, x)
        BraTS-2023 values.
    soft : float tensor (b, 3, z, y, x)
        The teachers' probabilities, all 0 for a sample that has none; of the image's type.
    doubt : float tensor (b, 3, z, y, x)
        The teachers' disagreement, a standard deviation in [0, 0.5]; likewise.
    has_soft : bool tensor (b,)
        Which samples have soft labels.
    """

    image: torch.Tensor
    labels: torch.Tensor
    soft: torch.Tensor
    doubt: torch.Tensor
    has_soft: torch.Tensor

    def targets(self) -> torch.Tensor:
        """Return the truth as float32 region masks (b, 3, z, y, x)."""
        masks = [reduce(torch.logical_or, [self.labels == n for n in REGION_LABELS[region]]) for region in REGIONS]
        return torch.stack(masks, 1).float()

    def told(self) -> torch.Tensor:
        """Return which regions (b, 3) of each sample an answer is asked for: 1 or 0, float32.

        Without `t1c` neither TC nor ET is told from the rest, and decoding gives none; guessing them is not trained.
        """
        has_t1c = self.image[:, SEQUENCES.index("t1c")].flatten(1).any(1)
        return torch.stack([torch.ones_like(has_t1c), has_t1c, has_t1c], 1).float()

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device, in float32."""
        return Batch(
            self.image.to(device, non_blocking=True).float(),
            self.labels.to(device, non_blocking=True),
            self.soft.to(device, non_blocking=True).float(),
            self.doubt.to(device, non_blocking=True).float(),
            self.has_soft.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class CachedCase:
    """One case on disk, mapped into memory: only what a patch touches is read.

    Attributes
    ----------
    name : str
        Name of the case.
    image : float16 array (4, z, y, x)
        Normalised.
    labels : uint8 array (z, y, x)
        BraTS-2023 values.
    soft, doubt : float16 arrays (3, z, y, x), optional
        The teachers' probabilities and their disagreement.
    foreground : tuple of int arrays (n, 3)
        Voxels (z, y, x) of each label that occurs, at most `_MOST_LOCATIONS` each, evenly spread.
    """

    name: str
    image: npt.NDArray[np.float16]
    labels: npt.NDArray[np.uint8]
    soft: npt.NDArray[np.float16] | None
    doubt: npt.NDArray[np.float16] | None
    foreground: tuple[npt.NDArray[np.int64], ...]


def cache_case(data: Images, soft: SoftLabels | None, case: str, folder: Path) -> CachedCase:
    """Return a case from the cache in `folder`, which is filled first where needed; half precision, uncompressed.

    Raises
    ------
    ConfigError
        Image, labels and soft labels have different shapes: they were not made from one workspace.
    OutputError
        The disk is full.
    """
    paths = {part: folder / f"{case}-{part}.npy" for part in ("image", "soft", "doubt", "labels")}
    if not paths["labels"].is_file():  # written last
        image, labels = data.load(case)
        arrays = {"image": image}
        if soft is not None and case in soft.cases:
            arrays |= {"soft": soft.load(case), "doubt": soft.disagreement(case)}
        for what, array in (("image", image), ("soft labels", arrays.get("soft", image))):
            if array.shape[1:] != labels.shape:
                raise ConfigError(
                    f"case {case}: the {what} have the shape {array.shape[1:]}, the labels {labels.shape}; "
                    "make the soft labels again from this workspace"
                )
        for part, array in arrays.items():
            _save(paths[part], array.astype(np.float16))
        _save(paths["labels"], labels.astype(np.uint8, copy=False))
    labels = np.load(paths["labels"], mmap_mode="r")
    locations = []
    for value in REGION_LABELS["WT"]:
        found = np.argwhere(labels == value)
        if len(found):
            locations.append(found[:: -(-len(found) // _MOST_LOCATIONS)])
    stored = {part: np.load(path, mmap_mode="r") for part, path in paths.items() if path.is_file()}
    return CachedCase(case, stored["image"], labels, stored.get("soft"), stored.get("doubt"), tuple(locations))


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)


def cut(array: npt.NDArray[Any], start: Iterable[int], shape: Shape) -> npt.NDArray[Any]:
    """Return a copy of a box of the last three axes; what lies outside the array is 0.

    Parameters
    ----------
    array : array (..., z, y, x)
        Anything.
    start : three ints
        First voxel of the box; may be negative.
    shape : tuple of int
        Voxels of the box.
    """
    out = np.zeros((*array.shape[:-3], *shape), array.dtype)
    inside: list[Any] = [...]
    target: list[Any] = [...]
    for first, want, have in zip(start, shape, array.shape[-3:], strict=True):
        low, high = max(first, 0), max(min(first + want, have), first, 0)
        inside.append(slice(low, high))
        target.append(slice(low - first, high - first))
    if all(s.stop > s.start for s in inside[1:]):
        out[tuple(target)] = array[tuple(inside)]
    return out


@dataclass(frozen=True, slots=True)
class PatchSampler:
    """Cut batches of patches.

    Every case comes once before any comes again. A patch lies anywhere in its case or, with the probability
    `foreground`, around a voxel of a label picked evenly among those of the case, as in nnU-Net. A patch larger than
    the case holds all of it somewhere, in zeros.

    Attributes
    ----------
    cases : tuple of CachedCase
        At least one.
    shape : tuple of int
        Voxels (z, y, x) of a patch.
    batch_size : int
        Patches in a batch.
    foreground : float
        In [0, 1].
    seed : int
        The batch is a function of it and of the iteration alone.
    """

    cases: tuple[CachedCase, ...]
    shape: Shape
    batch_size: int
    foreground: float
    seed: int

    def batch(self, iteration: int) -> Batch:
        """Return the batch of an iteration, on the CPU, in half precision."""
        random = np.random.default_rng((self.seed, iteration))
        nothing = np.broadcast_to(np.float16(0), (len(REGIONS), *self.shape))
        images, labels, softs, doubts, has_soft = [], [], [], [], []
        for sample in range(iteration * self.batch_size, (iteration + 1) * self.batch_size):
            case = self._case(sample)
            start = self._start(case, random)
            images.append(cut(case.image, start, self.shape))
            labels.append(cut(case.labels, start, self.shape))
            has_soft.append(case.soft is not None)
            softs.append(nothing if case.soft is None else cut(case.soft, start, self.shape))
            doubts.append(nothing if case.doubt is None else cut(case.doubt, start, self.shape))
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(labels)),
            torch.from_numpy(np.stack(softs)),
            torch.from_numpy(np.stack(doubts)),
            torch.tensor(has_soft),
        )

    def _case(self, sample: int) -> CachedCase:
        round_, place = divmod(sample, len(self.cases))
        order = np.random.default_rng((self.seed, round_, 1)).permutation(len(self.cases))
        return self.cases[order[place]]

    def _start(self, case: CachedCase, random: np.random.Generator) -> tuple[int, ...]:
        spare = [have - want for have, want in zip(case.labels.shape, self.shape, strict=True)]
        low, high = [min(0, s) for s in spare], [max(0, s) for s in spare]
        anywhere = [int(random.integers(a, b, endpoint=True)) for a, b in zip(low, high, strict=True)]
        chosen, label, place = random.random(3)  # always drawn, so that one decision never shifts the next
        if chosen >= self.foreground or not case.foreground:
            return tuple(anywhere)
        voxels = case.foreground[int(label * len(case.foreground))]
        voxel = voxels[int(place * len(voxels))]
        jitter = [int(random.integers(-(want // 4), want // 4, endpoint=True)) for want in self.shape]
        return tuple(
            int(np.clip(v - want // 2 + j, a, b))
            for v, want, j, a, b in zip(voxel, self.shape, jitter, low, high, strict=True)
        )

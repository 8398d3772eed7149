"""nnU-Net's data loader with CarveMix: another case's tumour comes into a training patch before it is augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import crop_and_pad_nd, nnUNetDataLoader

from glialite_distill.teacher_augment import carvemix

__all__ = ["PROBABILITY", "CarveMixLoader", "carvemix_training"]

PROBABILITY: Final = 0.5
"""Share of the training patches that are mixed; the paper mixes offline and as many as there are real cases."""


class CarveMixLoader(nnUNetDataLoader):
    """nnU-Net's loader; half of its patches get what CarveMix carves out of another training case.

    The other case is cut at the same place relative to its brain's box: BraTS cases are registered, so anatomy lies
    alike in both. Randomness is numpy's global generator, as in the loader itself.
    """

    def __init__(self, *args: Any, transforms: Callable[..., dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(*args, transforms=self._mixed_first, **kwargs)
        self.augment = transforms
        self.place: tuple[float, ...] = ()

    def get_bbox(self, data_shape: Any, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
        """Return nnU-Net's choice of a patch, and remember where it is."""
        lower, upper = super().get_bbox(data_shape, *args, **kwargs)
        self.place = tuple((low + high) / 2 / n for low, high, n in zip(lower, upper, data_shape, strict=True))
        return lower, upper

    def _mixed_first(self, image: torch.Tensor, segmentation: torch.Tensor) -> dict[str, Any]:
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002 - seeded by the trainer for every epoch
        if rng.uniform() < PROBABILITY:
            other = self._other(str(rng.choice(self.indices)))
            mixed, labels = carvemix(image.numpy(), segmentation.numpy(), *other, rng)
            image, segmentation = torch.from_numpy(mixed), torch.from_numpy(labels)
        return self.augment(image=image, segmentation=segmentation)

    def _other(self, case: str) -> tuple[Any, Any]:
        """Return image and labels of another case at the same place of the brain's box."""
        image, labels, _, _ = self._data.load_case(case)
        centre = [round(at * n) for at, n in zip(self.place, image.shape[1:], strict=True)]
        box = [[c - p // 2, c - p // 2 + p] for c, p in zip(centre, self.patch_size, strict=True)]
        cut = crop_and_pad_nd(labels, box, -1, cast_cropped_to=np.int16)
        return crop_and_pad_nd(image, box, 0).astype(np.float32), cut


@contextmanager
def carvemix_training() -> Iterator[None]:
    """Let nnU-Net's trainer take a `CarveMixLoader` for training; its second loader, for validation, stays plain."""
    original = nnunet_trainer_module.nnUNetDataLoader
    classes = iter((CarveMixLoader, original))

    def loader(*args: Any, **kwargs: Any) -> nnUNetDataLoader:
        return next(classes)(*args, **kwargs)

    nnunet_trainer_module.nnUNetDataLoader = loader
    try:
        yield
    finally:
        nnunet_trainer_module.nnUNetDataLoader = original

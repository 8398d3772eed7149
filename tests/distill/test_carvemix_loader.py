"""nnU-Net's loader with CarveMix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import pytest
import torch
from glialite_distill import carvemix_loader, nnunet
from glialite_distill.carvemix_loader import CarveMixLoader, carvemix_training
from glialite_distill.recipes import RECIPES
from glialite_distill.trainers import seed_everything, trainer_of
from glialite_distill.workspace import Workspace
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


class Cases:
    """Two cases of one shape; the second has tumour in one corner and 9 in every voxel."""

    identifiers = ("a", "b")

    def load_case(self, name: str) -> tuple[Any, Any, None, dict[str, Any]]:
        """Return image (4, z, y, x), labels (1, z, y, x) and where the foreground is."""
        image = np.full((4, 24, 24, 24), 9.0 if name == "b" else 1.0, np.float32)
        labels = np.zeros((1, 24, 24, 24), np.int8)
        if name == "b":
            labels[0, :12, :12, :12] = 3
        return image, labels, None, {"class_locations": {}}


def loader_of(monkeypatch: pytest.MonkeyPatch, probability: float) -> CarveMixLoader:
    """Return a loader of whole cases whose augmentation is none."""
    monkeypatch.setattr(carvemix_loader, "PROBABILITY", probability)

    class Labels:
        has_ignore_label = False
        all_labels = [0, 1, 2, 3]  # noqa: RUF012 - as in nnU-Net

    return CarveMixLoader(
        Cases(),
        2,
        (24, 24, 24),
        (24, 24, 24),
        Labels(),
        transforms=lambda **data: data,  # type: ignore[arg-type]
    )


def test_a_tumour_moves_with_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a label of the other case arrives its intensities arrive, too; the rest of the patch stays."""
    loader = loader_of(monkeypatch, 1.0)
    seed_everything(1)
    moved = 0
    for _ in range(20):
        batch = loader.generate_train_batch()
        for key, image, labels in zip(batch["keys"], batch["data"], batch["target"], strict=True):
            if key == "a":
                foreign = image[0] == 9
                assert set(image.unique().tolist()) <= {1.0, 9.0}
                assert bool((labels[0][~foreign] == 0).all())
                moved += bool(labels.any())
    assert moved


def test_without_mixing_it_is_nnunets_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probability 0: every patch is its own case."""
    loader = loader_of(monkeypatch, 0.0)
    seed_everything(1)
    for _ in range(5):
        batch = loader.generate_train_batch()
        values = {"a": 1.0, "b": 9.0}
        assert all(bool((image == values[key]).all()) for key, image in zip(batch["keys"], batch["data"], strict=True))


def test_only_the_training_loader_mixes(prepared: Workspace, tmp_path: Path) -> None:
    """Validation sees real patches; other recipes, and nnU-Net afterwards, have the plain loader."""
    plans, dataset = nnunet.plans_and_dataset(prepared.root, prepared.plan)
    with (
        nnunet.environment(prepared.root),
        nnunet.quiet(),
        nnunet.single_process_augmentation(nnunet_trainer_module),
    ):
        kinds = []
        for extra in (("carvemix",), ()):
            recipe = replace(RECIPES["baseline"], extra_augmentation=extra)
            settings = {**plans, "continue_training": False}
            trainer = trainer_of(recipe)(settings, recipe.configuration, 0, dataset, torch.device("cpu"))
            trainer.log_file = str(tmp_path / "log.txt")
            trainer.initialize()
            kinds += [type(loader.data_loader) for loader in trainer.get_dataloaders()]
    assert kinds == [CarveMixLoader, nnUNetDataLoader, nnUNetDataLoader, nnUNetDataLoader]


def test_the_loader_is_put_back_after_an_error() -> None:
    """A failure while the loaders are built does not leave CarveMix to the next trainer."""
    with pytest.raises(ZeroDivisionError), carvemix_training():
        _ = 1 / 0
    assert nnunet_trainer_module.nnUNetDataLoader is nnUNetDataLoader

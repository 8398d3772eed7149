"""Stock nnU-Net beside ours: a folder that its own trainer left is a teacher, alone and in an ensemble."""

from __future__ import annotations

from pathlib import Path

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import numpy as np
import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.members import find_members
from glialite_distill.teacher_network import load_teacher
from glialite_distill.windows import Window, sliding_window
from glialite_distill.workspace import Workspace
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

LABELS = {"background": 0, "necrotic_core": 1, "edema": 2, "enhancing_tumor": 3}


def stock_folder(workspace: Workspace, folder: Path, configuration: str) -> Path:
    """Train nnU-Net's own trainer on labels for one iteration and return its results folder."""
    plans, dataset = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    dataset = {key: value for key, value in dataset.items() if key != "regions_class_order"} | {"labels": LABELS}
    (folder / "fold_0").mkdir(parents=True)
    with (
        nnunet.environment(workspace.root),
        nnunet.quiet(),
        nnunet.single_process_augmentation(nnunet_trainer_module),
        pytest.MonkeyPatch.context() as patch,
    ):
        stock = nnunet_trainer_module.nnUNetTrainer
        patch.setattr(stock, "plot_network_architecture", lambda _: None)
        settings = {**plans, "continue_training": False}
        trainer = stock(settings, configuration, 0, dataset, torch.device("cpu"))
        trainer.output_folder_base, trainer.output_folder = str(folder), str(folder / "fold_0")
        trainer.log_file = str(folder / "fold_0" / "log.txt")
        trainer.num_epochs = trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 1
        trainer.logger.plot_progress_png = lambda _: None
        trainer.run_training()
    return folder


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_a_stock_results_folder_teaches(configuration: str, prepared: Workspace, tmp_path: Path) -> None:
    """Its labels become our regions: the probability of a region is the sum over its labels, as nnU-Net predicts it."""
    folder = stock_folder(prepared, tmp_path / f"nnUNetTrainer__nnUNetPlans__{configuration}", configuration)
    (member,) = find_members(prepared, (str(folder),))
    teacher = load_teacher(member.folder, member.fold, prepared.spacing_mm, torch.device("cpu"))
    image = prepared.load(prepared.cases[0])[0][:, :32, :32, :32]  # one window: how overlaps are averaged is not ours
    logits = sliding_window(teacher.network, image, Window(teacher.patch_for(image)), torch.device("cpu"))
    with nnunet.quiet():
        predictor = nnUNetPredictor(
            device=torch.device("cpu"), use_mirroring=False, perform_everything_on_device=False, allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(folder), (0,))
        stock = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image)).float()
    p = torch.softmax(stock, 0).numpy()
    regions = np.stack([1 - p[0], p[1] + p[3], p[3]])
    inner = np.s_[:, 8:-8, 8:-8, 8:-8]  # nnU-Net adds up in FP16, whose small weights spoil a window's corners
    np.testing.assert_allclose((1 / (1 + np.exp(-logits)))[inner], regions[inner], atol=0.005)

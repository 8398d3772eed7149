"""Stock nnU-Net results folders as teachers: nnU-Net's own numbers, in our sequences and regions, or a refusal."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.ensemble import blend
from glialite_distill.teacher_network import finished_folds, load_teacher
from glialite_distill.windows import Window, sliding_window
from glialite_distill.workspace import CONFIGURATION, Workspace
from glialite_runtime.errors import ConfigError
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from tests.distill.conftest import TINY
from tests.distill.small_networks import CPU

PATCH = TINY.patch_size
INSIDE = (slice(None), *[slice(6, 26)] * 3)
"""Where nnU-Net's half-precision Gaussian is still precise."""

CHANNELS = {"0": "FLAIR", "1": "T1", "2": "T1ce", "3": "T2"}
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "enhancing tumor": [3], "tumor core": [2, 3]}
LABELS = {"background": 0, "edema": 1, "NCR": 2, "enhancing tumor": 3}


def stock_folder(
    folder: Path,
    workspace: Workspace,
    labels: Mapping[str, Any],
    configuration: str = CONFIGURATION,
    **changes: Any,
) -> Path:
    """Write what nnU-Net leaves of an untrained stock network; `changes` go into the plans or the configuration."""
    plans, dataset = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    plans, dataset = copy.deepcopy(plans), {**dataset, "channel_names": changes.pop("channel_names", CHANNELS)}
    dataset |= {"labels": dict(labels)}
    if "transpose_forward" in changes:
        plans["transpose_forward"] = changes.pop("transpose_forward")
    mirroring = changes.pop("mirroring", (0, 1, 2) if configuration == CONFIGURATION else (0, 1))
    plans["configurations"][configuration] |= changes
    if any(isinstance(value, list) for value in labels.values()):
        dataset["regions_class_order"] = list(range(1, len(labels)))
    else:
        dataset.pop("regions_class_order")
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(
        manager,
        manager.get_configuration(configuration),
        4,
        manager.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=True,
    )
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    content = {
        "network_weights": network.state_dict(),
        "trainer_name": changes.pop("trainer_name", "nnUNetTrainer"),
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": mirroring,
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def nnunets_probabilities(folder: Path, image: np.ndarray) -> np.ndarray:
    """Return what nnU-Net's predictor says of an image (4, z, y, x) in the folder's own channels: (heads, z, y, x)."""
    with nnunet.quiet():
        predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image))
    return predictor.label_manager.apply_inference_nonlin(logits).numpy()


@pytest.fixture(scope="module")
def image(prepared: Workspace) -> np.ndarray:
    """Return a prepared case cut to one window."""
    return np.ascontiguousarray(prepared.load(prepared.cases[0])[0][:, :32, :32, :32])


def test_a_stock_region_model_says_what_nnunet_says(prepared: Workspace, image: np.ndarray, tmp_path: Path) -> None:
    """Its channels are in another order, and so are its regions: names decide."""
    folder = stock_folder(tmp_path / "f", prepared, REGIONS)
    teacher = load_teacher(folder, 0, prepared.spacing_mm, CPU)
    found = blend([(teacher, (1.0,) * 3)], image, Window(PATCH), CPU).probabilities
    theirs = nnunets_probabilities(folder, image[[3, 0, 1, 2]])  # FLAIR, T1, T1ce, T2
    np.testing.assert_allclose(found[INSIDE], theirs[[0, 2, 1]][INSIDE], atol=2e-3)  # WT, ET, TC there
    assert np.ptp(theirs, axis=0).max() > 0.01


def test_the_labels_of_a_stock_softmax_model_are_added_up(
    prepared: Workspace, image: np.ndarray, tmp_path: Path
) -> None:
    """WT is edema + NCR + enhancing, TC is NCR + enhancing, ET is enhancing."""
    folder = stock_folder(tmp_path / "f", prepared, LABELS)
    teacher = load_teacher(folder, 0, prepared.spacing_mm, CPU)
    found = blend([(teacher, (1.0,) * 3)], image, Window(PATCH), CPU).probabilities
    _, edema, ncr, et = nnunets_probabilities(folder, image[[3, 0, 1, 2]])
    expected = np.stack([edema + ncr + et, ncr + et, et])
    np.testing.assert_allclose(found[INSIDE], expected[INSIDE], atol=2e-3)


def test_a_slice_by_slice_model_sees_every_slice_by_itself(
    prepared: Workspace, image: np.ndarray, tmp_path: Path
) -> None:
    """In windows over its own (y, x), all slices at once; a slice does not depend on the others."""
    folder = stock_folder(tmp_path / "f", prepared, REGIONS, "2d")
    teacher = load_teacher(folder, 0, prepared.spacing_mm, CPU)
    assert len(teacher.patch_size) == 2
    assert teacher.patch_for(image)[0] == image.shape[1]
    whole = sliding_window(teacher.network, image, Window(teacher.patch_for(image)), CPU)
    part = np.ascontiguousarray(image[:, 5:25])
    alone = sliding_window(teacher.network, part, Window(teacher.patch_for(part)), CPU)
    np.testing.assert_allclose(alone, whole[:, 5:25], atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ({"background": 0, "liver": 1, "edema": 2, "et": 3}, {}, "its labels are liver, edema, et"),
        ({"background": 0, "edema": 1, "enhancing tumor": 2}, {}, "its labels are edema, enhancing tumor"),
        (
            {"background": 0, "whole tumor": [1, 2], "tumor core": [2]},
            {"regions": 2},
            "its regions are whole tumor, tu",
        ),
        (REGIONS, {"channel_names": {**CHANNELS, "3": "CT"}}, "its channels are FLAIR, T1, T1ce, CT"),
        (REGIONS, {"channel_names": {**CHANNELS, "3": "T1"}}, "each of t1n, t1c, t2w, t2f is needed once"),
        (REGIONS, {"transpose_forward": [2, 0, 1]}, "it turns its axes"),
        (
            REGIONS,
            {"spacing": [1.0, 1.0, 1.0]},
            r"it works at \[1.0, 1.0, 1.0\] mm, the workspace at \[2.0, 2.0, 2.0\]",
        ),
        (REGIONS, {"normalization_schemes": ["CTNormalization"] * 4}, "does not z-score"),
        (REGIONS, {"use_mask_for_norm": [True, True, True, False]}, "does not z-score"),
        (REGIONS, {"mirroring": (0, 1)}, "not trained with mirroring"),
        (REGIONS, {"mirroring": None}, "not trained with mirroring"),
        (REGIONS, {"trainer_name": "SomebodysTrainer"}, "nnU-Net cannot load fold 0"),
    ],
)
def test_what_was_trained_on_something_else_is_refused(
    labels: dict[str, Any], changes: dict[str, Any], message: str, prepared: Workspace, tmp_path: Path
) -> None:
    """Unknown or missing names, another preprocessing, another voxel size: named, and never guessed around."""
    folder = stock_folder(tmp_path / "f", prepared, labels, **changes)
    with pytest.raises(ConfigError, match=message):
        load_teacher(folder, 0, prepared.spacing_mm, CPU)


def test_finished_folds_are_found_by_their_final_checkpoint(prepared: Workspace, tmp_path: Path) -> None:
    """A fold that is still in training is none, and neither is another folder."""
    folder = stock_folder(tmp_path / "f", prepared, REGIONS)
    (folder / "fold_3").mkdir()
    (folder / "fold_3" / "checkpoint_latest.pth").write_bytes(b"")
    (folder / "fold_all").mkdir()
    (folder / "fold_all" / "checkpoint_final.pth").write_bytes(b"")
    assert finished_folds(folder) == {0: folder / "fold_0" / "checkpoint_final.pth"}


def test_a_damaged_checkpoint_is_named(prepared: Workspace, tmp_path: Path) -> None:
    """Truncated while it was copied."""
    folder = stock_folder(tmp_path / "f", prepared, REGIONS)
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="nnU-Net cannot load fold 0"):
        load_teacher(folder, 0, prepared.spacing_mm, CPU)

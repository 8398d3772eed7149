"""nnU-Net driven as a library: folders, plans, regions, silence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nnunetv2.paths
import pytest
from glialite_distill import nnunet
from glialite_distill.nnunet import environment, plans_and_dataset, quiet
from glialite_distill.prepare import Request, prepare
from glialite_distill.recipes import PLANS
from glialite_distill.workspace import CONFIGURATION, DATASET, Workspace, prepared_folder
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def test_folders_are_found_without_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the context nnU-Net works in the workspace; afterwards it sees what it saw before."""
    monkeypatch.setenv("nnUNet_results", "/elsewhere")
    with environment(tmp_path):
        assert Path(str(nnunetv2.paths.nnUNet_results)) == tmp_path / "nnUNet_results"
        assert nnunetv2.paths.nnUNet_raw.is_set()
    assert str(nnunetv2.paths.nnUNet_results) == "/elsewhere"
    assert not nnunetv2.paths.nnUNet_raw.is_set()


def test_folders_are_released_after_an_error(tmp_path: Path) -> None:
    """A failure inside does not leave the workspace set for the next one."""
    with pytest.raises(ZeroDivisionError), environment(tmp_path):
        _ = 1 / 0
    assert not nnunetv2.paths.nnUNet_raw.is_set()


def test_stdout_is_kept_for_results(capsys: pytest.CaptureFixture[str]) -> None:
    """What nnU-Net prints is swallowed; stderr is not."""
    with quiet():
        sys.stdout.write("chatter\n")
        sys.stderr.write("kept\n")
    assert capsys.readouterr() == ("", "kept\n")


def test_the_full_plan_is_the_published_one(prepared: Workspace) -> None:
    """Patch 128×160×112, six stages of 32 to 320, last stride 1 along the axis of 112, batch 2, no batch Dice."""
    stock = json.loads((prepared_folder(prepared.root) / "nnUNetPlans.json").read_text())
    plans = nnunet._our_plans(stock, PLANS["full"])
    configuration = plans["configurations"][CONFIGURATION]
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert (configuration["patch_size"], configuration["batch_size"]) == ([128, 160, 112], 2)
    assert kwargs["features_per_stage"] == [32, 64, 128, 256, 320, 320]
    assert kwargs["strides"] == [[1, 1, 1], *[[2, 2, 2]] * 4, [2, 2, 1]]
    assert kwargs["norm_op"].endswith("InstanceNorm3d")
    assert kwargs["nonlin"] == "torch.nn.LeakyReLU"
    assert configuration["batch_dice"] is False


def test_every_configuration_reads_the_same_cases(prepared: Workspace) -> None:
    """Slices and residual encoders need no preprocessing of their own."""
    plans, _ = plans_and_dataset(prepared.root, prepared.plan)
    assert list(plans["configurations"]) == [CONFIGURATION, "2d", "3d_resenc_m", "3d_resenc_l"]
    folders = {c["data_identifier"] for c in plans["configurations"].values()}
    assert folders == {prepared.case_folder.name}


def test_our_plain_networks_are_the_planners(prepared: Workspace) -> None:
    """Key by key what nnU-Net's own planner wrote for this dataset, but for patch, widths and strides."""
    stock = json.loads((prepared_folder(prepared.root) / "nnUNetPlans.json").read_text())
    ours = nnunet._our_plans(stock, PLANS["full"])
    sized = {"n_stages", "features_per_stage", "kernel_sizes", "strides"}
    sized |= {"n_conv_per_stage", "n_conv_per_stage_decoder"}
    for name in (CONFIGURATION, "2d"):
        theirs, own = (p["configurations"][name]["architecture"] for p in (stock, ours))
        assert own["network_class_name"] == theirs["network_class_name"]
        assert own["arch_kwargs"].keys() == theirs["arch_kwargs"].keys()
        assert {k: v for k, v in own["arch_kwargs"].items() if k not in sized} == {
            k: v for k, v in theirs["arch_kwargs"].items() if k not in sized
        }


def test_the_full_network_has_the_published_size(prepared: Workspace) -> None:
    """30.8 million parameters, 4 channels in and 3 regions out."""
    import torch
    from glialite_distill.trainers import TRAINERS

    stock = json.loads((prepared_folder(prepared.root) / "nnUNetPlans.json").read_text())
    manager = PlansManager(nnunet._our_plans(stock, PLANS["full"]))
    with torch.device("meta"):
        network = TRAINERS["baseline"].build_network_architecture(
            manager, manager.get_configuration(CONFIGURATION), 4, 3
        )
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 30.8


def test_regions_come_in_our_order(prepared: Workspace) -> None:
    """nnU-Net's output channels are WT, TC, ET, and its label map uses our values."""
    plans, dataset = plans_and_dataset(prepared.root, prepared.plan)
    labels = PlansManager(plans).get_label_manager(dataset)
    assert labels.has_regions
    assert [tuple(r) for r in labels.foreground_regions[:2]] == [(1, 2, 3), (1, 3)]
    assert tuple(labels.foreground_regions[2]) == (3,)
    assert dataset["regions_class_order"] == [2, 1, 3]


def test_normalisation_is_always_within_the_brain(prepared: Workspace) -> None:
    """The mask is used for every channel, and axes are never permuted."""
    plans, _ = plans_and_dataset(prepared.root, prepared.plan)
    assert plans["configurations"][CONFIGURATION]["use_mask_for_norm"] == [True] * 4
    assert plans["transpose_forward"] == [0, 1, 2]


def test_the_folder_of_cases_is_valid_for_nnunet(prepared: Workspace) -> None:
    """nnU-Net refuses a folder with foreign files; ours lists exactly the training cases."""
    folder = str(prepared.case_folder)
    assert sorted(infer_dataset_class(folder).get_identifiers(folder)) == list(prepared.cases)


def test_no_path_of_this_computer_is_written_into_the_dataset(prepared: Workspace) -> None:
    """`dataset.json` travels with every teacher: it names files relative to itself."""
    text = (prepared.root / "nnUNet_raw" / DATASET / "dataset.json").read_text()
    assert str(prepared.root) not in text
    assert '"imagesTr/' in text


def test_two_workspaces_can_be_used_in_one_process(cohort: Path, tmp_path: Path, prepared: Workspace) -> None:
    """Nothing of one workspace leaks into another."""
    other = prepare(Request((cohort,), tmp_path / "w", plan="tiny", folds=2, held_out=1))
    assert len(other.cases) == 3
    assert len(Workspace.open(prepared.root).cases) == 4

"""Who takes part in an ensemble."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from glialite_distill.members import find_members, sources_of
from glialite_distill.runs import fold_folder
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import ConfigError


def test_members_are_all_finished_folds_or_the_ones_asked_for(trained: Workspace) -> None:
    """Each with the hash of its checkpoint; unfinished ones are refused by name."""
    members = find_members(trained, ("baseline", "mednext-b"))
    assert [(m.recipe, m.fold) for m in members] == [
        ("baseline", 0),
        ("baseline", 1),
        ("mednext-b", 0),
        ("mednext-b", 1),
    ]
    assert len({m.sha256 for m in members}) == 4
    with pytest.raises(ConfigError, match="mednext-m has no finished teacher of fold any"):
        find_members(trained, ("baseline", "mednext-m"))
    with pytest.raises(ConfigError, match="baseline has no finished teacher of fold 3"):
        find_members(trained, ("baseline",), (1, 3))


def test_a_results_folder_is_a_member_under_its_own_name(trained: Workspace, tmp_path: Path) -> None:
    """With every finished fold; the path does not matter, the checkpoints do."""
    folder = fold_folder(trained, "baseline", 0).parent
    copy = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(folder, copy)
    (copy / "fold_1" / "checkpoint_final.pth").unlink()
    ours, theirs = find_members(trained, ("baseline",), (0,)), find_members(trained, (str(copy),))
    assert [(m.recipe, m.fold, m.folder) for m in theirs] == [(copy.name, 0, copy)]
    assert theirs[0].sha256 == ours[0].sha256
    assert sources_of((*ours, *theirs, *ours)) == ("baseline", copy.name)


def test_folders_that_cannot_be_members_are_refused(trained: Workspace, tmp_path: Path) -> None:
    """No results folder; no finished fold; two of one name; one that is called like a recipe; a typing error."""
    folder = fold_folder(trained, "baseline", 0).parent
    for name in ("a/T__P__3d", "b/T__P__3d", "baseline"):
        shutil.copytree(folder, tmp_path / name)
    with pytest.raises(ConfigError, match=r"not an nnU-Net results folder: plans.json and dataset.json is missing"):
        find_members(trained, (str(tmp_path),))
    with pytest.raises(ConfigError, match="like another member"):
        find_members(trained, (str(tmp_path / "a/T__P__3d"), str(tmp_path / "b/T__P__3d")))
    with pytest.raises(ConfigError, match="is called baseline"):
        find_members(trained, (str(tmp_path / "baseline"),))
    for fold in (0, 1):
        (tmp_path / f"a/T__P__3d/fold_{fold}/checkpoint_final.pth").unlink()
    with pytest.raises(ConfigError, match="no finished teacher of fold any; train it with nnU-Net"):
        find_members(trained, (str(tmp_path / "a/T__P__3d"),))
    with pytest.raises(ConfigError, match="unknown recipe"):
        find_members(trained, (str(tmp_path / "nowhere"),))

"""`teacher-train predict` and `ensemble`: options, output, exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.runs import fold_folder
from glialite_distill.teacher_cli import app
from glialite_distill.workspace import Workspace
from glialite_runtime.command import run

from tests.distill.conftest import write_case


def call(*arguments: object) -> int:
    """Run `teacher-train` in this process and return its exit code."""
    return run(app, [str(a) for a in arguments])


def test_fit_then_segment_with_what_was_fitted(
    trained: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--fit alone prints the table; then learnt weights and the fitted rule make labels and probabilities."""
    shutil.copytree(trained.root, tmp_path / "w", symlinks=True)
    write_case(tmp_path / "in" / "P1", 5)
    common = ("ensemble", "-w", tmp_path / "w", "--members", "baseline,grokking", "--device", "cpu")
    folders = ("--input", tmp_path / "in", "--out", tmp_path / "out")
    chosen = ("--weights", "learnt", "--decision", "fitted")
    assert call(*common, *folders, *chosen) == 2
    assert "--fit first" in capsys.readouterr().err
    assert call(*common, "--fit") == 0
    assert "| all | hybrid |" in capsys.readouterr().out
    assert call(*common, *folders, *chosen, "--probabilities", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["members"] == [["baseline", 0], ["baseline", 1], ["grokking", 0], ["grokking", 1]]
    assert sum(row["ET"] for row in value["weights"].values()) == pytest.approx(1)
    written = sorted(path.name for path in (tmp_path / "out" / "P1").iterdir())
    assert written == ["P1-probabilities.npz", "P1-seg.nii.gz"]
    assert np.load(tmp_path / "out" / "P1" / "P1-probabilities.npz")["probabilities"].max() > 0


def test_uncertainty_is_written_by_name(trained: Workspace, tmp_path: Path) -> None:
    """One file a region and a picture, beside the labels."""
    write_case(tmp_path / "in" / "P1", 5)
    who = ("predict", "-w", trained.root, "--recipe", "baseline", "--fold", "0", "--device", "cpu")
    what = ("--input", tmp_path / "in", "--out", tmp_path / "out", "--tta", "--uncertainty")
    assert call(*who, *what) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "P1").iterdir()) == [
        "P1-seg.nii.gz",
        "P1-uncertainty-ET.nii.gz",
        "P1-uncertainty-TC.nii.gz",
        "P1-uncertainty-WT.nii.gz",
        "P1-uncertainty.png",
    ]


def test_a_results_folder_takes_part(trained: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its path, beside recipes: the mean of a teacher and its copy is that teacher."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(fold_folder(trained, "baseline", 0).parent, folder)
    write_case(tmp_path / "in" / "P1", 5)
    found = []
    for number, members in enumerate(("baseline", f"baseline,{folder}")):
        out = tmp_path / str(number)
        asked = ("--members", members, "--input", tmp_path / "in", "--out", out, "--probabilities", "--device", "cpu")
        assert call("ensemble", "-w", trained.root, *asked) == 0
        found.append(np.load(out / "P1" / "P1-probabilities.npz")["probabilities"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ensemble", "--members", "baseline"), "--input and --out belong together"),
        (("ensemble", "--members", "baseline", "--fit", "--input", "."), "--input and --out belong together"),
        (("ensemble", "--members", "nobody", "--input", ".", "--out", "o"), "unknown recipe 'nobody'"),
        (("ensemble", "--members", "mednext-b", "--weights", "hybrid"), "baseline and grokking"),
        (("ensemble", "--members", "baseline", "--weights", "w.json"), "--weights w.json is neither"),
        (("ensemble", "--members", "baseline", "--decision", "best"), "unknown decision rule 'best'"),
        (("ensemble", "--members", "baseline", "--uncertainty"), "ask for --tta"),
        (("predict", "--recipe", "baseline", "--fold", "0", "--uncertainty"), "ask for --tta"),
        (("predict", "--recipe", "baseline", "--fold", "0", "--step", "2"), "not in (0, 1]"),
        (("predict", "--recipe", "baseline", "--fold", "7"), "no finished teacher of fold 7"),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: tuple[str, ...],
    message: str,
    trained: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence on stderr, exit 2, nothing on stdout and no folder."""
    write_case(tmp_path / "in" / "P1", 5)
    asks = "--input" in arguments or "belong together" in message
    folders = () if asks else ("--input", tmp_path / "in", "--out", tmp_path / "o")
    assert call(arguments[0], "-w", trained.root, *arguments[1:], *folders) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (tmp_path / "o").exists()

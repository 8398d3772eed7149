"""The command: what it prints, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from glialite_distill.teacher_cli import app
from glialite_distill.workspace import Workspace
from glialite_runtime.command import run

from tests.distill.conftest import write_cohort


def call(*arguments: object) -> int:
    """Run `teacher-train` in this process and return its exit code."""
    return run(app, [str(a) for a in arguments])


@pytest.mark.parametrize("command", ["prepare", "recipes", "run", "status", "predict", "ensemble", "evaluate"])
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help ends with 0 and shows how the command is used."""
    assert call(command, "--help") == 0
    assert f"teacher-train {command}" in " ".join(capsys.readouterr().out.split())


def test_the_chain_runs_from_folders_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prepare, train two recipes, look, segment with both and score: every step ends with 0."""
    cohort, work, out = write_cohort(tmp_path / "cohort", 2), tmp_path / "w", tmp_path / "out"
    assert call("prepare", "--cohort", cohort, "--workspace", work, "--plan", "tiny", "--folds", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"] == ["BraTS-SSA-00001-000", "BraTS-SSA-00002-000"]
    few = ("--epochs", 1, "--iterations", 1, "--device", "cpu", "--json")
    assert call("run", "--workspace", work, "--recipe", "grokking,baseline", "--fold", "0", *few) == 0
    assert [j["recipe"] for j in json.loads(capsys.readouterr().out)] == ["baseline", "grokking"]
    assert call("status", "--workspace", work) == 0
    assert capsys.readouterr().out.count("finished") == 2
    members = ("--members", "baseline,grokking", "--input", cohort, "--out", out, "--device", "cpu")
    assert call("ensemble", "--workspace", work, *members, "--json") == 0
    assert json.loads(capsys.readouterr().out)["members"] == [["baseline", 0], ["grokking", 0]]
    scores = ("--prediction", out, "--metric", "plain", "--csv", tmp_path / "s.csv", "--json")
    assert call("evaluate", "--reference", tmp_path / "truth", *scores) == 3
    truth = tmp_path / "truth"
    truth.mkdir()
    for case in cohort.iterdir():
        (truth / f"{case.name}.nii.gz").write_bytes((case / f"{case.name}-seg.nii.gz").read_bytes())
    capsys.readouterr()
    assert call("evaluate", "--reference", truth, *scores) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["ET", "TC", "WT"]
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 7


def test_progress_goes_to_stderr(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout holds the result alone, whatever nnU-Net prints."""
    assert call("prepare", "--cohort", cohort, "--workspace", tmp_path / "w", "--plan", "tiny", "--folds", 2) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("4 training cases in 2 folds, 0 held out; plan tiny")
    assert len(captured.out.splitlines()) == 2
    assert "preprocess: 4 done" in captured.err


def test_a_dry_run_writes_nothing(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It forecasts disk and time."""
    arguments = ("--cohort", cohort, "--workspace", tmp_path / "w", "--plan", "tiny", "--dry-run", "--json")
    assert call("prepare", *arguments) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 4
    assert not (tmp_path / "w").exists()


def test_a_dry_run_of_training_lists_the_jobs(prepared: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order in which they would run, with what was there before."""
    arguments = ("--workspace", prepared.root, "--recipe", "grokking,baseline", "--fold", "all", "--dry-run", "--json")
    assert call("run", *arguments) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert [(j["recipe"], j["fold"], j["before"]) for j in jobs] == [
        (r, f, "new") for r in ("baseline", "grokking") for f in (0, 1)
    ]


def test_the_time_limit_exits_75(cohort: Path, tmp_path: Path) -> None:
    """A scheduler can tell "run again" from failure."""
    assert call("prepare", "--cohort", cohort, "--workspace", tmp_path / "w", "--plan", "tiny", "--folds", 2) == 0
    arguments = ("--workspace", tmp_path / "w", "--recipe", "baseline", "--fold", 0, "--epochs", 2, "--iterations", 1)
    assert call("run", *arguments, "--time-limit", "0.001s", "--device", "cpu") == 75


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "--recipe", "baseline", "--launcher", "ddp"), 5, "--launcher ddp is not built yet"),
        (("run", "--recipe", "baseline", "--launcher", "slurm"), 5, "--launcher slurm is not built yet"),
        (("run", "--recipe", "baseline", "--launcher", "k8s"), 2, "unknown launcher"),
        (("run", "--recipe", "nobody"), 2, "unknown recipe 'nobody'"),
        (("run", "--recipe", "baseline", "--fold", "one"), 2, "neither 'all' nor numbers"),
        (("run", "--recipe", "baseline", "--fold", "7"), 2, "fold 7 does not exist"),
        (("run", "--recipe", "baseline", "--time-limit", "soon"), 2, "such as 30h"),
        (("run", "--recipe", "baseline", "--epochs", "0"), 2, "--epochs"),
        (("predict", "--recipe", "baseline", "--fold", "0", "--input", ".", "--out", "o"), 2, "no finished teacher"),
        (("ensemble", "--members", "baseline", "--step", "0", "--input", ".", "--out", "o"), 2, "not in (0, 1]"),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: tuple[str, ...], code: int, message: str, prepared: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence on stderr, the right exit code, nothing on stdout."""
    assert call(arguments[0], "--workspace", prepared.root, *arguments[1:]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--metric", "brats-2023"), 5),
        (("--metric", "brats-2024", "--challenge", "ssa"), 5),
        (("--metric", "iou"), 2),
        (("--metric", "plain", "--challenge", "ssa"), 2),
    ],
)
def test_metrics_that_are_not_there_are_refused(options: tuple[str, ...], code: int, tmp_path: Path) -> None:
    """Nothing is scored with another metric than the one asked for."""
    folders = ("--reference", tmp_path, "--prediction", tmp_path, "--csv", tmp_path / "s.csv")
    assert call("evaluate", *folders, *options) == code
    assert not (tmp_path / "s.csv").exists()


def test_label_targets_are_not_built_yet(cohort: Path, tmp_path: Path) -> None:
    """Exit 5, before anything is written."""
    assert call("prepare", "--cohort", cohort, "--workspace", tmp_path / "w", "--targets", "labels") == 5
    assert not (tmp_path / "w").exists()


def test_a_cohort_that_is_not_there_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error in a path is not a bad scan."""
    assert call("prepare", "--cohort", tmp_path / "nowhere", "--workspace", tmp_path / "w") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_an_unprepared_workspace_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and the command to run first."""
    assert call("status", "--workspace", tmp_path) == 2
    assert "run teacher-train prepare" in capsys.readouterr().err


def test_recipes_print_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for machines."""
    assert call("recipes", "--json") == 0
    names = [r["name"] for r in json.loads(capsys.readouterr().out)]
    assert names == ["baseline", "grokking", "mednext-b", "mednext-m"]
    assert call("recipes") == 0
    assert "learning rate: 0.0027" in capsys.readouterr().out

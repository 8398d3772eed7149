"""The command: what it prints, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.teacher_cli import app
from glialite_distill.workspace import Workspace
from glialite_runtime.command import run

from tests.conftest import save
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
        (("run", "--recipe", "baseline", "--launcher", "slurm"), 2, "slurm needs --time-limit"),
        (("run", "--recipe", "baseline", "--launcher", "slurm", "--threads", "2"), 2, "cpus_per_task"),
        (("run", "--recipe", "baseline", "--slurm", "mem=8GB"), 2, "--slurm belongs to --launcher slurm"),
        (("run", "--recipe", "baseline", "--slurm", "walltime=1"), 2, "one of the keys partition, account"),
        (("run", "--recipe", "baseline", "--config", "nowhere.toml"), 2, "nowhere.toml cannot be read"),
        (("status", "--watch", "--json"), 2, "ask for one of them"),
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
        (("--metric", "brats-2023"), 3),
        (("--metric", "brats-2024", "--challenge", "men"), 2),
        (("--metric", "iou"), 2),
        (("--metric", "plain", "--challenge", "ssa"), 2),
    ],
)
def test_what_cannot_be_scored_is_refused(options: tuple[str, ...], code: int, tmp_path: Path) -> None:
    """Unknown metrics and challenges are usage errors, empty folders bad input."""
    folders = ("--reference", tmp_path, "--prediction", tmp_path, "--csv", tmp_path / "s.csv")
    assert call("evaluate", *folders, *options) == code
    assert not (tmp_path / "s.csv").exists()


def test_evaluate_takes_several_models_and_writes_all_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The official columns with the model before them, a page, a submission; stdout holds the paper's table."""
    for name, values in (("truth", [1, 2, 3]), ("one", [1, 2, 3]), ("two", [0, 2, 3])):
        save(tmp_path / name / "BraTS-SSA-00001-000.nii.gz", np.array(values, np.uint8).reshape(-1, 1, 1), np.eye(4))
    one = ("--prediction", tmp_path / "one", "--csv", tmp_path / "s.csv")
    arguments = ("--reference", tmp_path / "truth", *one, "--metric", "brats-2024", "--challenge", "met")
    report = ("--prediction", f"second={tmp_path / 'two'}", "--report", tmp_path / "report")
    assert call("evaluate", *arguments, *report) == 0
    assert "| Metric" in capsys.readouterr().out
    header = (tmp_path / "s.csv").read_text().splitlines()[0]
    assert header.startswith("model,case,Labels,Num_TP,Num_FP,Num_FN,")
    assert header.endswith("LesionWise_Score_NSD @ 0.5,LesionWise_Score_NSD @ 1.0")
    assert (tmp_path / "report" / "table.md").is_file()
    assert call("evaluate", "--prediction", tmp_path / "one", "--rle", tmp_path / "r.csv") == 0
    assert (tmp_path / "r.csv").read_text().splitlines()[1] == "BraTS-SSA-00001-000_1,1 1"


def test_label_targets_are_a_recipe(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and the recipe's name, before anything is written."""
    assert call("prepare", "--cohort", cohort, "--workspace", tmp_path / "w", "--targets", "labels") == 2
    assert "--recipe baseline-labels" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("option", "recorded"), [("--clip", "clip"), ("--mask-channel", "mask_channel")])
def test_input_options_reach_the_record(option: str, recorded: str, cohort: Path, tmp_path: Path) -> None:
    """Each is written down under its own name; the other is not."""
    folder = tmp_path / "w"
    assert call("prepare", "--cohort", cohort, "-w", folder, "--plan", "tiny", "--folds", 2, option) == 0
    options = json.loads((folder / "cohort.json").read_text())["options"]
    assert {k for k in ("clip", "mask_channel") if options.get(k)} == {recorded}


def test_a_cohort_that_is_not_there_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error in a path is not a bad scan."""
    assert call("prepare", "--cohort", tmp_path / "nowhere", "--workspace", tmp_path / "w") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_an_unprepared_workspace_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and the command to run first."""
    assert call("status", "--workspace", tmp_path) == 2
    assert "run teacher-train prepare" in capsys.readouterr().err


def test_recipes_print_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for machines, overridden by a file or not."""
    assert call("recipes", "--json") == 0
    rows = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
    assert {"baseline", "grokking", "mednext-b", "mednext-m", "unet", "segresnet", "nnunet-2d"} < set(rows)
    assert call("recipes") == 0
    assert "learning rate: 0.0027" in capsys.readouterr().out
    (tmp_path / "r.toml").write_text("[baseline]\nepochs = 50\n")
    assert call("recipes", "--config", tmp_path / "r.toml", "--json") == 0
    assert {r["epochs"] for r in json.loads(capsys.readouterr().out) if r["name"] == "baseline"} == {50}

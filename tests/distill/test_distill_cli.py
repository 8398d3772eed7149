"""The command `distill`: what it prints, what it refuses, and that finished work is not done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from glialite_distill.cli import app
from glialite_distill.student_file import load_student
from glialite_distill.train_options import CONTINUED, FINE_TUNING, TrainOptions
from glialite_distill.workspace import Workspace
from glialite_runtime.command import run

from .conftest import write_cohort

VERBS = ("phantoms", "soft-labels", "pseudo-labels", "train", "evaluate")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets this small lose more to two waiting threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def distill(*arguments: object) -> int:
    return run(app, [str(a) for a in arguments])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` ends well and shows a command line."""
    assert distill(verb, "--help") == 0
    assert f"Example: distill {verb}" in capsys.readouterr().out


def test_phantoms_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One patient is written; the same command again says that there is nothing to do."""
    command = ("phantoms", "--out", tmp_path / "cohort", "--patients", 1, "--seed", 3, "--small", "--workers", 1)
    assert distill(*command, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["new"] == len(value["cases"]) == 1
    assert (tmp_path / "cohort" / value["cases"][0]).is_dir()
    assert distill(*command) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_an_unprepared_workspace_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and a sentence that names the command to run first."""
    assert distill("train", "--workspace", tmp_path) == 2
    assert "teacher-train prepare" in capsys.readouterr().err


def test_soft_labels_without_teachers_are_refused(prepared: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and what to run first, also for a forecast."""
    assert distill("soft-labels", "--workspace", prepared.root, "--dry-run") == 2
    assert "teacher-train run" in capsys.readouterr().err


def test_soft_labels_say_what_was_made(trained: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Members and mirroring reach the store; what is new is counted, its size said, and nothing new is said as such."""
    root = tmp_path / "w"
    shutil.copytree(trained.root, root, symlinks=True)
    command = ("soft-labels", "--workspace", root, "--members", "baseline, mednext-b", "--device", "cpu")
    assert distill(*command, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 4
    assert distill(*command, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["members"], made["new"]) == (["baseline", "mednext-b"], 4)
    assert 0 < made["bytes_a_voxel"] < 6
    assert distill(*command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert distill(*command, "--weights", "hybrid") == 2
    assert "hybrid weights need" in capsys.readouterr().err


@pytest.fixture(scope="module")
def workspace(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the prepared workspace with a student of two iterations on the truth."""
    root = tmp_path_factory.mktemp("work") / "workspace"
    shutil.copytree(prepared.root, root)
    assert distill("train", "--workspace", root, *TRAIN) == 0
    return root


TRAIN = ("--iterations", 2, "--patch", "16,16,16", "--soft-weight", 0, "--device", "cpu")


def test_a_trained_student_lies_in_the_workspace(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options are in its provenance; the same command again is instant and says so."""
    file = load_student(workspace / "students" / "S" / "student.pt")
    assert file.provenance["options"]["patch"] == [16, 16, 16]
    assert file.provenance["options"]["soft_weight"] == 0
    assert file.spacing_mm == (2.0, 2.0, 2.0)
    assert distill("train", "--workspace", workspace, *TRAIN) == 0
    assert "finished already; nothing to do" in capsys.readouterr().out


def test_training_again_with_other_options_is_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and the difference; another name is another training."""
    assert distill("train", "--workspace", workspace, *TRAIN, "--seed", 4) == 2
    assert "seed (0, now 4)" in capsys.readouterr().err
    assert distill("train", "--workspace", workspace, *TRAIN, "--seed", 4, "--name", "other", "--dry-run") == 0
    assert "2 iterations left" in capsys.readouterr().out
    assert not (workspace / "students" / "other").exists()


def test_a_time_limit_stops_with_75_and_goes_on(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first run stops in order, the second one ends as if there had been no stop."""
    command = ("train", "--workspace", workspace, *TRAIN, "--name", "slow")
    assert distill(*command, "--time-limit", "0s") == 75
    assert "run the same command again" in capsys.readouterr().err
    assert distill(*command, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["already_finished"] is False
    assert "2 of 2" in captured.err
    slow, straight = (load_student(workspace / "students" / name / "student.pt") for name in ("slow", "S"))
    assert all(torch.equal(slow.state[key], straight.state[key]) for key in straight.state)


def test_restart_throws_the_old_training_away(workspace: Path) -> None:
    """With --restart other options are no longer refused."""
    command = ("train", "--workspace", workspace, *TRAIN, "--name", "again")
    assert distill(*command, "--time-limit", "0s") == 75
    assert distill(*command, "--seed", 4, "--restart") == 0
    assert load_student(workspace / "students" / "again" / "student.pt").provenance["seed"] == 4


def test_fine_tuning_continues_a_student_under_a_name_of_its_own(workspace: Path) -> None:
    """The file lies beside its parent's; rate and default of iterations are fractions of a training's."""
    parent = workspace / "students" / "S" / "student.pt"
    assert distill("train", "--workspace", workspace, *TRAIN, "--init", parent, "--quantisation-aware") == 0
    options = load_student(workspace / "students" / "S-quantisation-aware" / "student.pt").provenance["options"]
    assert options["quantisation_aware"] is True
    assert options["learning_rate"] == FINE_TUNING.learning_rate < TrainOptions().learning_rate
    assert FINE_TUNING.iterations < TrainOptions().iterations


def test_a_student_continues_on_other_cases_with_its_own_old_self_as_assistant(workspace: Path) -> None:
    """A clinic's own cases: a tenth of the rate, half the iterations by default, and what it knew is asked for too."""
    parent = workspace / "students" / "S" / "student.pt"
    command = ("train", "--workspace", workspace, *TRAIN, "--init", parent, "--assistant", parent, "--name", "local")
    assert distill(*command) == 0
    provenance = load_student(workspace / "students" / "local" / "student.pt").provenance
    assert provenance["options"]["learning_rate"] == CONTINUED.learning_rate == TrainOptions().learning_rate / 10
    assert provenance["assistant"] == provenance["initial"]
    assert provenance["last"]["assistant"] > 0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--patch", "64"), "three whole numbers"),
        (("--patch", "40,48,48"), "multiple of 16"),
        (("--time-limit", "soon"), "such as 30h"),
        (("--student", "XL"), "student 'XL' is unknown"),
        (("--name", "../out"), "letters, digits"),
        (("--device", "abacus"), "unknown device"),
        (("--soft-weight", "1"), "distill soft-labels"),
        (("--quantisation-aware",), "with --init"),
        (("--temperature", "2,3"), "WT,TC,ET"),
        (("--temperature", "0"), "temperature must be positive"),
        (("--unlabelled",), "distill pseudo-labels"),
        (("--assistant", "nowhere.pt"), "does not exist"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    prepared: Workspace, option: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one sentence."""
    assert distill("train", "--workspace", prepared.root, *TRAIN, *option) == 2
    assert said in capsys.readouterr().err


def test_evaluating_the_students_of_a_workspace(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Students and the trivial rule in one table and file; the second time it is read from the file."""
    unseen = write_cohort(tmp_path / "unseen", 2, first=51)
    command = ("evaluate", "--workspace", workspace, "--cohort", unseen, "--csv", tmp_path / "dice.csv")
    assert distill(*command, "--device", "cpu") == 0
    text = capsys.readouterr().out
    assert "student S" in text
    assert "FLAIR > " in text
    value = json.loads((tmp_path / "dice.csv").with_suffix(".json").read_text())
    rule = value["summary"][-1]
    assert rule["dice"]["WT"] > 0.5  # these tumours are bright
    assert np.isfinite(rule["mean_dice"])
    assert distill(*command, "--device", "cpu") == 0
    assert "made from the same files already" in capsys.readouterr().out


def test_evaluating_on_the_training_cases_is_refused(
    workspace: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2; every model that met them is named."""
    assert distill("evaluate", "--workspace", workspace, "--cohort", cohort, "--device", "cpu") == 2
    said = capsys.readouterr().err
    assert "student S (FP32) has met the patients of" in said
    assert "the workspace has met the patients of" in said


def test_comparing_folders_needs_a_name(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--compare DIR` without a name is exit 2, as is nothing at all."""
    assert distill("evaluate", "--cohort", cohort, "--compare", cohort) == 2
    assert "NAME=DIR" in capsys.readouterr().err
    assert distill("evaluate", "--cohort", cohort) == 2
    assert "nothing to evaluate" in capsys.readouterr().err

"""Running teachers: order, skipping, continuing, refusing, stopping in time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from glialite_distill.device import pick_device
from glialite_distill.prepare import Request, prepare
from glialite_distill.run_status import status
from glialite_distill.runs import final_checkpoint, fold_folder, latest_checkpoint, read_history, training_record
from glialite_distill.teachers import RunOptions, load_weights, make_jobs, run_teachers
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import BackendUnavailableError, ConfigError, TimeLimitReached

from tests.distill.conftest import MEMBERS

ONE = RunOptions(epochs=1, iterations=1, device="cpu")


@pytest.fixture
def workspace(cohort: Path, tmp_path: Path) -> Workspace:
    """Return a prepared workspace of this test's own."""
    return prepare(Request((cohort,), tmp_path / "w", plan="tiny", folds=2))


def test_a_warm_start_begins_with_the_same_folds_final_weights(trained: Workspace) -> None:
    """The long run's record names the checkpoint that it started from, and what that one had seen."""
    record = training_record(trained, "grokking", 1)
    parent = training_record(trained, "baseline", 1)
    assert record["warm_start"]["recipe"] == "baseline"
    assert record["seen_cases"] == parent["seen_cases"] == list(trained.splits[1].train)
    mine, theirs = (load_weights(final_checkpoint(trained, r, 1)) for r in ("grokking", "baseline"))
    distance = max(float((mine[k] - theirs[k]).abs().max()) for k in mine)
    other = load_weights(final_checkpoint(trained, "baseline", 0))
    assert 0 < distance < 0.2 * max(float((mine[k] - other[k]).abs().max()) for k in mine)


def test_finished_teachers_are_skipped(trained: Workspace) -> None:
    """Asking again trains nothing and leaves every file as it was."""
    before = {p: p.stat().st_mtime_ns for p in trained.root.rglob("*.pth")}
    jobs = run_teachers(trained, MEMBERS, (0, 1), ONE)
    assert {j.state for j in jobs} == {"finished"}
    assert {p: p.stat().st_mtime_ns for p in trained.root.rglob("*.pth")} == before


def test_only_the_final_checkpoint_stays(trained: Workspace) -> None:
    """A finished fold has nnU-Net's own files and no leftover state."""
    folder = fold_folder(trained, "baseline", 0)
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "history.csv", "teacher.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert not latest_checkpoint(trained, "baseline", 0).exists()
    assert {p.name for p in folder.parent.iterdir()} >= {"plans.json", "dataset.json", "dataset_fingerprint.json"}


def test_a_warm_start_without_its_parent_is_refused_before_any_training(workspace: Workspace) -> None:
    """The message says which teacher is missing and how to get it."""
    with pytest.raises(ConfigError, match=r"grokking fold 0 starts from baseline fold 0.*--recipe baseline,grokking"):
        run_teachers(workspace, ("mednext-b", "grokking"), (0,), ONE)
    assert status(workspace) == []


def test_the_parent_may_come_in_the_same_command(workspace: Workspace) -> None:
    """Jobs are ordered so that it is finished first."""
    jobs = make_jobs(workspace, ("grokking", "baseline"), (0, 1), ONE)
    assert [(j.recipe.name, j.fold) for j in jobs] == [
        ("baseline", 0),
        ("baseline", 1),
        ("grokking", 0),
        ("grokking", 1),
    ]


def test_the_time_limit_saves_and_the_same_command_continues(workspace: Workspace) -> None:
    """Stopped after one epoch with exit code 75; what comes out in the end equals an uninterrupted run."""
    options = RunOptions(epochs=2, iterations=1, device="cpu", time_limit_s=1e-9)
    with pytest.raises(TimeLimitReached, match="epoch 1 of 2 of baseline fold 0") as caught:
        run_teachers(workspace, ("baseline",), (0,), options)
    assert caught.value.exit_code == 75
    (row,) = status(workspace)
    assert (row["state"], row["epoch"], row["epochs"]) == ("interrupted", 1, 2)
    run_teachers(workspace, ("baseline",), (0,), RunOptions(device="cpu"))
    resumed = load_weights(final_checkpoint(workspace, "baseline", 0))
    run_teachers(workspace, ("baseline",), (0,), RunOptions(epochs=2, iterations=1, device="cpu", restart=True))
    whole = load_weights(final_checkpoint(workspace, "baseline", 0))
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)


def test_at_least_one_epoch_is_trained_however_short_the_limit(workspace: Workspace) -> None:
    """Every call gets further, so a loop of calls ends."""
    options = RunOptions(epochs=1, iterations=1, device="cpu", time_limit_s=1e-9)
    with pytest.raises(TimeLimitReached, match="between two teachers"):
        run_teachers(workspace, ("baseline",), (0, 1), options)
    assert [row["state"] for row in status(workspace)] == ["finished"]
    run_teachers(workspace, ("baseline",), (0, 1), options)
    assert [row["state"] for row in status(workspace)] == ["finished", "finished"]


def test_other_epochs_than_begun_with_are_refused(trained: Workspace) -> None:
    """Stretching a run would make its learning rate jump; leaving the option out continues it."""
    with pytest.raises(ConfigError, match="baseline fold 0 was begun with 1 epochs, now 3 are asked for"):
        make_jobs(trained, ("baseline",), (0,), RunOptions(epochs=3))
    assert make_jobs(trained, ("baseline",), (0,), RunOptions())[0].state == "finished"


def test_a_recipe_file_is_part_of_the_run(workspace: Workspace, tmp_path: Path) -> None:
    """Its values hold, are written down, and must be given again to continue."""
    file = tmp_path / "recipes.toml"
    file.write_text("[baseline]\nepochs = 2\niterations = 1\nvalidation_iterations = 1\nlearning_rate = 0.02\n")
    options = RunOptions(device="cpu", config=file, time_limit_s=1e-9)
    with pytest.raises(TimeLimitReached, match="epoch 1 of 2"):
        run_teachers(workspace, ("baseline",), (0,), options)
    assert training_record(workspace, "baseline", 0)["recipe"]["learning_rate"] == 0.02
    assert read_history(fold_folder(workspace, "baseline", 0))[0]["learning_rate"] == 0.02
    with pytest.raises(ConfigError, match="give the --config that it was begun with"):
        make_jobs(workspace, ("baseline",), (0,), RunOptions())
    run_teachers(workspace, ("baseline",), (0,), options)
    assert final_checkpoint(workspace, "baseline", 0).is_file()


def test_a_run_of_another_cohort_is_refused(workspace: Workspace) -> None:
    """Teachers are never continued on other data."""
    run_teachers(workspace, ("baseline",), (0,), ONE)
    path = fold_folder(workspace, "baseline", 0) / "teacher.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cohort_hash": "0" * 64}))
    with pytest.raises(ConfigError, match="begun with another cohort"):
        make_jobs(workspace, ("baseline",), (0,), RunOptions())


def test_a_fold_that_does_not_exist_is_refused(trained: Workspace) -> None:
    """nnU-Net would make up a random split for it."""
    with pytest.raises(ConfigError, match="fold 2 does not exist; the workspace has the folds 0 to 1"):
        make_jobs(trained, ("baseline",), (0, 2), RunOptions())


def test_seeds_differ_between_recipes_and_folds(trained: Workspace) -> None:
    """Members of an ensemble must not start from the same weights."""
    rows = {}
    for fold in (0, 1):
        text = (fold_folder(trained, "baseline", fold) / "history.csv").read_text()
        rows[fold] = text.splitlines()[1].split(",")[1]
    assert rows[0] != rows[1]


def test_status_has_a_row_for_each_run(trained: Workspace) -> None:
    """Recipe by recipe, fold by fold, with Dice in [0, 1]."""
    rows = status(trained)
    assert [(r["recipe"], r["fold"], r["state"]) for r in rows] == [(m, f, "finished") for m in MEMBERS for f in (0, 1)]
    assert all(0 <= r["last_dice"] <= r["best_dice"] <= 1 and r["eta_s"] == 0 for r in rows)


def test_a_device_that_is_not_there_is_refused() -> None:
    """CUDA is never quietly replaced by the processor; an unknown name is a configuration error."""
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError):
            pick_device("cuda")
        assert pick_device("auto").type == "cpu"

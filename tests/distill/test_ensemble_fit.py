"""Fitting on out-of-fold predictions: guarded, resumable, keyed, and used by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from glialite_distill import out_of_fold
from glialite_distill.decision import PRESETS, rule_from_json
from glialite_distill.ensemble import blend, teachers_of
from glialite_distill.ensemble_fit import choose_combination, fit_ensemble, fit_folder
from glialite_distill.member_weights import MemberWeights, equal_weights, hybrid_weights
from glialite_distill.members import find_members
from glialite_distill.out_of_fold import OutOfFold
from glialite_distill.predict_options import Choice
from glialite_distill.prepare import without_progress
from glialite_distill.runs import fold_folder, record_file
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import ConfigError, InputError

from tests.distill.small_networks import CPU

T = TypeVar("T")
NAMES = ("baseline", "grokking")


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy of the trained workspace that a test may change."""
    shutil.copytree(trained.root, tmp_path / "w", symlinks=True)
    return Workspace.open(tmp_path / "w")


@pytest.fixture(scope="module")
def fitted(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace in which baseline and grokking are fitted; tests must not change it."""
    root = tmp_path_factory.mktemp("fitted") / "w"
    shutil.copytree(trained.root, root, symlinks=True)
    workspace = Workspace.open(root)
    fit_ensemble(workspace, find_members(workspace, NAMES), Window(workspace.patch_size), "cpu")
    return workspace


def test_predictions_are_those_of_the_fold_that_held_the_case_out(trained: Workspace, tmp_path: Path) -> None:
    """By recipe, on the grid of the prepared case, within half a level."""
    shutil.copytree(trained.root, tmp_path / "w", symlinks=True)
    workspace = Workspace.open(tmp_path / "w")
    window = Window(workspace.patch_size)
    predictions = OutOfFold.plan(workspace, find_members(workspace, ("baseline", "mednext-b")), window)
    predictions.make(CPU, without_progress)
    case = workspace.splits[1].validation[0]
    found = predictions.load(case)
    assert (found.dtype, found.shape) == (np.uint8, (2, 3, *workspace.shape_of(case)))
    assert predictions.fold_of(case) == 1
    for number, name in enumerate(("baseline", "mednext-b")):
        teachers = teachers_of(workspace, find_members(workspace, (name,), (1,)), equal_weights((name,)), CPU)
        expected = blend(teachers(), workspace.load(case)[0], window, CPU).probabilities
        assert np.abs(found[number] / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_a_member_that_was_trained_on_a_case_is_refused(workspace: Workspace) -> None:
    """Its own record says so, also when it only saw the case through a warm start."""
    path = record_file(workspace, "grokking", 0)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "seen_cases": [*record["seen_cases"], workspace.splits[0].validation[0]]}))
    members = find_members(workspace, NAMES)
    with pytest.raises(ConfigError, match="grokking fold 0 was trained on the patient"):
        fit_ensemble(workspace, members, Window(workspace.patch_size), "cpu")
    assert not (workspace.root / "ensembles").exists()


def test_a_stock_folder_cannot_be_fitted_with(trained: Workspace, tmp_path: Path) -> None:
    """It does not say what it was trained on."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(fold_folder(trained, "baseline", 0).parent, folder)
    members = find_members(trained, ("baseline", str(folder)))
    with pytest.raises(ConfigError, match=f"{folder.name} does not say which cases it was trained on"):
        fit_ensemble(trained, members, Window(trained.patch_size), "cpu")


def test_what_was_fitted_is_written_for_people_and_machines(fitted: Workspace) -> None:
    """Weights and rules of three choices, the cases, the table; nothing of it was computed on a training case."""
    members = find_members(fitted, NAMES)
    folder = fit_folder(fitted, members, Window(fitted.patch_size))
    content = json.loads((folder / "ensemble.json").read_text())
    assert content["cases"] == list(fitted.cases)
    assert sorted(content["choices"]) == ["best", "equal", "hybrid", "learnt"]
    for choice in content["choices"].values():
        MemberWeights({n: (w["WT"], w["TC"], w["ET"]) for n, w in choice["weights"].items()})
        rule_from_json(choice["decision"])
        assert sum(choice["dice"]["fitted"].values()) >= sum(choice["dice"]["plain"].values()) - 0.02
    assert [row["members"] for row in content["table"][:3]] == ["all"] * 3
    assert (folder / "member_table.md").read_text().count("\n| without") == 4
    assert (folder / "member_table.csv").read_text().startswith("members,weights,dice_WT")


def test_a_second_fit_computes_nothing(fitted: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same members and settings: what lies there comes back; other settings are another fit."""
    members, window = find_members(fitted, NAMES), Window(fitted.patch_size)
    monkeypatch.setattr(OutOfFold, "plan", None)
    assert fit_ensemble(fitted, members, window)["cases"] == list(fitted.cases)
    others = [(members[:2], window), (members, Window(fitted.patch_size, 0.3)), (members, Window((32,) * 3, tta=True))]
    assert len({fit_folder(fitted, m, w) for m, w in [(members, window), *others]}) == 4


def test_an_interrupted_fit_continues(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after three predictions: these stay, the others are made, and no network runs twice on a case."""

    def three(items: Iterable[T], *, label: str, length: int | None = None) -> Iterator[T]:
        for number, item in enumerate(items):
            if number == 3:
                raise KeyboardInterrupt
            yield item

    members, window = find_members(workspace, NAMES), Window(workspace.patch_size)
    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(workspace, members, window, "cpu", three)
    folder = workspace.root / "ensembles" / "out_of_fold"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    assert len(before) == 3
    made, blend = [], out_of_fold.blend
    monkeypatch.setattr(out_of_fold, "blend", lambda *a, **k: made.append(1) or blend(*a, **k))
    fit_ensemble(workspace, members, window, "cpu")
    assert len(made) == len(NAMES) * len(workspace.cases) - 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_smaller_ensemble_uses_the_same_predictions(fitted: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving a member out computes no network again."""
    monkeypatch.setattr(out_of_fold, "blend", None)
    result = fit_ensemble(fitted, find_members(fitted, ("baseline",)), Window(fitted.patch_size), "cpu")
    assert list(result["choices"]) == ["equal", "learnt", "best"]
    assert result["choices"]["learnt"]["weights"] == {"baseline": {"WT": 1.0, "TC": 1.0, "ET": 1.0}}


def test_damaged_predictions_are_named(workspace: Workspace) -> None:
    """Never an empty or a wrong array."""
    predictions = OutOfFold.plan(workspace, find_members(workspace, ("baseline",)), Window(workspace.patch_size))
    predictions.make(CPU, without_progress)
    for path in (workspace.root / "ensembles").glob("*/*/*.b2frame"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="damaged"):
        predictions.load(workspace.cases[0])


def test_weights_and_rules_are_chosen_by_name(fitted: Workspace, tmp_path: Path) -> None:
    """Named, fitted or from a file; what was fitted with some weights belongs to these."""
    members, window = find_members(fitted, NAMES), Window(fitted.patch_size)
    content = json.loads((fit_folder(fitted, members, window) / "ensemble.json").read_text())["choices"]

    def chosen(weights: str, decision: str) -> tuple[MemberWeights, object]:
        found = choose_combination(fitted, members, window, Choice(weights, decision))
        return found.weights, found.decision

    assert chosen("equal", "plain") == (equal_weights(NAMES), PRESETS["plain"])
    assert chosen("hybrid", "ssa") == (hybrid_weights(NAMES), PRESETS["ssa"])
    for name in ("equal", "hybrid", "learnt", "best"):
        weights, rule = chosen(name, "fitted")
        assert (weights.to_json(), rule) == (content[name]["weights"], rule_from_json(content[name]["decision"]))
    path = tmp_path / "w.json"
    path.write_text(json.dumps(hybrid_weights(NAMES).to_json()))
    assert chosen(str(path), "ped-50") == (hybrid_weights(NAMES), PRESETS["ped-50"])


def test_what_was_not_fitted_for_these_members_is_refused(fitted: Workspace) -> None:
    """Other members, other mirroring, other checkpoints: fitted weights of something else are never used."""
    members, window = find_members(fitted, NAMES), Window(fitted.patch_size)
    for those, how in ((members[1:], window), (members, Window(fitted.patch_size, tta=True))):
        with pytest.raises(ConfigError, match="--fit first"):
            choose_combination(fitted, those, how, Choice("learnt"))
        with pytest.raises(ConfigError, match="--fit first"):
            choose_combination(fitted, those, how, Choice("equal", "fitted"))


@pytest.mark.parametrize(
    ("weights", "decision", "message"),
    [
        ("worst", "plain", "--weights worst is neither equal, hybrid, learnt, best nor a file"),
        ("equal", "best", "unknown decision rule 'best'"),
        (__file__, "fitted", "belongs to the weights equal, hybrid, learnt, best, not to a file"),
    ],
)
def test_unknown_choices_are_refused_before_anything_runs(weights: str, decision: str, message: str) -> None:
    """A typing error must not cost the hours of a fit."""
    with pytest.raises(ConfigError, match=message):
        Choice(weights, decision)

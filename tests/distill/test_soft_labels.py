"""Soft labels: only from teachers that never saw the patient; stored small, resumable, never mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from glialite_distill import soft_labels
from glialite_distill.ensemble import blend, teachers_of
from glialite_distill.member_weights import equal_weights
from glialite_distill.members import find_members
from glialite_distill.runs import final_checkpoint, record_file
from glialite_distill.soft_labels import MAX_ERROR, SoftLabelStore, make_soft_labels, plan_soft_labels
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace, splits_file
from glialite_runtime.errors import ConfigError, InputError, OutputError

from tests.distill.conftest import MEMBERS

T = TypeVar("T")


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy of the trained workspace that a test may change."""
    shutil.copytree(trained.root, tmp_path / "w", symlinks=True)
    return Workspace.open(tmp_path / "w")


def test_each_case_is_labelled_by_the_fold_that_validates_it(trained: Workspace) -> None:
    """Every member's teacher of that fold, and no other."""
    plan = plan_soft_labels(trained)
    assert (plan.members, plan.left_out) == (MEMBERS, ())
    for case, teachers in plan.teachers.items():
        assert [(t.recipe, t.fold) for t in teachers] == [
            (m, f) for m in MEMBERS for f, s in enumerate(trained.splits) if case in s.validation
        ]


def test_cases_without_an_out_of_fold_teacher_are_left_out(workspace: Workspace) -> None:
    """When one member lacks a fold, the cases of that fold get no soft labels, rather than those of fewer members."""
    final_checkpoint(workspace, "mednext-b", 1).unlink()
    plan = plan_soft_labels(workspace)
    assert plan.left_out == workspace.splits[1].validation
    assert set(plan.teachers) == set(workspace.splits[0].validation)
    assert plan_soft_labels(workspace, ("baseline",)).left_out == ()


def test_a_teacher_that_saw_the_patient_is_refused(workspace: Workspace) -> None:
    """What a teacher was trained on is asked of its own record, not of the folds as they are today."""
    folds = json.loads(splits_file(workspace.root).read_text())
    splits_file(workspace.root).write_text(json.dumps(folds[::-1]))
    with pytest.raises(ConfigError, match="baseline fold 0 was trained on the patient of BraTS-SSA"):
        plan_soft_labels(Workspace.open(workspace.root))


def test_a_warm_start_counts_as_having_seen(workspace: Workspace) -> None:
    """A long run that started from a teacher of the case's patient may not label it either."""
    path = record_file(workspace, "grokking", 0)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "seen_cases": [*record["seen_cases"], workspace.splits[0].validation[0]]}))
    with pytest.raises(ConfigError, match="grokking fold 0 was trained on the patient"):
        plan_soft_labels(workspace, ("baseline", "grokking"))


def test_stored_probabilities_are_the_members_mean(workspace: Workspace) -> None:
    """In the geometry of the prepared case, within half a level of what the teachers say."""
    store = make_soft_labels(workspace, ("baseline", "mednext-b"), device="cpu")
    assert (store.members, store.cases) == (("baseline", "mednext-b"), workspace.cases)
    case, cpu = workspace.splits[1].validation[0], torch.device("cpu")
    teachers = teachers_of(workspace, find_members(workspace, store.members, (1,)), equal_weights(store.members), cpu)
    expected = blend(teachers(), workspace.load(case)[0], Window(workspace.patch_size), cpu).probabilities
    found = SoftLabelStore.open(workspace).load(case)
    assert (found.shape, found.dtype) == ((3, *workspace.shape_of(case)), np.float32)
    assert np.abs(found - expected).max() <= MAX_ERROR + 1e-6


def test_an_interrupted_store_does_not_open_and_continues(workspace: Workspace) -> None:
    """Killed after the second case: the first files stay, the rest is made, and the key is the same."""

    def two(items: Iterable[T], *, label: str, length: int | None = None) -> Iterator[T]:
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        make_soft_labels(workspace, ("baseline",), device="cpu", progress=two)
    with pytest.raises(ConfigError, match=r"2 of 4 soft labels .* not made yet"):
        SoftLabelStore.open(workspace)
    before = {p: p.stat().st_mtime_ns for p in (workspace.root / "soft_labels").iterdir()}
    store = make_soft_labels(workspace, ("baseline",), device="cpu")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert store.key == plan_soft_labels(workspace, ("baseline",)).key


def test_soft_labels_of_other_teachers_are_refused(workspace: Workspace) -> None:
    """Other members, or the same ones with other weights, never continue a store; --restart replaces it."""
    make_soft_labels(workspace, ("baseline",), device="cpu")
    with pytest.raises(ConfigError, match="other teachers or settings"):
        make_soft_labels(workspace, ("mednext-b",), device="cpu")
    shutil.copy(final_checkpoint(workspace, "grokking", 0), final_checkpoint(workspace, "baseline", 0))
    with pytest.raises(ConfigError, match="other teachers or settings"):
        make_soft_labels(workspace, ("baseline",), device="cpu")
    replaced = make_soft_labels(workspace, ("mednext-b",), device="cpu", restart=True)
    assert replaced.members == ("mednext-b",)


def test_the_key_follows_everything_that_decides_the_result(trained: Workspace) -> None:
    """Members, mirroring and overlap each change it; repeating does not."""
    keys = [
        plan_soft_labels(trained).key,
        plan_soft_labels(trained, ("baseline",)).key,
        plan_soft_labels(trained, tta=True).key,
        plan_soft_labels(trained, step=0.3).key,
    ]
    assert len(set(keys)) == 4
    assert plan_soft_labels(trained).key == keys[0]


def test_a_full_disk_is_noticed_before_anything_is_computed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forecast is compared with what is free."""
    usage = shutil.disk_usage(workspace.root)._replace(free=1000)
    monkeypatch.setattr(soft_labels.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="1,000 are free"):
        make_soft_labels(workspace, ("baseline",), device="cpu")


def test_without_teachers_the_message_says_what_to_run(prepared: Workspace) -> None:
    """Neither making nor opening works, and each names its command."""
    with pytest.raises(ConfigError, match="run teacher-train run"):
        plan_soft_labels(prepared)
    with pytest.raises(ConfigError, match="run distill soft-labels"):
        SoftLabelStore.open(prepared)


def test_damaged_and_unknown_cases_are_refused(workspace: Workspace) -> None:
    """Never an empty or a wrong array."""
    store = make_soft_labels(workspace, ("baseline",), device="cpu")
    with pytest.raises(InputError, match="nobody has no soft labels"):
        store.load("nobody")
    path = store.folder / f"{store.cases[0]}.b2frame"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="damaged"):
        store.load(store.cases[0])

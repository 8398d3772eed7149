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
from glialite_distill.member_weights import MemberWeights, equal_weights
from glialite_distill.members import find_members
from glialite_distill.runs import final_checkpoint, record_file
from glialite_distill.soft_label_store import MAX_DISAGREEMENT_ERROR, MAX_ERROR, SoftLabelStore
from glialite_distill.soft_labels import average_and_disagreement, make_soft_labels, plan_soft_labels
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
    store = make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline", "mednext-b")), device="cpu")
    assert (store.members, store.cases) == (("baseline", "mednext-b"), workspace.cases)
    case, cpu = workspace.splits[1].validation[0], torch.device("cpu")
    teachers = teachers_of(workspace, find_members(workspace, store.members, (1,)), equal_weights(store.members), cpu)
    expected = blend(teachers(), workspace.load(case)[0], Window(workspace.patch_size), cpu).probabilities
    found = SoftLabelStore.open(workspace).load(case)
    assert (found.shape, found.dtype) == ((3, *workspace.shape_of(case)), np.float32)
    assert np.abs(found - expected).max() <= MAX_ERROR + 1e-6
    each = [blend([(t, (1.0,) * 3)], workspace.load(case)[0], Window(workspace.patch_size), cpu) for t, _ in teachers()]
    wanted = np.std([one.probabilities for one in each], axis=0)
    assert wanted.max() > 10 * MAX_DISAGREEMENT_ERROR
    assert np.abs(SoftLabelStore.open(workspace).disagreement(case) - wanted).max() <= MAX_DISAGREEMENT_ERROR + 1e-4


def test_mirrorings_count_as_disagreement(trained: Workspace) -> None:
    """One teacher agrees with itself, unless it is asked eight times: then its variance over them is what is kept."""
    members = [find_members(trained, ("baseline",))[0]]
    teachers = teachers_of(trained, members, equal_weights(("baseline",)), torch.device("cpu"))
    image = trained.load(trained.cases[0])[0]
    once, often = (Window(trained.patch_size, tta=tta) for tta in (False, True))
    assert average_and_disagreement(teachers(), image, once, torch.device("cpu"))[1].max() < 1e-3
    mean, sd = average_and_disagreement(teachers(), image, often, torch.device("cpu"))
    wanted = blend(teachers(), image, often, torch.device("cpu"), uncertainty=True)
    np.testing.assert_allclose(mean, wanted.probabilities, atol=1e-6)
    assert wanted.variance is not None
    np.testing.assert_allclose(sd**2, wanted.variance, atol=1e-5)
    assert sd.max() > 1e-3


def test_members_count_as_their_weights_say(workspace: Workspace) -> None:
    """With all weight of TC on one member, TC is that member's alone, and on TC nobody disagrees."""
    names = ("baseline", "mednext-b")
    weights = MemberWeights({"baseline": (0.5, 1.0, 0.5), "mednext-b": (0.5, 0.0, 0.5)})
    plan = plan_soft_labels(workspace, names, weights=weights)
    assert plan.key != plan_soft_labels(workspace, names).key
    both, one = make_soft_labels(workspace, plan, device="cpu"), workspace.cases[0]
    found, doubt = both.load(one), both.disagreement(one)
    alone = make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",)), device="cpu", restart=True)
    np.testing.assert_allclose(found[1], alone.load(one)[1], atol=2 * MAX_ERROR)
    assert np.abs(found[0] - alone.load(one)[0]).max() > 4 * MAX_ERROR
    assert doubt[1].max() < 0.01 < doubt[0].max()


def test_in_fold_labels_are_those_of_teachers_that_saw_the_case(workspace: Workspace) -> None:
    """As many teachers, of the other fold, in a folder and with a key of their own; the usual store stays."""
    usual, other = plan_soft_labels(workspace), plan_soft_labels(workspace, in_fold=True)
    assert usual.key != other.key
    for case, teachers in other.teachers.items():
        assert all(case in workspace.splits[t.fold].train for t in teachers)
        assert [t.recipe for t in teachers] == [t.recipe for t in usual.teachers[case]]
    made = make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",), in_fold=True), device="cpu")
    assert SoftLabelStore.open(workspace, in_fold=True) == made
    with pytest.raises(ConfigError, match="no soft labels"):
        SoftLabelStore.open(workspace)


def test_an_interrupted_store_does_not_open_and_continues(workspace: Workspace) -> None:
    """Killed after the second case: the first files stay, the rest is made, and the key is the same."""

    def two(items: Iterable[T], *, label: str, length: int | None = None) -> Iterator[T]:
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",)), device="cpu", progress=two)
    with pytest.raises(ConfigError, match=r"2 of 4 soft labels .* not made yet"):
        SoftLabelStore.open(workspace)
    before = {p: p.stat().st_mtime_ns for p in (workspace.root / "soft_labels").iterdir()}
    store = make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",)), device="cpu")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert store.key == plan_soft_labels(workspace, ("baseline",)).key


def test_soft_labels_of_other_teachers_are_refused(workspace: Workspace) -> None:
    """Other members, or the same ones with other weights, never continue a store; --restart replaces it."""
    make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",)), device="cpu")
    with pytest.raises(ConfigError, match="other teachers or settings"):
        make_soft_labels(workspace, plan_soft_labels(workspace, ("mednext-b",)), device="cpu")
    shutil.copy(final_checkpoint(workspace, "grokking", 0), final_checkpoint(workspace, "baseline", 0))
    with pytest.raises(ConfigError, match="other teachers or settings"):
        make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",)), device="cpu")
    replaced = make_soft_labels(workspace, plan_soft_labels(workspace, ("mednext-b",)), device="cpu", restart=True)
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
        make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",)), device="cpu")


def test_without_teachers_the_message_says_what_to_run(prepared: Workspace) -> None:
    """Neither making nor opening works, and each names its command."""
    with pytest.raises(ConfigError, match="run teacher-train run"):
        plan_soft_labels(prepared)
    with pytest.raises(ConfigError, match="run distill soft-labels"):
        SoftLabelStore.open(prepared)


def test_damaged_and_unknown_cases_are_refused(workspace: Workspace) -> None:
    """Never an empty or a wrong array."""
    store = make_soft_labels(workspace, plan_soft_labels(workspace, ("baseline",)), device="cpu")
    with pytest.raises(InputError, match="nobody has no soft labels"):
        store.load("nobody")
    path = store.folder / f"{store.cases[0]}.b2frame"
    path.write_bytes(path.read_bytes()[:50])
    for read in (store.load, store.disagreement):
        with pytest.raises(InputError, match="damaged"):
            read(store.cases[0])

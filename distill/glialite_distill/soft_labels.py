"""Soft labels: the teachers' probabilities for every training case, only from teachers that never saw its patient.

A case is labelled by the teachers of the folds that hold it for validation. A case for which no such teacher is trained
is left out and counted, never labelled by a teacher that was trained on it. How far the teachers disagree is kept too.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime import __version__
from glialite_runtime.errors import ConfigError, OutputError
from glialite_runtime.files import sha256_bytes, write_json
from glialite_runtime.sequences import REGIONS

from glialite_distill.device import pick_device
from glialite_distill.ensemble import blend, teachers_of
from glialite_distill.member_weights import MemberWeights, Shares, equal_weights
from glialite_distill.members import Member, find_members
from glialite_distill.prepare import Progress, without_progress
from glialite_distill.recipes import RECIPES
from glialite_distill.runs import trained_folds, training_record
from glialite_distill.soft_label_store import (
    SoftLabelStore,
    label_folder,
    read_index,
    soft_label_file,
    write_soft_labels,
)
from glialite_distill.teacher_network import Teacher
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace

__all__ = ["SoftLabelPlan", "average_and_disagreement", "make_soft_labels", "plan_soft_labels"]

LOG = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]

_SCHEMA: Final = 2
_BYTES_A_VOXEL: Final = 0.5  # twice what trained teachers took, see `soft_label_store`


@dataclass(frozen=True, slots=True)
class SoftLabelPlan:
    """What will be made.

    Attributes
    ----------
    members : tuple of str
        Recipes, in the order given.
    teachers : mapping of str to tuple of Member
        Case -> the teachers that label it.
    left_out : tuple of str
        Cases without an out-of-fold teacher of every member.
    weights : MemberWeights
        What each recipe counts in each region.
    in_fold : bool
        The teachers saw their cases: for comparison alone.
    tta : bool
        Eight mirrorings.
    step : float
        Step between windows as a share of the patch.
    key : str
        SHA-256 of all that decides the result: cohort, checkpoints, weights, mirroring, overlap, version of the code.
    disk_bytes : int
        Forecast of what the store will take.
    """

    members: tuple[str, ...]
    teachers: dict[str, tuple[Member, ...]]
    left_out: tuple[str, ...]
    weights: MemberWeights
    in_fold: bool
    tta: bool
    step: float
    key: str
    disk_bytes: int


def plan_soft_labels(
    workspace: Workspace,
    members: Sequence[str] = (),
    *,
    tta: bool = False,
    step: float = 0.5,
    weights: MemberWeights | None = None,
    in_fold: bool = False,
) -> SoftLabelPlan:
    """Decide which teachers label which case; writes nothing.

    Parameters
    ----------
    workspace : Workspace
        With trained teachers.
    members : sequence of str
        Recipes; empty means all that have a finished teacher.
    tta, step : bool, float
        Mirroring and overlap.
    weights : MemberWeights, optional
        Without, equal ones.
    in_fold : bool
        Let each case be labelled by as many teachers as otherwise, but by such that were trained on it. What that
        costs a student is a question for an ablation; nothing else should use it.

    Raises
    ------
    ConfigError
        No teacher is trained, a member has none, or no case has an out-of-fold teacher of every member.
    """
    recipes = tuple(dict.fromkeys(members)) or tuple(r for r in RECIPES if trained_folds(workspace, r))
    if not recipes:
        raise ConfigError(
            f"{workspace.root} has no finished teacher; run teacher-train run --workspace {workspace.root}"
        )
    ready = find_members(workspace, recipes)
    trained = {(m.recipe, m.fold) for m in ready}
    folds = [f for f in range(len(workspace.splits)) if all((recipe, f) in trained for recipe in recipes)]
    teachers: dict[str, tuple[Member, ...]] = {}
    for case in workspace.cases:
        used = [f for f in folds if case in workspace.splits[f].validation]
        if in_fold:
            used = [f for f in folds if case in workspace.splits[f].train][: len(used)]
        if used:
            teachers[case] = tuple(m for m in ready if m.fold in used)
    if not in_fold:
        _check_unseen(workspace, teachers)
    if not teachers:
        raise ConfigError("no case has an out-of-fold teacher of every member; train the same folds of all members")
    shares = weights or equal_weights(recipes)
    made_by = {
        "schema": _SCHEMA,
        "version": __version__,
        "weights": shares.to_json(),
        "in_fold": in_fold,
        "cohort_hash": workspace.cohort_hash,
        "members": recipes,
        "checkpoints": sorted(m.sha256 for m in ready),
        "tta": tta,
        "step": step,
    }
    voxels = sum(int(np.prod(workspace.shape_of(case))) for case in teachers)
    return SoftLabelPlan(
        members=recipes,
        teachers=teachers,
        left_out=tuple(case for case in workspace.cases if case not in teachers),
        weights=shares,
        in_fold=in_fold,
        tta=tta,
        step=step,
        key=sha256_bytes(json.dumps(made_by, sort_keys=True).encode()),
        disk_bytes=int(voxels * _BYTES_A_VOXEL),
    )


def _check_unseen(workspace: Workspace, teachers: dict[str, tuple[Member, ...]]) -> None:
    """Raise when a teacher was trained, itself or by a warm start, on the patient that it is to label."""
    members = {m for those in teachers.values() for m in those}
    records = {m: training_record(workspace, m.recipe, m.fold).get("seen_cases") for m in members}
    problems = [
        f"{m.recipe} fold {m.fold} does not say what it was trained on" for m, s in records.items() if s is None
    ]
    seen = {m: {workspace.patient_of(case) for case in cases or ()} for m, cases in records.items()}
    problems += [
        f"{m.recipe} fold {m.fold} was trained on the patient of {case}"
        for case, those in teachers.items()
        for m in those
        if workspace.patient_of(case) in seen[m]
    ]
    if problems:
        raise ConfigError("soft labels must be out-of-fold:\n  " + "\n  ".join(sorted(problems)))


def make_soft_labels(
    workspace: Workspace,
    plan: SoftLabelPlan,
    *,
    device: str = "auto",
    progress: Progress = without_progress,
    restart: bool = False,
) -> SoftLabelStore:
    """Make the soft labels of a workspace, or continue an interrupted making.

    Parameters
    ----------
    workspace : Workspace
        With trained teachers.
    plan : SoftLabelPlan
        Of `plan_soft_labels`.
    device : str
        "auto", "cpu" or "cuda".
    progress : Progress
        Shows the cases as they are done.
    restart : bool
        Throw soft labels of other teachers away instead of refusing.

    Raises
    ------
    ConfigError
        Soft labels of other teachers or settings lie there already.
    OutputError
        The forecast does not fit on the disk, or a file cannot be written.
    """
    folder = label_folder(workspace, in_fold=plan.in_fold)
    _claim(folder, plan, workspace, restart)
    waiting = [case for case in plan.teachers if not soft_label_file(folder, case).is_file()]
    if plan.left_out:
        LOG.warning("%d cases have no out-of-fold teacher and get no soft labels", len(plan.left_out))
    if waiting:
        free = shutil.disk_usage(folder).free
        LOG.info("soft labels: %d cases, about %.1f MB", len(plan.teachers), plan.disk_bytes / 1e6)
        if free < plan.disk_bytes:
            raise OutputError(f"{folder} needs about {plan.disk_bytes:,} bytes, {free:,} are free; make room")
    used = pick_device(device)
    window = Window(workspace.patch_size, plan.step, plan.tta)
    loaded: tuple[Member, ...] = ()
    for case in progress(sorted(waiting, key=lambda c: plan.teachers[c][0].fold), label="soft labels"):
        those = plan.teachers[case]
        if loaded != those:
            teachers, loaded = teachers_of(workspace, those, plan.weights, used), those
        write_soft_labels(folder, case, *average_and_disagreement(teachers(), workspace.load(case)[0], window, used))
    return SoftLabelStore.open(workspace, in_fold=plan.in_fold)


def average_and_disagreement(
    teachers: Iterable[tuple[Teacher, Shares]], image: Array, window: Window, device: torch.device
) -> tuple[Array, Array]:
    """Return what teachers say about a case, and how far they disagree.

    Parameters
    ----------
    teachers : iterable of (Teacher, tuple of float)
        Each with its share in each of `REGIONS`; the shares of a region add up to 1.
    image : float32 array (4, z, y, x)
        A prepared case.
    window, device : Window, torch.device
        As for `blend`.

    Returns
    -------
    float32 array (3, z, y, x)
        Weighted mean of the probabilities.
    float32 array (3, z, y, x)
        Their standard deviation, in [0, 0.5], over the teachers with the same weights and, with mirroring, over each
        one's mirrorings.
    """
    mean, squares = (np.zeros((len(REGIONS), *image.shape[1:]), np.float32) for _ in range(2))
    for teacher, shares in teachers:
        found = blend([(teacher, (1.0, 1.0, 1.0))], image, window, device, uncertainty=window.tta)
        for i, share in enumerate(shares):
            p = found.probabilities[i]
            mean[i] += np.float32(share) * p
            squares[i] += np.float32(share) * (p * p + (0 if found.variance is None else found.variance[i]))
    return mean, np.sqrt(np.maximum(squares - mean * mean, 0))


def _claim(folder: Path, plan: SoftLabelPlan, workspace: Workspace, restart: bool) -> None:
    """Write the index, or check that the one that is there is of the same making."""
    index = read_index(folder)
    if index is not None and index["key"] != plan.key:
        if not restart:
            raise ConfigError(
                f"{folder} holds soft labels of other teachers or settings (members {', '.join(index['members'])}); "
                "make them anew with --restart, which deletes these"
            )
        shutil.rmtree(folder)
        index = None
    if index is None:
        write_json(
            folder / "index.json",
            {
                "schema": _SCHEMA,
                "key": plan.key,
                "cohort_hash": workspace.cohort_hash,
                "members": list(plan.members),
                "tta": plan.tta,
                "step": plan.step,
                "regions": list(REGIONS),
                "weights": plan.weights.to_json(),
                "cases": sorted(plan.teachers),
                "left_out": list(plan.left_out),
                "teachers": {
                    case: [[m.recipe, m.fold] for m in those] for case, those in sorted(plan.teachers.items())
                },
            },
        )

"""Soft labels: the teachers' probabilities for every training case, only from teachers that never saw its patient.

A case is labelled by the teachers of the folds that hold it for validation. A case for which no such teacher is trained
is left out and counted, never labelled by a teacher that was trained on it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import blosc2
import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import ConfigError, InputError, OutputError
from glialite_runtime.files import sha256_bytes, write_bytes, write_json
from glialite_runtime.sequences import REGIONS

from glialite_distill.device import pick_device
from glialite_distill.ensemble import blend, teachers_of
from glialite_distill.member_weights import equal_weights
from glialite_distill.members import Member, find_members, sources_of
from glialite_distill.prepare import Progress, without_progress
from glialite_distill.recipes import RECIPES
from glialite_distill.runs import trained_folds, training_record
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace

__all__ = ["MAX_ERROR", "SoftLabelPlan", "SoftLabelStore", "make_soft_labels", "plan_soft_labels"]

LOG = logging.getLogger(__name__)

_SCHEMA: Final = 1
_LEVELS: Final = 255
MAX_ERROR: Final = 0.5 / _LEVELS
"""Largest rounding error of a stored probability (8 bits): 0.002."""

_COMPRESSED: Final = 0.15  # of the raw bytes; most voxels of a case are near 0


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
    tta : bool
        Eight mirrorings.
    step : float
        Step between windows as a share of the patch.
    key : str
        SHA-256 of all that decides the result: cohort, checkpoints, mirroring, overlap.
    disk_bytes : int
        Forecast of what the store will take.
    """

    members: tuple[str, ...]
    teachers: dict[str, tuple[Member, ...]]
    left_out: tuple[str, ...]
    tta: bool
    step: float
    key: str
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class SoftLabelStore:
    """Soft labels that were made, read-only.

    Attributes
    ----------
    folder : Path
        Where they lie.
    key : str
        SHA-256 of what made them.
    members : tuple of str
        The recipes that were averaged.
    cases : tuple of str
        Cases that have soft labels, sorted.
    """

    folder: Path
    key: str
    members: tuple[str, ...]
    cases: tuple[str, ...]

    @classmethod
    def open(cls, workspace: Workspace) -> SoftLabelStore:
        """Open the store of a workspace.

        Raises
        ------
        ConfigError
            There is none, it is not complete, or it was made for another cohort.
        """
        folder = _folder(workspace)
        index = _read_index(folder)
        if index is None:
            raise ConfigError(
                f"{workspace.root} has no soft labels; run distill soft-labels --workspace {workspace.root}"
            )
        if index["cohort_hash"] != workspace.cohort_hash:
            raise ConfigError(f"the soft labels of {workspace.root} were made for another cohort; delete {folder}")
        cases = tuple(index["cases"])
        if missing := [case for case in cases if not _file(folder, case).is_file()]:
            raise ConfigError(
                f"{len(missing)} of {len(cases)} soft labels of {workspace.root} are not made yet; "
                "run distill soft-labels again to continue"
            )
        return cls(folder, index["key"], tuple(index["members"]), cases)

    def load(self, case: str) -> npt.NDArray[np.float32]:
        """Read the probabilities of a case.

        Returns
        -------
        float32 array (3, z, y, x)
            Regions as in `REGIONS`, in the geometry of `Workspace.load`, each within `MAX_ERROR` of what was computed;
            0 and 1 occur.

        Raises
        ------
        InputError
            The case has no soft labels, or its file is damaged.
        """
        if case not in self.cases:
            raise InputError(f"{case} has no soft labels: no teacher was trained without its patient")
        path = _file(self.folder, case)
        try:
            stored = blosc2.ndarray_from_cframe(path.read_bytes())[:]
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it and run distill soft-labels again") from error
        return stored.astype(np.float32) / np.float32(_LEVELS)


def _folder(workspace: Workspace) -> Path:
    return workspace.root / "soft_labels"


def _file(folder: Path, case: str) -> Path:
    return folder / f"{case}.b2frame"


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / "index.json"
    if not path.is_file():
        return None
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def plan_soft_labels(
    workspace: Workspace, members: Sequence[str] = (), *, tta: bool = False, step: float = 0.5
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
    teachers: dict[str, tuple[Member, ...]] = {}
    for case in workspace.cases:
        folds = [f for f, split in enumerate(workspace.splits) if case in split.validation]
        complete = [f for f in folds if all(any(m.recipe == r and m.fold == f for m in ready) for r in recipes)]
        if complete:
            teachers[case] = tuple(m for m in ready if m.fold in complete)
    _check_unseen(workspace, teachers)
    if not teachers:
        raise ConfigError("no case has an out-of-fold teacher of every member; train the same folds of all members")
    made_by = {
        "schema": _SCHEMA,
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
        tta=tta,
        step=step,
        key=sha256_bytes(json.dumps(made_by, sort_keys=True).encode()),
        disk_bytes=int(voxels * len(REGIONS) * _COMPRESSED),
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
    members: Sequence[str] = (),
    *,
    tta: bool = False,
    device: str = "auto",
    progress: Progress = without_progress,
    restart: bool = False,
) -> SoftLabelStore:
    """Make the soft labels of a workspace, or continue an interrupted making.

    Parameters
    ----------
    workspace : Workspace
        With trained teachers.
    members : sequence of str
        Recipes to average with equal weights; empty means all that have a finished teacher.
    tta : bool
        Average eight mirrorings.
    device : str
        "auto", "cpu" or "cuda".
    progress : Progress
        Shows the cases as they are done.
    restart : bool
        Throw soft labels of other teachers away instead of refusing.

    Raises
    ------
    ConfigError
        See `plan_soft_labels`; or soft labels of other teachers or settings lie there already.
    OutputError
        The forecast does not fit on the disk, or a file cannot be written.
    """
    plan = plan_soft_labels(workspace, members, tta=tta)
    folder = _folder(workspace)
    _claim(folder, plan, workspace, restart)
    waiting = [case for case in plan.teachers if not _file(folder, case).is_file()]
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
            teachers, loaded = teachers_of(workspace, those, equal_weights(sources_of(those)), used), those
        probabilities = blend(teachers(), workspace.load(case)[0], window, used).probabilities
        write_bytes(_file(folder, case), _packed(probabilities))
    return SoftLabelStore.open(workspace)


def _claim(folder: Path, plan: SoftLabelPlan, workspace: Workspace, restart: bool) -> None:
    """Write the index, or check that the one that is there is of the same making."""
    index = _read_index(folder)
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
                "levels": _LEVELS,
                "cases": sorted(plan.teachers),
                "left_out": list(plan.left_out),
                "teachers": {
                    case: [[m.recipe, m.fold] for m in those] for case, those in sorted(plan.teachers.items())
                },
            },
        )


def _packed(probabilities: npt.NDArray[np.float32]) -> bytes:
    levels = np.rint(probabilities * np.float32(_LEVELS)).astype(np.uint8)
    packed: bytes = blosc2.asarray(levels, cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5}).to_cframe()
    return packed

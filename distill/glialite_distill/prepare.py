"""`teacher-train prepare`: case folders -> nnU-Net dataset, plans, preprocessed cases, folds by patient."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from glialite_runtime import nifti
from glialite_runtime.cases import Case
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import sha256_file, write_json
from glialite_runtime.sequences import SEQUENCES

from glialite_distill.cohort import CohortCase, check_splits, cohort_hash, find_cohort, hold_out, make_folds, validate
from glialite_distill.input_options import InputOptions
from glialite_distill.recipes import find_plan
from glialite_distill.staging import copy_labels, stage, stage_held_out
from glialite_distill.workspace import (
    Split,
    Workspace,
    cohort_file,
    plans_name,
    prepared_folder,
    raw_folder,
    splits_file,
)

__all__ = ["Forecast", "Progress", "Request", "forecast", "prepare", "without_progress"]

T = TypeVar("T")
LOG = logging.getLogger(__name__)

_CROP_SHARE: Final = 0.4  # of a BraTS-format volume that the brain's box covers
_COMPRESSED: Final = 0.5  # of four float32 channels and an int16 label map: 0.33 as scanned, more when resampled
_SECONDS_PER_MEGAVOXEL: Final = 0.6  # of the whole image: checking, hashing and preprocessing on one core


class Progress(Protocol):
    """What shows progress: yields the items it is given, like `glialite_runtime.command.bar`."""

    def __call__(self, items: Iterable[T], *, label: str, length: int | None = None) -> Iterator[T]:
        """Yield `items` one by one."""
        ...


def without_progress(items: Iterable[T], *, label: str, length: int | None = None) -> Iterator[T]:  # noqa: ARG001
    """Yield the items and show nothing."""
    yield from items


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be prepared.

    Attributes
    ----------
    cohorts : tuple of Path
        Folders of case folders.
    workspace : Path
        Where everything is written.
    labels : str
        Label convention of every label map.
    plan : str
        "full", "medium" or "small".
    folds : int
        Number of folds; ignored when `splits` brings them.
    held_out : int
        Cases that no training sees.
    splits : Path or None
        Folds of the user's own, as nnU-Net writes them.
    seed : int
        Of the choice of folds and held-out cases.
    workers : int
        Cases that are preprocessed at the same time.
    inputs : InputOptions
        Clipping and a mask channel.
    """

    cohorts: tuple[Path, ...]
    workspace: Path
    labels: str = "brats2023"
    plan: str = "full"
    folds: int = 5
    held_out: int = 0
    splits: Path | None = None
    seed: int = 1
    workers: int = 1
    inputs: InputOptions = field(default_factory=InputOptions)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a preparation will cost, roughly: measured rates times the number of voxels."""

    cases: int
    disk_bytes: int
    seconds: float


def forecast(request: Request) -> Forecast:
    """Estimate disk and time from the files' headers; writes nothing."""
    spacing = find_plan(request.plan).spacing_mm
    read, kept = 0.0, 0.0
    cases = find_cohort(request.cohorts)
    for case in cases:
        header, shape, _ = nifti.read_header(next(iter(case.paths.values())))
        voxels = float(np.prod(shape))
        read += voxels
        kept += voxels * float(np.prod(header.get_zooms()[:3])) / float(np.prod(spacing)) * _CROP_SHARE
    disk = int(kept * (len(SEQUENCES) * 4 + 2) * _COMPRESSED)
    return Forecast(len(cases), disk, read / 1e6 * _SECONDS_PER_MEGAVOXEL / request.workers)


def prepare(request: Request, progress: Progress = without_progress) -> Workspace:
    """Prepare a workspace, or continue where an earlier call was interrupted.

    Raises
    ------
    InputError
        The cohort cannot be used; the message lists every problem.
    ConfigError
        Options do not fit the cohort, or the workspace was begun with other options or another cohort.
    OutputError
        Something cannot be written.
    """
    plan, root = find_plan(request.plan), request.workspace
    if request.splits is not None and not request.splits.is_file():
        raise ConfigError(f"{request.splits} is not a file; give nnU-Net's splits_final.json")
    sources = {case.name: case for case in find_cohort(request.cohorts)}
    record = _record(request, sources, progress)
    held_out = tuple(record["held_out"])
    training = tuple(name for name in sorted(sources) if name not in held_out)
    folds = [Split(tuple(s["train"]), tuple(s["val"])) for s in record["folds"]]
    if _is_complete(root, record):
        return Workspace.open(root)
    for name in progress(sorted(sources), label="link cases"):
        if name in held_out:
            stage_held_out(sources[name], root / "held_out" / name, request.labels)
        else:
            stage(sources[name], raw_folder(root), request.labels)
    from glialite_distill import nnunet, teacher_inputs  # noqa: PLC0415 - seconds a finished preparation need not pay

    nnunet.write_dataset(root, training)
    LOG.info("nnU-Net fingerprint and plans")
    nnunet.write_fingerprint(root, request.workers)
    nnunet.write_plans(root, plan)
    _state_in_plans(request.inputs, prepared_folder(root) / f"{plans_name(plan)}.json")
    teacher_inputs.register_normalization()
    with ThreadPoolExecutor(request.workers) as pool:
        done = pool.map(lambda name: nnunet.preprocess_case(root, plan, name), training)
        for _ in progress(done, label="preprocess", length=len(training)):
            pass
    shutil.rmtree(prepared_folder(root) / ".part", ignore_errors=True)
    copy_labels(root, training)
    write_json(splits_file(root), [{"train": list(s.train), "val": list(s.validation)} for s in folds])
    return Workspace.open(root)


def _state_in_plans(inputs: InputOptions, path: Path) -> None:
    plans = json.loads(path.read_text(encoding="utf-8"))
    stated = inputs.in_plans(plans)
    if stated != plans:
        write_json(path, stated)


def _is_complete(root: Path, record: dict[str, Any]) -> bool:
    splits = splits_file(root)
    return splits.is_file() and json.loads(splits.read_text(encoding="utf-8")) == record["folds"]


def _options(request: Request) -> dict[str, Any]:
    brought = sha256_file(request.splits) if request.splits else None
    return {
        "labels": request.labels,
        "plan": request.plan,
        "folds": None if brought else request.folds,
        "held_out": request.held_out,
        "splits_sha256": brought,
        "seed": request.seed,
        **request.inputs.to_json(),
    }


def _record(request: Request, sources: dict[str, Case], progress: Progress) -> dict[str, Any]:
    """Return the parsed `cohort.json`, written now if it is not there; files that stayed are not read again."""
    path, options = cohort_file(request.workspace), _options(request)
    stats = {name: _stats(case) for name, case in sources.items()}
    old: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if old is not None and old["options"] != options:
        before, keys = old["options"], dict.fromkeys([*old["options"], *options])
        changed = ", ".join(
            f"{k}: {before.get(k)} is now {options.get(k)}" for k in keys if before.get(k) != options.get(k)
        )
        raise ConfigError(
            f"{request.workspace} was prepared with other options ({changed}); "
            "give the same ones, or another --workspace"
        )
    if old is not None and {name: case["files"] for name, case in old["cases"].items()} == stats:
        return old
    cases = validate(progress(list(sources.values()), label="check cases"), request.labels)
    value = cohort_hash(cases, request.labels)
    if old is not None and old["hash"] != value:
        raise ConfigError(
            f"{request.workspace} was prepared from another cohort ({len(old['cases'])} cases, now {len(cases)}, or "
            "changed files); teachers trained on it would not fit: use another --workspace"
        )
    held_out = tuple(old["held_out"]) if old is not None else _choose_held_out(request, cases)
    folds = _choose_folds(request, [c.name for c in cases if c.name not in held_out])
    record = {
        "schema": 1,
        "hash": value,
        "options": options,
        "held_out": list(held_out),
        "folds": [{"train": list(s.train), "val": list(s.validation)} for s in folds],
        "cases": {
            c.name: {"patient": c.patient, "site": c.site, "sha256": dict(c.sha256), "files": stats[c.name]}
            for c in cases
        },
    }
    write_json(path, record)
    return record


def _stats(case: Case) -> dict[str, list[int]]:
    """Return size and modification time (ns) of a case's files: when they stand, the content is taken to stand."""
    files = {**case.paths, **({"seg": case.label} if case.label else {})}
    return {key: [(found := path.stat()).st_size, found.st_mtime_ns] for key, path in files.items()}


def _choose_held_out(request: Request, cases: Sequence[CohortCase]) -> tuple[str, ...]:
    names = [c.name for c in cases]
    return hold_out(names, request.held_out, request.seed) if request.held_out else ()


def _choose_folds(request: Request, training: list[str]) -> tuple[Split, ...]:
    if request.splits is None:
        return make_folds(training, request.folds, request.seed)
    try:
        brought = json.loads(request.splits.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{request.splits} is not JSON: {error}") from error
    if not _lists_names(brought):
        raise ConfigError(
            f'{request.splits} must hold a list of {{"train": [case, …], "val": [case, …]}}, cases by name'
        )
    return check_splits(brought, training)


def _lists_names(splits: Any) -> bool:
    """Return whether parsed JSON has the form of nnU-Net's `splits_final.json`."""
    return isinstance(splits, list) and all(
        isinstance(fold, dict)
        and all(isinstance(fold.get(side), list) for side in ("train", "val"))
        and all(isinstance(name, str) for side in ("train", "val") for name in fold[side])
        for fold in splits
    )

"""Cohorts of phantoms in BraTS case folders: seeded, resumable, in several processes.

The same seed gives the same patient at 1 mm and at 2 mm, whatever the order, the number of workers or the cohort.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any, Final

import nibabel
import numpy as np
import torch
from glialite_runtime.errors import ConfigError, OutputError
from glialite_runtime.files import write_bytes
from glialite_runtime.sequences import SEQUENCES
from isal import igzip
from threadpoolctl import threadpool_limits

from glialite_distill.phantom_fields import stream
from glialite_distill.phantom_patient import GENERATOR_VERSION, Phantom, make_phantom
from glialite_distill.phantom_worlds import STYLES, PhantomSettings, settings_for

__all__ = [
    "COHORT_FILE",
    "GENERATOR_VERSION",
    "Phantom",
    "PhantomSettings",
    "make_phantom",
    "settings_for",
    "write_cohort",
]

COHORT_FILE: Final = "cohort.json"
_SAVE_EVERY_S: Final = 10.0
_SECOND_SCAN_EVERY: Final = 16
"""One patient in so many has a second time point."""


def write_cohort(  # noqa: PLR0913 - the options of `distill phantoms`, all but one by keyword
    out: Path,
    *,
    patients: int,
    seed: int,
    style: str = "both",
    spacing_mm: float = 1.0,
    world: str = "default",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a cohort of phantom patients; what is complete there already is kept.

    Parameters
    ----------
    out : Path
        Folder of the cohort: one BraTS case folder a time point, and `cohort.json`.
    patients : int
        Number of patients; a few have a second time point.
    seed : int
        Seed of the cohort; patient k of it is always the same.
    style : {'both', 'gli', 'ssa'}
        Clean 1 mm scans, low-field ones, or every patient one of them at random.
    spacing_mm : float
        Edge of a voxel, 1 to 2 mm; the same patients whatever it is.
    world : {'default', 'other', 'shifted', 'wide'}
        Ranges to draw from.
    workers : int
        Processes.
    progress : function (done, all), optional
        Called after every case.

    Returns
    -------
    list of str
        Names of the cases.

    Raises
    ------
    ConfigError
        An argument makes no sense, or the folder holds a cohort of other arguments.
    OutputError
        The folder cannot be written.
    """
    plan = _plan(out, patients=patients, seed=seed, style=style, spacing_mm=float(spacing_mm), world=world)
    waiting = [job for job in plan.jobs if job.name not in plan.done]
    _save(out, plan)
    saved = monotonic()
    try:
        for meta in _run(waiting, workers):
            plan.done[meta["case"]] = meta
            if monotonic() - saved > _SAVE_EVERY_S:
                _save(out, plan)
                saved = monotonic()
            if progress is not None:
                progress(sum(job.name in plan.done for job in plan.jobs), len(plan.jobs))
    finally:  # a case without a record is made again: the same, but for nothing
        _save(out, plan)
    return [job.name for job in plan.jobs]


@dataclass(frozen=True, slots=True)
class _Job:
    """One case to make."""

    folder: Path
    seed: int
    settings: PhantomSettings
    time_point: int

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True, slots=True)
class _Plan:
    """The cases of a cohort, what it was asked for, and the record of each finished case."""

    request: dict[str, Any]
    jobs: tuple[_Job, ...]
    done: dict[str, dict[str, Any]]


def _plan(out: Path, *, patients: int, seed: int, **choice: Any) -> _Plan:
    styles = STYLES if choice["style"] == "both" else (choice["style"],)
    problems = [
        f"{n} must be {least} or more, not {v}"
        for n, v, least in (("patients", patients, 1), ("seed", seed, 0))
        if v < least
    ]
    if problems:
        raise ConfigError("; ".join(problems))
    jobs = []
    for number in range(1, patients + 1):
        own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        style = styles[int(stream(own, "style").integers(len(styles)))]
        settings = settings_for(choice["world"], style, spacing_mm=choice["spacing_mm"])
        for time_point in range(2 if number % _SECOND_SCAN_EVERY == 3 else 1):
            jobs.append(_Job(out / f"BraTS-PHA-{seed:03d}{number:04d}-{time_point:03d}", own, settings, time_point))
    request = {"generator_version": GENERATOR_VERSION, "seed": seed, **choice}
    return _Plan(request, tuple(jobs), _finished(out / COHORT_FILE, request))


def _finished(path: Path, request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of the complete cases that lie beside `path`."""
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        before, cases = record["request"], record["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a cohort's record ({error}); choose another folder") from error
    if before != request:
        other = ", ".join(
            f"{key} {before.get(key)!r} (now {request[key]!r})" for key in request if before.get(key) != request[key]
        )
        raise ConfigError(
            f"{path.parent} holds a cohort made with other settings: {other}; choose another folder or delete it"
        )
    wanted = (*SEQUENCES, "seg")
    return {
        name: case
        for name, case in cases.items()
        if all((path.parent / name / f"{name}-{part}.nii.gz").is_file() for part in wanted)
    }


def _save(out: Path, plan: _Plan) -> None:
    cases = [
        f"    {json.dumps(job.name)}: {json.dumps(plan.done[job.name])}" for job in plan.jobs if job.name in plan.done
    ]
    lines = ["{", f'  "request": {json.dumps(plan.request)},', '  "cases": {', ",\n".join(cases), "  }", "}", ""]
    write_bytes(out / COHORT_FILE, "\n".join(lines).encode())


def _run(jobs: list[_Job], workers: int) -> Iterator[dict[str, Any]]:
    if workers <= 1:
        yield from map(_write_case, jobs)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _settle)
    try:
        for future in as_completed([pool.submit(_write_case, job) for job in jobs]):
            yield future.result()
    finally:  # after an error or an interrupt the cases that wait are not begun
        pool.shutdown(cancel_futures=True)


def _settle() -> None:
    """Prepare a worker: one thread (those of the matrix products of several workers fight), an end with its parent."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _write_case(job: _Job) -> dict[str, Any]:
    """Make one case and write its folder: under a temporary name first, then renamed."""
    phantom = make_phantom(job.seed, job.settings, time_point=job.time_point)
    part = job.folder.with_name(f".{job.name}.{os.getpid()}.part")
    arrays = (*zip(SEQUENCES, phantom.images, strict=True), ("seg", phantom.labels))
    try:
        part.mkdir(parents=True, exist_ok=True)
        for kind, array in arrays:
            image = nibabel.Nifti1Image(array.T, phantom.affine)
            image.header.set_xyzt_units("mm")
            (part / f"{job.name}-{kind}.nii.gz").write_bytes(igzip.compress(image.to_bytes(), 1, mtime=0))
        shutil.rmtree(job.folder, ignore_errors=True)
        part.rename(job.folder)
    except OSError as error:
        raise OutputError(
            f"cannot write {job.folder}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"case": job.name, "patient": job.name.rpartition("-")[0], **phantom.meta}

"""Teachers as jobs of a SLURM cluster: one a recipe and fold, each continuing itself until it is finished."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import submitit
from filelock import FileLock
from glialite_runtime.command import log_to_stderr
from glialite_runtime.errors import BackendUnavailableError, ConfigError, TimeLimitReached

from glialite_distill.runs import fold_folder
from glialite_distill.slurm_queue import Key, active_jobs, read_jobs, record_jobs, slurm_folder
from glialite_distill.teachers import Job, RunOptions, make_jobs, run_teachers
from glialite_distill.workspace import Workspace

__all__ = ["Training", "submit_teachers"]

_WARNING_S: Final = 120  # SLURM's signal comes this long before the time limit …
_START_S: Final = 60  # … and a job may take this long to start; training stops by itself before the two
_MAX_CONTINUATIONS: Final = 100  # a job that never gets further ends some day: 3 500 epochs are five days on an L4


@dataclass(frozen=True, slots=True)
class Training:
    """What a job does: train one recipe on one fold, as `teacher-train run` does.

    A job that reaches its time limit, or is preempted, goes back into the queue under the same id and continues from
    its last checkpoint, so the jobs that depend on it wait on.
    """

    root: Path
    recipe: str
    fold: int
    options: RunOptions

    def __call__(self) -> None:
        """Train until it is finished; back into the queue when time is up."""
        log_to_stderr()
        try:
            run_teachers(Workspace.open(self.root), (self.recipe,), (self.fold,), self.options)
        except TimeLimitReached:
            # What SLURM itself sends shortly before the limit; submitit then puts the job back into the queue.
            signal.raise_signal(signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"])

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what the job does when it is started again; the state of the training lies in the workspace."""
        return submitit.helpers.DelayedSubmission(self)


def submit_teachers(
    workspace: Workspace,
    recipes: tuple[str, ...],
    folds: tuple[int, ...],
    options: RunOptions,
    settings: Mapping[str, Any],
) -> list[tuple[Job, str | None]]:
    """Put what is neither finished nor in the queue into SLURM's queue.

    Jobs that can start at once are one array; a recipe that starts from another one's weights waits for that job of the
    same fold. Each takes `options.time_limit_s` of wall clock at a time and one GPU, none with the device "cpu".

    Returns
    -------
    list of (Job, str or None)
        What was asked for, with the state before, and its job in the queue; None when it is finished.

    Raises
    ------
    ConfigError
        See `teachers.make_jobs`; or there is no time limit, or a queued job is asked to start anew.
    BackendUnavailableError
        SLURM is not there, does not answer or refuses the jobs.
    """
    if options.time_limit_s is None:
        raise ConfigError("--launcher slurm needs --time-limit, the wall clock of one job; jobs continue themselves")
    jobs = make_jobs(workspace, recipes, folds, options)
    active = active_jobs()
    slurm_folder(workspace).mkdir(parents=True, exist_ok=True)
    with FileLock(slurm_folder(workspace) / "submit.lock"):
        queued = {key: job for key, job in read_jobs(workspace).items() if job in active}
        todo = [job for job in jobs if job.state != "finished" and _key(job) not in queued]
        if options.restart:
            _start_anew(workspace, jobs, queued)
        submission = _Submission(workspace, replace(options, restart=False), _parameters(options, settings))
        ids = {**queued, **submission.submit(todo, queued)}
    return [(job, None if job.state == "finished" else ids[_key(job)]) for job in jobs]


def _key(job: Job) -> Key:
    return job.recipe.name, job.fold


def _parent(job: Job) -> Key:
    return job.recipe.warm_start or "", job.fold


def _start_anew(workspace: Workspace, jobs: Sequence[Job], queued: Mapping[Key, str]) -> None:
    taken = [f"{job.recipe.name} fold {job.fold} (scancel {queued[_key(job)]})" for job in jobs if _key(job) in queued]
    if taken:
        raise ConfigError(f"--restart: still in the queue: {', '.join(taken)}")
    for job in jobs:
        shutil.rmtree(fold_folder(workspace, *_key(job)), ignore_errors=True)


def _parameters(options: RunOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    gpu = {} if options.device == "cpu" or "gres" in settings else {"gpus_per_node": 1}
    minutes = max(1, int((options.time_limit_s or 0.0) // 60))
    return {"job_name": "glialite", "time": minutes, "signal_delay_s": _WARNING_S, **gpu, **settings}


@dataclass(frozen=True, slots=True)
class _Submission:
    workspace: Workspace
    options: RunOptions
    parameters: Mapping[str, Any]

    def submit(self, jobs: Sequence[Job], queued: Mapping[Key, str]) -> dict[Key, str]:
        """Submit jobs in training order and return their ids; each is written down as soon as it is known."""
        unfinished = {*queued, *map(_key, jobs)}
        waiting = [job for job in jobs if _parent(job) in unfinished]
        ids = self._send([job for job in jobs if job not in waiting], None)
        for job in waiting:
            ids |= self._send([job], {**queued, **ids}[_parent(job)])
        return ids

    def _send(self, jobs: Sequence[Job], parent: str | None) -> dict[Key, str]:
        if not jobs:
            return {}
        limit = max(0.0, (self.options.time_limit_s or 0.0) - _WARNING_S - _START_S)
        device = "cpu" if self.options.device == "cpu" else "cuda"  # a job without its GPU fails, it does not crawl
        config = self.options.config and self.options.config.resolve()
        options = replace(self.options, time_limit_s=limit, device=device, config=config)
        root = self.workspace.root.resolve()
        parameters = dict(self.parameters)
        if parent is not None:
            parameters["dependency"] = f"afterok:{parent}"
            parameters["additional_parameters"] = {"kill-on-invalid-dep": "yes"}
        try:
            executor = submitit.SlurmExecutor(slurm_folder(self.workspace), max_num_timeout=_MAX_CONTINUATIONS)
            executor.update_parameters(**parameters)
            with executor.batch():
                sent = [executor.submit(Training(root, *_key(job), options)) for job in jobs]
        except (RuntimeError, OSError) as error:
            raise BackendUnavailableError(f"SLURM does not take the jobs: {error}") from error
        ids = {_key(job): str(one.job_id) for job, one in zip(jobs, sent, strict=True)}
        record_jobs(self.workspace, ids)
        return ids

"""What is asked of SLURM, which job was submitted for which recipe and fold, and what the queue says about it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from glialite_runtime.errors import BackendUnavailableError, ConfigError
from glialite_runtime.files import write_json

from glialite_distill.workspace import Workspace

__all__ = ["SETTINGS", "active_jobs", "parse_settings", "queued_jobs", "read_jobs", "record_jobs", "slurm_folder"]

SETTINGS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "partition": str,
        "account": str,
        "qos": str,
        "constraint": str,
        "gres": str,
        "mem": str,
        "cpus_per_task": int,
        "array_parallelism": int,
    }
)
"""What `--slurm KEY=VALUE` may set, by sbatch's names; `array_parallelism` limits the jobs of an array that run at a
time."""

Key = tuple[str, int]
"""Recipe and fold."""


def parse_settings(items: Iterable[str]) -> dict[str, Any]:
    """Return the settings of `--slurm KEY=VALUE` options.

    Raises
    ------
    ConfigError
        Unknown keys or values that do not fit; all are listed.
    """
    problems, settings = [], {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not value or key not in SETTINGS:
            problems.append(f"--slurm {item!r} is not KEY=VALUE with one of the keys {', '.join(SETTINGS)}")
        elif SETTINGS[key] is int and not value.isdecimal():
            problems.append(f"--slurm {key} needs a whole number, not {value!r}")
        else:
            settings[key] = SETTINGS[key](value)
    if problems:
        raise ConfigError("\n  ".join(problems))
    return settings


def slurm_folder(workspace: Workspace) -> Path:
    """Return where job ids and the jobs' own logs lie."""
    return workspace.root / "slurm"


def read_jobs(workspace: Workspace) -> dict[Key, str]:
    """Return the last job that was submitted for each recipe and fold, such as 12_0."""
    path = slurm_folder(workspace) / "jobs.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {(row["recipe"], row["fold"]): row["job"] for row in rows}


def record_jobs(workspace: Workspace, jobs: Mapping[Key, str]) -> None:
    """Add jobs to those that were submitted before."""
    known = {**read_jobs(workspace), **jobs}
    rows = [{"recipe": recipe, "fold": fold, "job": job} for (recipe, fold), job in sorted(known.items())]
    write_json(slurm_folder(workspace) / "jobs.json", rows)


def active_jobs() -> dict[str, str]:
    """Return the user's jobs in the queue, id -> state such as PENDING or RUNNING.

    Raises
    ------
    BackendUnavailableError
        SLURM is not installed here, or does not answer.
    """
    command = shutil.which("squeue")
    if command is None:
        raise BackendUnavailableError("squeue is not installed here; run this on a computer that submits SLURM jobs")
    found = subprocess.run(  # noqa: S603 - no shell, no user input
        [command, "--me", "--array", "--noheader", "--format=%i %T"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise BackendUnavailableError(f"SLURM does not answer: {found.stderr.strip()}")
    return dict(line.split()[:2] for line in found.stdout.splitlines() if line.strip())


def queued_jobs(workspace: Workspace) -> dict[Key, tuple[str, str | None]]:
    """Return the last job of each recipe and fold with its state in the queue; None when it is not there (any more).

    Where SLURM cannot be asked (the workspace was copied to another computer), no job is in the queue.
    """
    jobs = read_jobs(workspace)
    try:
        active = active_jobs() if jobs else {}
    except BackendUnavailableError:
        active = {}
    return {key: (job, active.get(job)) for key, job in jobs.items()}

"""One process at a time trains a recipe and fold: a lock of the operating system, gone when the process dies."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import write_json

from glialite_distill.workspace import Workspace

__all__ = ["being_trained", "lock_file", "training_lock"]

_PATIENCE_S: Final = 0.5  # `being_trained` holds a lock for an instant to see whether it is free


def lock_file(workspace: Workspace, recipe: str, fold: int) -> Path:
    """Return the file that is locked while the recipe is trained on the fold; it outlives --restart."""
    return workspace.root / "locks" / f"{recipe}-fold{fold}.lock"


@contextmanager
def training_lock(workspace: Workspace, recipe: str, fold: int) -> Iterator[None]:
    """Hold the right to train a recipe on a fold; who holds it is written beside the lock.

    Raises
    ------
    ConfigError
        Another process holds it. A process that crashed holds nothing: the lock goes with it, on any computer that
        shares the folder through a file system with locks (local disks, NFS 4, Lustre with flock).
    """
    path = lock_file(workspace, recipe, fold)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout as error:
        raise ConfigError(
            f"{recipe} fold {fold} is being trained by {_holder(path)}; wait for it, or stop that process first"
        ) from error
    try:
        job = os.environ.get("SLURM_JOB_ID")
        write_json(_record(path), {"host": socket.gethostname(), "pid": os.getpid(), "job": job, "since": time.time()})
        yield
    finally:
        lock.release()


def being_trained(workspace: Workspace, recipe: str, fold: int) -> bool:
    """Return whether some process holds the lock at this moment."""
    path = lock_file(workspace, recipe, fold)
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _record(lock: Path) -> Path:
    return lock.with_suffix(".json")


def _holder(lock: Path) -> str:
    try:
        record = json.loads(_record(lock).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is being written
        return "another process"
    return f"process {record['pid']} on {record['host']}"

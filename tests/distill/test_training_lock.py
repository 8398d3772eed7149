"""Only one process trains a recipe and fold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from glialite_distill.teachers import RunOptions, run_teachers
from glialite_distill.training_lock import being_trained, lock_file, training_lock
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import ConfigError

HOLD = "import sys, time, filelock as f; l = f.FileLock(sys.argv[1]); l.acquire(); print(1, flush=True); time.sleep(60)"


def test_a_second_process_is_refused_and_told_who_is_first(trained: Workspace) -> None:
    """The message names the process; nothing is trained, and other folds are free."""
    with training_lock(trained, "baseline", 0):
        assert being_trained(trained, "baseline", 0)
        assert not being_trained(trained, "baseline", 1)
        with pytest.raises(ConfigError, match=rf"baseline fold 0 is being trained by process {os.getpid()} on "):
            run_teachers(trained, ("baseline",), (0,), RunOptions(device="cpu"))
    assert not being_trained(trained, "baseline", 0)


def test_a_process_that_was_killed_holds_nothing(trained: Workspace) -> None:
    """No lock has to be deleted by hand after a crash, and asking leaves no trace."""
    path = lock_file(trained, "grokking", 0)
    path.parent.mkdir(exist_ok=True)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    assert being_trained(trained, "grokking", 0)
    other.kill()
    other.wait()
    other.stdout.close()
    with training_lock(trained, "grokking", 0):
        pass


def test_a_damaged_record_of_the_holder_is_no_obstacle(trained: Workspace) -> None:
    """The lock counts, not what is written beside it."""
    with training_lock(trained, "baseline", 1):
        lock_file(trained, "baseline", 1).with_suffix(".json").write_text("{")
        with pytest.raises(ConfigError, match="by another process"), training_lock(trained, "baseline", 1):
            pass
    with training_lock(trained, "baseline", 1):
        pass

"""One program a folder, and no lock outlives its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from glialite_runtime.clinic.instance import only_one
from glialite_runtime.errors import ConfigError, OutputError

HOLD = """
import sys, time
from pathlib import Path
from glialite_runtime.clinic.instance import only_one
with only_one(Path(sys.argv[1])):
    print(1, flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    """Also from the same process; afterwards the folder is free."""
    with (
        only_one(tmp_path / "new"),
        pytest.raises(ConfigError, match=rf"process {os.getpid()}\) already"),
        only_one(tmp_path / "new"),
    ):
        pass
    with only_one(tmp_path / "new"):
        pass


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    """No file has to be deleted by hand after a power cut."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(ConfigError, match=f"process {other.pid}"), only_one(tmp_path):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with only_one(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A file is in its place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write into"), only_one(tmp_path / "file" / "out"):
        pass

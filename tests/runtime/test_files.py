"""Files appear complete under their final name, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from glialite_runtime.errors import OutputError
from glialite_runtime.files import replacing, sha256_bytes, sha256_file, write_bytes, write_json

SLOW_WRITE = """
import sys, time
from pathlib import Path
from glialite_runtime.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """The body raises: old content stays, no temporary file is left."""
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """`kill -9` in the middle: the final name still holds the old content."""
    path = tmp_path / "a"
    write_bytes(path, b"old")
    writer = subprocess.Popen([sys.executable, "-c", SLOW_WRITE, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == b"half"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    time.sleep(0.1)
    assert path.read_bytes() == b"old"


def test_folders_are_made_and_their_failure_is_an_output_error(tmp_path: Path) -> None:
    """A file in the way of a folder is named."""
    write_json(tmp_path / "new" / "deep" / "a.json", {"x": 1})
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_bytes(tmp_path / "file" / "a", b"")


def test_nan_is_no_json(tmp_path: Path) -> None:
    """A NaN would make a file that other programs cannot read."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path: Path) -> None:
    """The published value of SHA-256 for "abc"."""
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"abc")
    assert sha256_bytes(b"abc").startswith("ba7816bf8f01cfea")


def test_what_a_killed_process_left_is_swept_and_a_living_one_is_not_disturbed(tmp_path: Path) -> None:
    """Power cuts would otherwise fill a small disk with hidden files."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    swept, kept = tmp_path / f".a.{dead.pid}.part", tmp_path / f".a.{os.getppid()}.part"
    other = tmp_path / f".b.{dead.pid}.part"
    for path in (swept, kept, other):
        path.write_bytes(b"half")
    write_bytes(tmp_path / "a", b"new")
    assert not swept.exists()
    assert kept.exists()
    assert other.exists()

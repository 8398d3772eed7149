"""What is checked before anything heavy is imported; each failure is one sentence and an exit code."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from glialite_runtime import launcher, processor
from glialite_runtime.errors import BackendUnavailableError, ConfigError, GliaLiteError, OutputError
from glialite_runtime.launcher import check_computer, check_folder


def refusal(error: type[GliaLiteError], code: int, call: object, *arguments: object) -> str:
    """Return the one sentence of a refusal."""
    with pytest.raises(error) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.exit_code == code
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_this_computer_passes(tmp_path: Path) -> None:
    """And the folder is handed back, for use as a callback; nothing is left in it."""
    check_computer()
    assert check_folder(tmp_path) == tmp_path
    assert not list(tmp_path.iterdir())


def test_an_old_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `require_x86_64_v2` refuses it."""
    monkeypatch.setattr(processor, "instruction_sets", lambda: {"SSE4.2": False})
    assert "SSE4.2" in refusal(BackendUnavailableError, 5, check_computer)


def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says how much is free, how much is needed and what to do."""
    monkeypatch.setattr(launcher, "available_bytes", lambda: 123e6)
    assert "123 MB of memory are free, 300 MB" in refusal(BackendUnavailableError, 5, check_computer)


@pytest.mark.parametrize("year", [1970, 1980, 2015, 2100])
def test_a_clock_that_cannot_be_right_is_refused(year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report with such a date would mislead."""
    monkeypatch.setattr(time, "localtime", lambda: SimpleNamespace(tm_year=year))
    assert f"year {year}" in refusal(ConfigError, 2, check_computer)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """Also when the file is in the middle of the path."""
    (tmp_path / "file").write_text("x")
    for out in ("file", "file/below/it"):
        assert "is a file" in refusal(OutputError, 7, check_folder, tmp_path / out)


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    """The place where it would be made is tried instead."""
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is computed."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3e6))
    assert "3 MB are free" in refusal(OutputError, 7, check_folder, tmp_path)


def test_a_read_only_folder_is_refused() -> None:
    """Nobody, not even the administrator, writes into the kernel's own file system."""
    place = Path("/sys/kernel")
    if not place.is_dir():
        pytest.skip("there is no /sys")
    assert "choose another place with --out" in refusal(OutputError, 7, check_folder, place / "results")


def test_nothing_heavy_is_imported() -> None:
    """The checks come before numpy, which an old processor dies of."""
    code = (
        "import sys, glialite_runtime.launcher; sys.exit(bool({'numpy', 'onnxruntime', 'nibabel'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

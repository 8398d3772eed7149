"""What is checked before anything heavy is imported: whether this computer and the folder for the results will do."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from glialite_runtime.errors import BackendUnavailableError, ConfigError, OutputError
from glialite_runtime.processor import require_x86_64_v2
from glialite_runtime.resources import available_bytes

__all__ = ["check_computer", "check_folder"]

_NEEDED_BYTES: Final = 300e6
"""Memory of a whole run, measured by `bench/speed.py`."""

_NEEDED_DISK_BYTES: Final = 20e6
_SANE_YEARS: Final = range(2024, 2100)
"""A computer whose clock battery is empty starts in 1970, 1980 or the year it was made."""


def check_computer() -> None:
    """Check processor, free memory and clock.

    Raises
    ------
    BackendUnavailableError
        The processor is too old, or too little memory is free.
    ConfigError
        The clock cannot be right.
    """
    require_x86_64_v2()
    free = available_bytes()
    if free < _NEEDED_BYTES:
        raise BackendUnavailableError(
            f"{free / 1e6:.0f} MB of memory are free, {_NEEDED_BYTES / 1e6:.0f} MB are needed: close other programs"
        )
    year = time.localtime().tm_year
    if year not in _SANE_YEARS:
        raise ConfigError(
            f"this computer's clock says it is the year {year}, and reports carry the date: set the clock "
            "(when it is wrong again tomorrow, the battery on the main board is empty)"
        )


def check_folder(out: Path) -> Path:
    """Return `out`, after checking that results can be written there; nothing is left behind, no folder is made.

    Raises
    ------
    OutputError
        It is a file, cannot be written, or its disk is full.
    """
    there = out.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"{there} is a file, and results need a folder: choose another place with --out")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise OutputError(
            f"cannot write results to {out}: {error.strerror or error}; choose another place with --out"
        ) from error
    if free < _NEEDED_DISK_BYTES:
        raise OutputError(
            f"{free / 1e6:.0f} MB are free for {out}, {_NEEDED_DISK_BYTES / 1e6:.0f} MB are needed: free space, or "
            "choose another place with --out"
        )
    return out

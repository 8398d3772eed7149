"""What this computer has to give: memory and cores."""

from __future__ import annotations

import ctypes
import math
import os
import struct
import sys
from pathlib import Path

__all__ = ["available_bytes", "usable_cores"]


def available_bytes() -> float:
    """Return the memory that programs can still get without swapping; infinity where the system does not tell."""
    if sys.platform == "win32":
        return _available_on_windows()
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as stream:
            return next(1024.0 * int(line.split()[1]) for line in stream if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return math.inf


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available_on_windows() -> float:
    """Ask ``GlobalMemoryStatusEx``: a structure of two 32-bit and seven 64-bit numbers, the third one is asked for."""
    status = (ctypes.c_uint64 * 8)()
    ctypes.memmove(status, struct.pack("<I", ctypes.sizeof(status)), 4)
    ok = ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined, unused-ignore]
    return float(status[2]) if ok else math.inf

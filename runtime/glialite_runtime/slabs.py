"""Slabs of a case: its depth in pieces, for a computer that has no memory for the whole."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Slab", "available_bytes", "plan_slabs", "usable_cores"]


@dataclass(frozen=True, slots=True)
class Slab:
    """A piece of an axis.

    Attributes
    ----------
    read : slice
        What is worked on.
    keep : slice
        What the result is right for; the kept slices of a plan cover each place once, in order.
    """

    read: slice
    keep: slice

    @property
    def inner(self) -> slice:
        """`keep`, counted from the start of `read`."""
        return slice(self.keep.start - self.read.start, self.keep.stop - self.read.start)


def plan_slabs(depth: int, halo: int, most: float) -> tuple[Slab, ...]:
    """Cut an axis into as few nearly equal slabs as possible.

    Parameters
    ----------
    depth : int
        Places along the axis.
    halo : int
        Places that a slab sees beyond what is kept of it, where the axis goes on.
    most : float
        A slab reads no more places than this, but always keeps at least one. Infinity for the whole.

    Returns
    -------
    tuple of Slab
        In order.
    """
    count = 1 if depth <= most else math.ceil(depth / max(1, most - 2 * halo))
    edges = [depth * k // count for k in range(count + 1)]
    return tuple(
        Slab(slice(max(0, low - halo), min(depth, high + halo)), slice(low, high))
        for low, high in itertools.pairwise(edges)
    )


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

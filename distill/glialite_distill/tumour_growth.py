"""A front that runs through a brain: travel times, and what it has taken when it reaches a wanted volume."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Front", "grow_to_volume", "travel_time"]

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]

_FAR: Final = np.float32(1e4)
_MARGIN: Final = 13.0
"""Soft borders need the times a little beyond the front, in mm of white matter."""
_SWEEPS: Final = 4
"""Sweeps in one box before the box follows the front; a sweep carries it one voxel on at least."""
_OFFSETS: Final = tuple(offset for offset in product((-1, 0, 1), repeat=3) if offset > (0, 0, 0))
"""One of each pair of opposite neighbours, 13 of 26."""


@dataclass(frozen=True, slots=True)
class Front:
    """A front that has run: the box that holds it, arrival times there, and what it has taken."""

    box: Box
    time: Array
    inside: Mask


def travel_time(
    slowness: Array, start: Mask, step_mm: float, until: float = float(_FAR), known: Array | None = None
) -> Array:
    """Return the time that a front takes from `start` to every voxel, mm of white matter, 26 neighbours.

    Shortest paths by repeated relaxation of all pairs of neighbours, in a box that follows the front.

    Parameters
    ----------
    slowness : array (z, y, x) float32
        Time per mm, above 0.
    start : bool array (z, y, x)
        Where the time is 0. Without any, all times are 1e4.
    step_mm : float
        Edge of a voxel.
    until : float
        Times above it are only bounds: the front is not followed further.
    known : array, optional
        Result of an earlier call with a smaller `until`, to go on from.
    """
    time = np.where(start, np.float32(0), _FAR).astype(np.float32) if known is None else known.copy()
    half = slowness * np.float32(0.5 * step_mm)
    while True:
        box = _box_of(time <= until, _SWEEPS + 1)
        here = time[box]
        before = here.copy()
        _sweep(here, half[box])
        if not ((here < before - np.float32(1e-3)) & (here <= until)).any():
            return time


def _sweep(time: Array, half: Array) -> None:
    """Relax all pairs of neighbours `_SWEEPS` times, in place."""
    pairs = []
    for offset in _OFFSETS:
        here = tuple(slice(max(0, -o), min(n, n - o)) for o, n in zip(offset, time.shape, strict=True))
        there = tuple(slice(max(0, o), min(n, n + o)) for o, n in zip(offset, time.shape, strict=True))
        length = np.float32(np.sqrt(sum(o * o for o in offset)))
        pairs.append((time[here], time[there], (half[here] + half[there]) * length))
    for _ in range(_SWEEPS):
        for one, other, cost in pairs:
            np.minimum(other, one + cost, out=other)
            np.minimum(one, other + cost, out=one)


def _box_of(mask: Mask, margin: int) -> Box:
    """Return the box around `mask` with a margin, inside the array; an empty mask gives a corner of it."""
    ranges = []
    for axis, n in enumerate(mask.shape):
        taken = np.flatnonzero(mask.any(tuple(k for k in range(3) if k != axis)))
        first, last = (int(taken[0]), int(taken[-1])) if taken.size else (0, 0)
        ranges.append(slice(max(0, first - margin), min(n, last + 1 + margin)))
    return ranges[0], ranges[1], ranges[2]


def grow_to_volume(slowness: Array, start: Mask, allowed: Mask, volume_ml: float, step_mm: float) -> Front:
    """Let a front run until it has taken `volume_ml` of allowed voxels (all that it can reach, if there are fewer).

    Times are right up to 13 mm of white matter beyond the front; the box holds all of that.
    """
    voxel_ml = step_mm**3 / 1000
    count = max(1, round(volume_ml / voxel_ml))
    begun_ml = float(start.sum()) * voxel_ml
    until = _MARGIN + _radius_mm(begun_ml + volume_ml) - _radius_mm(begun_ml)
    time = travel_time(slowness, start, step_mm, until)
    while until < _FAR and np.count_nonzero(allowed & (time <= until - _MARGIN)) < count:
        until = 1.35 * until
        time = travel_time(slowness, start, step_mm, until, time)
    times = np.where(allowed, time, _FAR)
    wanted = min(count, times.size) - 1
    limit = float(min(np.partition(times.ravel(), wanted)[wanted], 0.9 * _FAR))
    box = _box_of(time <= limit + _MARGIN, 1)
    return Front(box, time[box], times[box] <= limit)


def _radius_mm(volume_ml: float) -> float:
    return float((750 * volume_ml / np.pi) ** (1 / 3))

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

_FAR: Final = np.float32(1e4)
_MARGIN: Final = 13.0


def travel_time(slowness: Array, start: Mask, step_mm: float) -> Array:
    """Return the time that a front takes from `start` to every voxel, mm of white matter, 26 neighbours.

    Parameters
    ----------
    slowness : array (z, y, x) float32
        Time per mm, above 0.
    start : bool array (z, y, x)
        Where the time is 0. Without any, all times are 1e4.
    """
    time = np.where(start, np.float32(0), _FAR).astype(np.float32)
    half = slowness * np.float32(0.5 * step_mm)
    steps = [offset for offset in product((-1, 0, 1), repeat=3) if offset > (0, 0, 0)]
    pairs = []
    for offset in steps:
        here = tuple(slice(max(0, -o), min(n, n - o)) for o, n in zip(offset, time.shape, strict=True))
        there = tuple(slice(max(0, o), min(n, n + o)) for o, n in zip(offset, time.shape, strict=True))
        length = np.float32(np.sqrt(sum(o * o for o in offset)))
        pairs.append((here, there, (half[here] + half[there]) * length))
    for _ in range(4 * max(time.shape)):
        before = time.copy()
        for here, there, cost in pairs:
            np.minimum(time[there], time[here] + cost, out=time[there])
            np.minimum(time[here], time[there] + cost, out=time[here])
        if np.array_equal(before, time):
            break
    return time


@dataclass(frozen=True, slots=True)
class Front:
    """A front that has run inside a box: arrival times there, and what it has taken."""

    box: tuple[slice, slice, slice]
    time: Array
    inside: Mask


def grow_to_volume(slowness: Array, start: Mask, allowed: Mask, volume_ml: float, step_mm: float) -> Front:
    """Let a front run until it has taken `volume_ml` of allowed voxels (all that it can reach, if there are fewer).

    Times are computed in a box around the start, which is widened until the front, and `_MARGIN` of time beyond it,
    stays clear of its sides: soft borders need the times a little farther out.
    """
    count = max(1, round(volume_ml * 1000 / step_mm**3))
    occupied = np.argwhere(start)
    low, high = occupied.min(0), occupied.max(0) + 1
    reach = 4 + int(1.3 * (0.75 / np.pi * (count + start.sum())) ** (1 / 3))
    while True:
        sides = zip(np.maximum(low - reach, 0), np.minimum(high + reach, start.shape), strict=True)
        box = tuple(slice(int(a), int(b)) for a, b in sides)
        time = travel_time(slowness[box], start[box], step_mm)
        times = np.where(allowed[box], time, _FAR)
        last_wanted = min(count, times.size) - 1
        limit = float(min(np.partition(times.ravel(), last_wanted)[last_wanted], 0.9 * _FAR))
        inside = times <= limit
        taken = np.argwhere(time <= limit + _MARGIN)
        edges = zip(box, taken.min(0), taken.max(0), inside.shape, start.shape, strict=True)
        touches = any(
            (first == 0 and b.start > 0) or (last == n - 1 and b.stop < whole) for b, first, last, n, whole in edges
        )
        if not touches:
            return Front((box[0], box[1], box[2]), time, inside)
        reach += 10

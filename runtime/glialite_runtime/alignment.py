"""Do the sequences lie on each other? Their edges are compared at about 4 mm, at all shifts at once."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.notes import Note, note
from glialite_runtime.sample import Sample

__all__ = ["alignment_notes"]

_REACH: Final = 6
"""Voxels of the sample (24 mm) that a sequence is looked for."""

_MIN_INSIDE: Final = 2000
_CLEARER: Final = 0.05
_MIRRORED: Final = 0.1

_Edges = npt.NDArray[np.float32]


def _eroded(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a mask without the voxels that touch its outside or the edge of the array."""
    inside = np.zeros_like(mask)
    inside[1:-1, 1:-1, 1:-1] = mask[1:-1, 1:-1, 1:-1]
    for axis in range(3):
        inside &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return inside


def _edges(channel: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], inside: npt.NDArray[np.bool_]) -> _Edges:
    """Return how steep a channel is (z, y, x): mean 0 and length 1 inside, 0 outside; all 0 where nothing is steep."""
    low, high = np.percentile(channel[mask][::3], [2, 98])
    clipped = np.clip(channel, low, high)
    steep = np.zeros_like(clipped)
    middle = (slice(1, -1),) * 3
    for axis in range(3):
        ahead, behind = list(middle), list(middle)
        ahead[axis], behind[axis] = slice(2, None), slice(None, -2)
        steep[middle] += np.square(clipped[tuple(ahead)] - clipped[tuple(behind)])
    steep = np.sqrt(steep)
    steep -= steep[inside].mean()
    steep *= inside
    length = float(np.sqrt(np.square(steep).sum()))
    return steep / np.float32(length) if length > 0 else steep


def _best_shift(product: npt.NDArray[Any], shape: tuple[int, ...]) -> tuple[tuple[int, ...], float, float]:
    """Return the best shift in voxels, its correlation, and the correlation without a shift."""
    everywhere = np.fft.irfftn(product, s=shape, axes=(0, 1, 2))
    near = np.roll(everywhere, (_REACH,) * 3, (0, 1, 2))[: 2 * _REACH + 1, : 2 * _REACH + 1, : 2 * _REACH + 1]
    at = np.unravel_index(near.argmax(), near.shape)
    return tuple(int(n) - _REACH for n in at), float(near.max()), float(near[_REACH, _REACH, _REACH])


def alignment_notes(sample: Sample) -> list[Note]:
    """Return a note for every sequence that lies elsewhere, or mirrored, against T2 (or the first one).

    Nothing is said when fewer than two sequences share 2000 voxels of the sample well inside the brain, or when their
    edges have too little in common.
    """
    mask = sample.common
    if len(sample.sequences) < 2 or np.count_nonzero(mask) < _MIN_INSIDE:
        return []
    extents = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in extents)
    mask = mask[box]
    inside = _eroded(_eroded(mask))
    if np.count_nonzero(inside) < _MIN_INSIDE:
        return []
    edges = {s: _edges(c[box], mask, inside) for s, c in zip(sample.sequences, sample.channels, strict=True)}
    # Room so that no shift comes back in on the other side; multiples of 8 are transformed fast.
    shape = tuple(-(-(n + _REACH) // 8) * 8 for n in mask.shape)
    chance = max(2 * _CLEARER, 8 / float(np.count_nonzero(inside)) ** 0.5)  # what noise reaches at some shift
    hub = "t2w" if "t2w" in edges else sample.sequences[0]
    spectrum = np.fft.rfftn(edges[hub], s=shape, axes=(0, 1, 2))
    found = []
    for sequence, steep in edges.items():
        if sequence == hub:
            continue
        straight = np.conj(np.fft.rfftn(steep, s=shape, axes=(0, 1, 2)))
        shift, best, unmoved = _best_shift(spectrum * straight, shape)
        mirrored = np.conj(np.fft.rfftn(steep[:, :, ::-1], s=shape, axes=(0, 1, 2)))
        if _best_shift(spectrum * mirrored, shape)[1] > best + _MIRRORED:
            found.append(note("registration.mirrored", sequence=sequence, other=hub))
        elif any(shift) and best > max(unmoved + _CLEARER, chance):
            mm = float(np.linalg.norm(np.multiply(shift, sample.spacing_mm)))
            found.append(note("registration.shift", sequence=sequence, other=hub, mm=round(mm)))
    return found

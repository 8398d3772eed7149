"""Which sequence a picture is, told from its contrast: fluid is dark in T1 and FLAIR and bright in T2."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.notes import Note, note
from glialite_runtime.sample import Sample

__all__ = ["duplicates", "looks_swapped", "not_t2w"]

_MIN_VOXELS: Final = 2000
_MIN_FLUID: Final = 0.02
_CLEARER: Final = 3.0
_SAME: Final = 0.995
_T1_AGAINST_FLAIR: Final = 0.2
_ENHANCEMENT: Final = 1.5


def _standardised(sample: Sample) -> npt.NDArray[np.float32]:
    """Return the voxels of the common brain (channel, voxel), median 0 and robust SD 1 a channel."""
    values = sample.channels[:, sample.common]
    low, middle, high = np.percentile(values, [25, 50, 75], axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = ((values - middle) / np.maximum((high - low) / 1.35, 1e-6)).astype(np.float32)
    return scaled


def duplicates(sample: Sample) -> list[tuple[str, str]]:
    """Return the pairs of sequences that hold one picture, whatever its scale; correlation above 0.995.

    T1 with and without contrast, the most alike of different sequences, reached 0.88 in a real patient.
    """
    values = sample.channels[:, sample.brain]
    if len(sample.sequences) < 2 or values.shape[1] < 2 or (values.std(axis=1) == 0).any():
        return []
    alike = np.asarray(np.corrcoef(values))
    names = sample.sequences
    return [(names[i], names[j]) for i in range(len(names)) for j in range(i + 1, len(names)) if alike[i, j] > _SAME]


def _fluid(values: npt.NDArray[np.float32], bright: int) -> float:
    """Return the share of voxels that are bright in one channel and dark in all others."""
    found = values[bright] > 1
    for channel, others in enumerate(values):
        if channel != bright:
            found &= others < -0.5
    return float(found.mean())


def not_t2w(sample: Sample) -> str | None:
    """Return the sequence that looks like T2 in place of the one that is called so, or None when all is well.

    In T2 alone fluid is bright. Nothing is said of fewer than three sequences, of a case without T2, and of a head
    in which hardly any fluid is seen.
    """
    if "t2w" not in sample.sequences or len(sample.sequences) < 3:
        return None
    values = _standardised(sample)
    if values.shape[1] < _MIN_VOXELS:
        return None
    fluid = {name: _fluid(values, at) for at, name in enumerate(sample.sequences)}
    best = max(fluid, key=lambda name: fluid[name])
    clear = fluid[best] > _MIN_FLUID and fluid[best] > _CLEARER * fluid["t2w"]
    return best if best != "t2w" and clear else None


def looks_swapped(sample: Sample) -> list[Note]:
    """Return a note for each pair that looks swapped: T1 and FLAIR by grey against white matter, T1 by enhancement.

    Both rules can err, so they warn and do not refuse; how often stands in docs/reliability.md.
    """
    found: list[Note] = []
    if sample.common.sum() < _MIN_VOXELS:
        return found
    values = dict(zip(sample.sequences, _standardised(sample), strict=True))
    if {"t2w", "t2f"} <= set(values):
        # Of grey and white matter, the one that is brighter in T2 is brighter in FLAIR too, and darker in T1.
        low, high = np.percentile(values["t2w"], [5, 65])
        tissue = (values["t2w"] > low) & (values["t2w"] < high)
        like_t2 = {s: float(np.corrcoef(values["t2w"][tissue], v[tissue])[0, 1]) for s, v in values.items()}
        found += [
            note("swapped.pair", first=t1, second="t2f")
            for t1 in ("t1n", "t1c")
            if t1 in values and like_t2[t1] - like_t2["t2f"] > _T1_AGAINST_FLAIR
        ][:1]
    if {"t1n", "t1c"} <= set(values) and not found:
        brighter = values["t1c"] - values["t1n"]
        lowest, highest = np.percentile(brighter, [0.1, 99.9])
        if -lowest > _ENHANCEMENT * highest:
            found.append(note("swapped.pair", first="t1n", second="t1c"))
    return found

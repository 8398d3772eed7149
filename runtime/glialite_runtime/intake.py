"""The gate before any computing: what cannot be segmented is refused in plain words, what is odd is noted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import IntensityError, MissingSequenceError
from glialite_runtime.volume import Volume

__all__ = ["Quality", "inspect_volume"]

_BRAIN_ML: Final = (500.0, 2500.0)
_MAX_FOREGROUND: Final = 0.8
_MIN_BORDER_ZERO: Final = 0.5


@dataclass(frozen=True, slots=True)
class Quality:
    """What the gate found.

    Attributes
    ----------
    verdict : str
        "good", or "check" when there is a note.
    notes : tuple of str
        One sentence each.
    brain_ml : float
        Volume of the non-zero voxels.
    """

    verdict: str
    notes: tuple[str, ...]
    brain_ml: float


def _border(channel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    faces = [np.take(channel, face, axis=axis).ravel() for axis in range(3) for face in (0, -1)]
    return np.concatenate(faces)


def _intensity_problem(channel: npt.NDArray[Any]) -> str | None:
    border = _border(channel)
    if np.count_nonzero(border == 0) < _MIN_BORDER_ZERO * border.size:
        values, counts = np.unique(border, return_counts=True)
        common, share = float(values[counts.argmax()]), int(counts.max()) / border.size
        if share > _MIN_BORDER_ZERO and channel.min() == channel.max():
            return f"holds one value only ({common:g})"
        if share > _MIN_BORDER_ZERO:
            return (
                f"is already normalised: its background is {common:.3g}, it must be exactly 0; give the original image"
            )
        return "is not skull-stripped: the edge of the image is not 0; extract the brain first"
    foreground = np.count_nonzero(channel) / channel.size
    if foreground == 0:
        return "is empty: every voxel is 0"
    if foreground > _MAX_FOREGROUND:
        return f"is not skull-stripped: {foreground:.0%} of its voxels are not 0; extract the brain first"
    return None


def inspect_volume(volume: Volume, accepted: Collection[Collection[str]]) -> Quality:
    """Refuse a case that must not be segmented; describe one that may.

    Parameters
    ----------
    volume : Volume
        The case as read.
    accepted : collection of collections of str
        Sets of sequences that the bundle was trained for.

    Raises
    ------
    IntensityError
        Empty, already normalised, not skull-stripped; the message names every such sequence.
    MissingSequenceError
        The bundle does not accept the sequences that are there.
    """
    problems = [
        f"{sequence} {problem}"
        for sequence, channel in zip(volume.sequences, volume.channels, strict=True)
        if (problem := _intensity_problem(channel))
    ]
    missing = _missing(volume.sequences, accepted)
    if problems:
        raise IntensityError("; ".join(problems + ([missing] if missing else [])))
    if missing:
        raise MissingSequenceError(missing)
    brain = volume.channels[0] != 0
    for channel in volume.channels[1:]:
        brain |= channel != 0
    brain_ml = float(np.count_nonzero(brain)) * volume.voxel_mm3 / 1000
    notes = []
    if not _BRAIN_ML[0] <= brain_ml <= _BRAIN_ML[1]:
        notes.append(f"The brain measures {brain_ml:.0f} mL; adults have {_BRAIN_ML[0]:.0f} to {_BRAIN_ML[1]:.0f} mL.")
    for sequence, channel in zip(volume.sequences, volume.channels, strict=True):
        covered = float(np.count_nonzero(channel)) * volume.voxel_mm3 / 1000 / brain_ml
        if covered < 0.9:
            notes.append(f"{sequence} covers only {covered:.0%} of the brain that the other sequences show.")
    return Quality("check" if notes else "good", tuple(notes), brain_ml)


def _missing(present: tuple[str, ...], accepted: Collection[Collection[str]]) -> str | None:
    if set(present) in [set(a) for a in accepted]:
        return None
    wanted = min(accepted, key=lambda a: len(set(a) ^ set(present)))
    if lacking := [s for s in wanted if s not in present]:
        return f"this model needs {', '.join(wanted)}; missing: {', '.join(lacking)}"
    return f"this model needs {', '.join(wanted)}; it does not accept {', '.join(present)}"

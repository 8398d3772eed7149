"""The gate before any computing: what cannot be segmented is refused in plain words, what is odd is noted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.alignment import alignment_notes
from glialite_runtime.contrast import duplicates, looks_swapped, not_t2w
from glialite_runtime.errors import IntensityError, MissingSequenceError
from glialite_runtime.intensity import IntensityRange, unlike_training
from glialite_runtime.notes import Note, note
from glialite_runtime.sample import Sample, sample_volume
from glialite_runtime.volume import Volume

__all__ = ["Quality", "inspect_volume"]

_BRAIN_ML: Final = (500, 2500)
_MAX_FOREGROUND: Final = 0.8
_MIN_BORDER_ZERO: Final = 0.5
_MIN_COVERAGE: Final = 0.9
_MIN_VALUES: Final = 16
_MAX_SATURATED: Final = 0.02
_MAX_OUTLIER: Final = 1000
"""Times the brain's own values; a single voxel of that size shifts the z-score of a whole brain."""
_MAX_VALUE: Final = 1e9
_MAX_CUT: Final = 0.25
_THICK_MM: Final = 3.0
_TILT_DEGREES: Final = 10.0
_FORMS_MM: Final = 5.0


@dataclass(frozen=True, slots=True)
class Quality:
    """What the gate found.

    Attributes
    ----------
    verdict : str
        "good", or "check" when there is a note.
    notes : tuple of str
        One English sentence each.
    brain_ml : float
        Volume of the non-zero voxels, from every n-th voxel (see `sample`): right to about 1 %.
    findings : tuple of Note
        The notes with their keys and values, for translations.
    """

    verdict: str
    notes: tuple[str, ...]
    brain_ml: float
    findings: tuple[Note, ...] = ()


def inspect_volume(
    volume: Volume, accepted: Collection[Collection[str]], learnt: Mapping[str, IntensityRange] | None = None
) -> Quality:
    """Refuse a case that must not be segmented; describe one that may.

    Parameters
    ----------
    volume : Volume
        The case as read.
    accepted : collection of collections of str
        Sets of sequences that the bundle was trained for.
    learnt : mapping of str to IntensityRange, optional
        How grey values are spread in what the bundle learnt from; None: nothing is said about that.

    Raises
    ------
    IntensityError
        Empty, one value, a label map, enormous values, already normalised, not skull-stripped, one picture twice, or
        another sequence than its name says; the message names every such sequence.
    MissingSequenceError
        The bundle does not accept the sequences that are there.
    """
    sample = sample_volume(volume)
    problems = [
        f"{sequence} {problem}"
        for sequence, channel, small in zip(volume.sequences, volume.channels, sample.channels, strict=True)
        if (problem := _intensity_problem(channel, small))
    ]
    problems = problems or _confusions(sample)
    missing = _missing(volume.sequences, accepted)
    if problems:
        raise IntensityError("; ".join(problems + ([missing] if missing else [])))
    if missing:
        raise MissingSequenceError(missing)
    brain_ml = float(np.count_nonzero(sample.brain)) * sample.voxel_ml
    if brain_ml > _BRAIN_ML[1]:
        raise IntensityError(
            f"what is not 0 measures {brain_ml:.0f} mL, a brain at most {_BRAIN_ML[1]} mL: the images are not "
            "skull-stripped; extract the brain first, or let --raw do it"
        )
    found = [
        *_coverage_notes(sample, brain_ml),
        *_geometry_notes(volume),
        *alignment_notes(sample),
        *looks_swapped(sample),
        *_saturation_notes(sample),
        *(note("intensity.unusual", sequence=sequence) for sequence in unlike_training(sample, learnt or {})),
    ]
    return Quality("check" if found else "good", tuple(n.text for n in found), round(brain_ml, 3), tuple(found))


def _border(channel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # indexed, because `np.take` copies the whole of a view first
    faces = (channel[0], channel[-1], channel[:, 0], channel[:, -1], channel[:, :, 0], channel[:, :, -1])
    return np.concatenate([face.ravel() for face in faces])


def _intensity_problem(channel: npt.NDArray[Any], small: npt.NDArray[np.float32]) -> str | None:
    """Return why a channel (z, y, x) cannot be used, from its faces and its sample."""
    border = _border(channel)
    if np.count_nonzero(border == 0) < _MIN_BORDER_ZERO * border.size:
        return _background_problem(channel, border)
    inside = small[small != 0]
    if inside.size == 0:
        return "shows nothing but specks" if channel.any() else "is empty: every voxel is 0"
    if inside.size > _MAX_FOREGROUND * small.size:
        share = inside.size / small.size
        return f"is not skull-stripped: {share:.0%} of its voxels are not 0; extract the brain first, or add --raw"
    if inside.size > 64 * _MIN_VALUES and (kinds := len(np.unique(inside))) < _MIN_VALUES:
        return f"holds {kinds} different values only: it looks like a mask or a label map, not like an MRI"
    if channel.dtype.itemsize > 2:  # what 16 bits hold does not matter among millions of voxels
        usual = min(_MAX_OUTLIER * float(np.percentile(np.abs(inside), 99)), _MAX_VALUE)
        if (largest := max(float(channel.max()), -float(channel.min()))) > usual:
            return f"holds values up to {largest:.3g}; {usual:.3g} is the most that a brain like this can have"
    return None


def _background_problem(channel: npt.NDArray[Any], border: npt.NDArray[Any]) -> str:
    values, counts = np.unique(border, return_counts=True)
    common, share = float(values[counts.argmax()]), int(counts.max()) / border.size
    if share > _MIN_BORDER_ZERO and channel.min() == channel.max():
        return f"holds one value only ({common:g})"
    if share > _MIN_BORDER_ZERO:
        return f"is already normalised: its background is {common:.3g}, it must be exactly 0; give the original image"
    return "is not skull-stripped: the edge of the image is not 0; extract the brain first, or add --raw"


def _confusions(sample: Sample) -> list[str]:
    """Return what is wrong with the assignment of pictures to sequences."""
    if same := duplicates(sample):
        return [f"{first} and {second} are one picture; give the file of each sequence" for first, second in same]
    if other := not_t2w(sample):
        return [f"t2w and {other} look swapped: fluid is bright in {other} and not in t2w; check which file is which"]
    return []


def _coverage_notes(sample: Sample, brain_ml: float) -> list[Note]:
    found = []
    if brain_ml < _BRAIN_ML[0]:
        found.append(note("brain.small", brain_ml=round(brain_ml), low_ml=_BRAIN_ML[0], high_ml=_BRAIN_ML[1]))
    nonzero = sample.channels != 0
    seen = np.count_nonzero(nonzero, axis=0) * 2 >= len(nonzero)  # one that lies elsewhere adds nothing
    for sequence, inside in zip(sample.sequences, nonzero, strict=True):
        covered = np.count_nonzero(inside & seen) / max(int(np.count_nonzero(seen)), 1)
        if covered < _MIN_COVERAGE:
            found.append(note("coverage.sequence", sequence=sequence, percent=round(100 * covered)))
    brain = sample.brain
    cut = set()
    for axis, names in enumerate((("bottom", "top"), ("side", "side"), ("side", "side"))):
        areas = np.count_nonzero(brain, axis=tuple(a for a in range(3) if a != axis))
        cut |= {name for name, area in zip(names, areas[[0, -1]], strict=True) if area > _MAX_CUT * areas.max()}
    return found + [note(f"coverage.{name}") for name in sorted(cut)]


def _geometry_notes(volume: Volume) -> list[Note]:
    found = []
    if (thickest := max(volume.spacing_mm)) > _THICK_MM:
        found.append(note("geometry.thick", mm=round(thickest, 1)))
    columns = volume.reference.affine[:3, :3]
    straight = np.abs(columns / np.linalg.norm(columns, axis=0)).max(axis=0)
    tilt = float(np.degrees(np.arccos(np.clip(straight.min(), 0, 1))))
    if tilt > _TILT_DEGREES:
        found.append(note("geometry.oblique", degrees=round(tilt)))
    header = volume.reference.header
    qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    if qform is not None and sform is not None:
        turned = (qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0)).T @ (columns / np.linalg.norm(columns, axis=0))
        degrees = float(np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))))
        centre = np.append((np.array(volume.reference.data.shape) - 1) / 2, 1)
        mm = float(np.linalg.norm((qform - sform)[:3] @ centre))
        if mm > _FORMS_MM:
            found.append(note("geometry.forms", sequence=volume.sequences[0], degrees=round(degrees), mm=round(mm)))
    return found


def _saturation_notes(sample: Sample) -> list[Note]:
    found = []
    for sequence, channel in zip(sample.sequences, sample.channels, strict=True):
        share = np.count_nonzero(channel == channel.max()) / max(int(np.count_nonzero(channel)), 1)
        if share > _MAX_SATURATED:
            found.append(note("intensity.saturated", sequence=sequence, percent=round(100 * share)))
    return found


def _missing(present: tuple[str, ...], accepted: Collection[Collection[str]]) -> str | None:
    if set(present) in [set(a) for a in accepted]:
        return None
    wanted = min(accepted, key=lambda a: len(set(a) ^ set(present)))
    if lacking := [s for s in wanted if s not in present]:
        return f"this model needs {', '.join(wanted)}; missing: {', '.join(lacking)}"
    return f"this model needs {', '.join(wanted)}; it does not accept {', '.join(present)}"

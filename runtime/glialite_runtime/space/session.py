"""Lay the other sequences of a session on the reference, and doubt the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import GeometryError
from glialite_runtime.space.registration import (
    RIGID,
    Level,
    Points,
    binned,
    climb,
    draw_points,
    matrix_of,
    register,
    similarity,
)
from glialite_runtime.space.transform import BRATS_AFFINE, Scan, inverse, resample, shrink, smooth

__all__ = ["SequenceFit", "measure", "refuse_untrusted"]

Matrix = npt.NDArray[np.float64]

_STARTS: Final = (
    # turns about x, y, z in degrees; the header's own position is the first
    (0, 0, 0), (12, 0, 0), (-12, 0, 0), (0, 12, 0), (0, -12, 0), (0, 0, 12), (0, 0, -12),
)  # fmt: skip
_HEADER: Final[Matrix] = np.eye(4)
_MIN_PEAK: Final = 0.25
_SHIFT_MM: Final = 6.0


@dataclass(frozen=True, slots=True)
class SequenceFit:
    """How one sequence lies on the reference.

    Attributes
    ----------
    to_scan : float64 array (4, 4)
        From mm of the reference to mm of the sequence.
    nmi : float
        Similarity in the brain.
    peak : float
        Share of that similarity which a shift by 6 mm destroys: high when the same structures lie on each other.
    mirrored : float
        Similarity when left and right are swapped.
    """

    to_scan: Matrix
    nmi: float
    peak: float
    mirrored: float


def _points(scan: Scan, rigid: Matrix, inside: npt.NDArray[np.bool_], spacing_mm: float, count: int) -> Points:
    """Return points of the reference in the brain and 6 mm around it."""
    image = shrink(scan, spacing_mm)
    brain = shrink(Scan(inside.astype(np.float32), BRATS_AFFINE), 4.0)
    soft = Scan(smooth(brain.data, (2, 2, 2)), brain.affine)
    near, _ = resample(soft, inverse(rigid), np.ones(image.data.shape, np.bool_), image.affine)
    middle = rigid[:3, :3] @ np.array([-119.5, 117.0, 74.0]) + rigid[:3, 3]
    return draw_points(image, near > 0.1, count, middle, seed=3)


def measure(
    reference: Scan, scan: Scan, rigid: Matrix, inside: npt.NDArray[np.bool_], guess: Matrix | None = None
) -> SequenceFit:
    """Register a sequence rigidly to the reference; see `SequenceFit`.

    Parameters
    ----------
    reference, scan : Scan
        Original scans.
    rigid : float64 array (4, 4)
        From mm of BraTS space to mm of the reference.
    inside : bool array (z, y, x)
        The brain on the BraTS grid.
    guess : float64 array (4, 4), optional
        A place to start from beside that of the headers, from mm of the reference to mm of the sequence.
    """
    fixed, moving = binned(shrink(reference, 2.0)), binned(shrink(scan, 2.0))
    levels = []
    for spacing_mm, count in ((8.0, 3000), (4.0, 12000), (2.0, 30000)):
        points = _points(fixed, rigid, inside, spacing_mm, count)
        shrunk = shrink(moving, spacing_mm)
        levels.append(Level(points, Scan(smooth(shrunk.data, (1, 1, 1)), shrunk.affine), RIGID, 25))
    middle = levels[0].points.middle
    starts = [np.concatenate((np.array(turn) * 1.2217, np.zeros(9))) for turn in _STARTS]
    # at 8 mm T2 and T1c have so little in common that a false optimum may win; headers of one session hardly lie
    places = [(_HEADER, levels, starts), (_HEADER, levels[1:], starts[:1])]
    if guess is not None:
        places.append((guess, levels[1:], starts[:1]))
    tried = [
        (place, register([_seen_from(place, at) for at in some], first, middle)[0]) for place, some, first in places
    ]
    place, result = max(tried, key=lambda one: one[1].nmi)
    levels = [_seen_from(place, level) for level in levels]
    to_scan = matrix_of(result.pose, middle, middle)
    moved = []
    for axis in range(3):
        for sign in (-1, 1):
            shifted = to_scan.copy()
            shifted[axis, 3] += sign * _SHIFT_MM
            moved.append(similarity(levels[2].points, levels[2].moving, shifted)[0])
    peak = 1 - (sum(moved) / len(moved) - 1) / max(result.nmi - 1, 1e-6)
    plain = climb(levels[1], result.pose, middle, 2.0)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = -239.0
    swap = (rigid @ flip @ inverse(rigid)).astype(np.float32)
    points = levels[1].points
    mirrored = Points(swap[:3, :3] @ points.at + swap[:3, 3:], points.bins, middle)
    other = climb(Level(mirrored, levels[1].moving, RIGID, 25), result.pose, middle, 4.0)
    return SequenceFit(place @ to_scan, result.nmi, peak, result.nmi + other.nmi - plain.nmi)


def _seen_from(place: Matrix, level: Level) -> Level:
    """Return a level whose moving scan is moved back by `place`, so that the pose 0 means `place`."""
    return replace(level, moving=Scan(level.moving.data, inverse(place) @ level.moving.affine))


def refuse_untrusted(fits: Sequence[SequenceFit], path: Path) -> None:
    """Refuse a sequence that none of its fits, each to another sequence, shows to belong there.

    Raises
    ------
    GeometryError
        The sequence does not show the same head, or left and right are swapped in one of the two files; what the last
        fit says.
    """
    if any(fit.peak >= _MIN_PEAK and fit.mirrored <= fit.nmi for fit in fits):
        return
    if fits[-1].peak < _MIN_PEAK:
        raise GeometryError(
            f"{path} does not fit the other sequences (sharpness {fits[-1].peak:.2f}, at least {_MIN_PEAK} is needed): "
            "is it of the same patient and session? Check the name on each file"
        )
    raise GeometryError(
        f"{path} fits better with left and right swapped: its orientation or that of the reference is wrong; "
        "convert the scans again from DICOM"
    )

"""Teachers at work together: probabilities of members and folds blended by region, one network and mirroring a time.

**Memory.** A case is computed as a stream: every mirroring of every member gives logits of the whole case, which go
into running sums and are let go. So the memory does not grow with members, folds or mirrorings. On top of a network and
the activations of two windows it is at most `BYTES_PER_VOXEL` bytes for each voxel of the prepared case (a 144×176×144
crop: 0.28 GB), and `BYTES_PER_VOXEL_UNCERTAINTY` more (0.13 GB) where the variance is asked for. This counts arrays;
what the allocator keeps for reuse comes on top. Up to five networks are kept between cases; larger ensembles load each
network anew for every case, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.sequences import REGIONS

from glialite_distill.member_weights import MemberWeights, Shares
from glialite_distill.members import Member
from glialite_distill.teacher_network import Teacher, load_teacher
from glialite_distill.windows import Window, mirrored_logits
from glialite_distill.workspace import Workspace

__all__ = [
    "BYTES_PER_VOXEL",
    "BYTES_PER_VOXEL_UNCERTAINTY",
    "Blend",
    "blend",
    "teachers_of",
    "to_logits",
]

Probabilities = npt.NDArray[np.float32]
Teachers = Callable[[], Iterator[tuple[Teacher, Shares]]]

BYTES_PER_VOXEL: Final = 76
"""Image and padded image (16 each), logits of a pass and their weights (12 + 4), sums of logits and of probabilities
(12 each), one region in between (4)."""

BYTES_PER_VOXEL_UNCERTAINTY: Final = 36
"""Sums of a member's probabilities and of their squares, sum of the members' variances (12 each)."""

_CERTAIN: Final = 1e-6  # probabilities are kept this far from 0 and 1 when they become logits
_KEPT_NETWORKS: Final = 5


@dataclass(frozen=True, slots=True)
class Blend:
    """What an ensemble says about a case.

    Attributes
    ----------
    probabilities : float32 array (3, z, y, x)
        Regions as in `REGIONS`.
    variance : float32 array (3, z, y, x), optional
        Variance of the probability over the eight mirrorings, averaged over the members with their weights.
    """

    probabilities: Probabilities
    variance: npt.NDArray[np.float32] | None


def blend(
    teachers: Iterable[tuple[Teacher, Shares]],
    image: npt.NDArray[np.float32],
    window: Window,
    device: torch.device,
    *,
    uncertainty: bool = False,
) -> Blend:
    """Return the weighted mean of the teachers' probabilities, and how much mirroring changes them.

    Parameters
    ----------
    teachers : iterable of (Teacher, tuple of float)
        Each with its share in each of `REGIONS`; the shares of a region add up to 1.
    image : float32 array (4, z, y, x)
        A prepared case.
    window : Window
        Step and mirroring; every teacher runs with its own patch.
    device : torch.device
        Where the networks are.
    uncertainty : bool
        Also compute the variance; needs a window that mirrors (else it is 0).
    """
    shape = (len(REGIONS), *image.shape[1:])
    probabilities = np.zeros(shape, np.float32)
    variance = np.zeros(shape, np.float32) if uncertainty else None
    for teacher, shares in teachers:
        own = Window(teacher.patch_for(image), window.step, window.tta)
        found = _of_one(mirrored_logits(teacher.network, image, own, device), shape, uncertainty=uncertainty)
        for i, share in enumerate(shares):
            probabilities[i] += np.float32(share) * found.probabilities[i]
            if variance is not None and found.variance is not None:
                variance[i] += np.float32(share) * found.variance[i]
        del teacher, found  # the next network comes after this one is gone
    return Blend(probabilities, variance)


def _of_one(mirrorings: Iterable[npt.NDArray[np.float32]], shape: tuple[int, ...], *, uncertainty: bool) -> Blend:
    """Return what one teacher says: the sigmoid of its mean logits, and the variance of its probabilities."""
    logits, looks = np.zeros(shape, np.float32), 0
    mean = np.zeros(shape, np.float32) if uncertainty else None
    squares = np.zeros(shape, np.float32) if uncertainty else None
    for found in mirrorings:
        logits += found
        looks += 1
        if mean is not None and squares is not None:
            for i in range(len(REGIONS)):
                p = _sigmoid(found[i])
                mean[i] += p
                squares[i] += np.square(p, out=p)
        del found  # or it would still be there while the next one is computed
    logits /= looks
    for i in range(len(REGIONS)):
        logits[i] = _sigmoid(logits[i])
    if mean is not None and squares is not None:
        mean /= looks
        squares /= looks
        squares -= np.square(mean, out=mean)
        np.maximum(squares, 0, out=squares)
    return Blend(logits, squares)


def _sigmoid(logits: npt.NDArray[np.float32]) -> Probabilities:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


def teachers_of(
    workspace: Workspace, members: Sequence[Member], weights: MemberWeights, device: torch.device
) -> Teachers:
    """Return what yields the networks of the members that weigh anything, with their shares.

    Up to five networks are loaded once and kept; of larger ensembles each is loaded when it is its turn.
    """
    weighted = [(m, s) for m in members if any(s := weights.of_member(m.recipe, _folds(members, m)))]

    clip = workspace.inputs.clip

    def load() -> Iterator[tuple[Teacher, Shares]]:
        for member, shares in weighted:
            yield load_teacher(member.folder, member.fold, workspace.spacing_mm, device, clip=clip), shares

    if len(weighted) > _KEPT_NETWORKS:
        return load
    kept = list(load())
    return lambda: iter(kept)


def _folds(members: Sequence[Member], one: Member) -> int:
    return sum(member.recipe == one.recipe for member in members)


def to_logits(probabilities: Probabilities) -> npt.NDArray[np.float32]:
    """Return ln(p / (1 − p)), p kept within [1e-6, 1 − 1e-6]."""
    logits = np.empty(probabilities.shape, np.float32)
    for i, region in enumerate(probabilities):  # float64 of one region at a time
        p = np.clip(region.astype(np.float64), _CERTAIN, 1 - _CERTAIN)
        logits[i] = np.log(p / (1 - p))
    return logits

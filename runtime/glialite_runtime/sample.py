"""A case at about 4 mm: every n-th voxel, a hundredth of the work, enough to judge a scan by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.volume import Volume

__all__ = ["Sample", "sample_volume"]

_SPACING_MM: Final = 4.0
_MIN_VOXELS: Final = 16
_MAX_VOXELS: Final = 80


@dataclass(frozen=True, slots=True)
class Sample:
    """Every n-th voxel of a case.

    Attributes
    ----------
    sequences : tuple of str
        What the channels are.
    channels : float32 array (channel, z, y, x)
        Voxels in LPS.
    steps : tuple of int
        Voxels of the case from one to the next, along z, y, x.
    spacing_mm : tuple of float
        The same in mm.
    """

    sequences: tuple[str, ...]
    channels: npt.NDArray[np.float32]
    steps: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def brain(self) -> npt.NDArray[np.bool_]:
        """Where any sequence is not 0 (z, y, x)."""
        return np.asarray((self.channels != 0).any(axis=0))

    @property
    def common(self) -> npt.NDArray[np.bool_]:
        """Where no sequence is 0 (z, y, x)."""
        return np.asarray((self.channels != 0).all(axis=0))

    @property
    def voxel_ml(self) -> float:
        """Volume that a voxel of the sample stands for, in mL."""
        return float(np.prod(self.spacing_mm)) / 1000


def sample_volume(volume: Volume) -> Sample:
    """Return the sample of a case: about 4 mm, where the image has 16 such voxels along an axis, and at most 80."""
    steps = []
    for count, spacing_mm in zip(volume.channels[0].shape, volume.spacing_mm, strict=True):
        wanted = min(round(_SPACING_MM / spacing_mm), count // _MIN_VOXELS)
        steps.append(max(1, wanted, -(-count // _MAX_VOXELS)))
    z, y, x = steps
    at = (slice(z // 2, None, z), slice(y // 2, None, y), slice(x // 2, None, x))
    channels = np.stack([channel[at].astype(np.float32) for channel in volume.channels])
    z_mm, y_mm, x_mm = (n * mm for n, mm in zip(steps, volume.spacing_mm, strict=True))
    return Sample(volume.sequences, channels, (z, y, x), (z_mm, y_mm, x_mm))

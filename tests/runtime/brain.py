"""A brain of smooth random tissue with the contrasts of the four sequences, for tests of the gate."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from glialite_runtime.nifti import Image
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import Orientation, Volume

TISSUES = {
    "t1n": (300, 240, 100, 260), "t1c": (310, 250, 110, 900), "t2w": (200, 260, 700, 150), "t2f": (250, 290, 80, 240),
}  # fmt: skip
"""White matter, grey matter, fluid, vessel."""

AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])


def brain() -> dict[str, npt.NDArray[np.int16]]:
    """Return sequence -> image (z, y, x) of 2 mm: an ellipsoid of 900 mL, not alike left and right. Do not write to."""
    return dict(_made())


@cache
def _made() -> dict[str, npt.NDArray[np.int16]]:
    shape = (72, 90, 80)
    rng = np.random.default_rng(0)
    at = np.indices(shape).astype(np.float32)
    centre = np.array(shape, np.float32)[:, None, None, None] / 2
    inside = (((at - centre) / (centre * 0.75)) ** 2).sum(0) < 1
    frequency = sum(np.meshgrid(*(np.fft.fftfreq(n) ** 2 for n in shape), indexing="ij"))
    smooth = np.fft.ifftn(np.fft.fftn(rng.normal(size=shape)) * np.exp(-600 * frequency)).real
    low, high, top = np.quantile(smooth[inside], (0.45, 0.9, 0.997))
    tissue = np.digitize(smooth, (low, high, top))
    return {
        s: np.where(inside, np.asarray(values)[tissue] + rng.normal(0, 8, shape), 0).astype(np.int16)
        for s, values in TISSUES.items()
    }


def volume_of(images: dict[str, npt.NDArray[np.int16]], affine: npt.NDArray[np.float64] = AFFINE) -> Volume:
    """Return a case in memory made of images (z, y, x) in LPS."""
    present = tuple(s for s in SEQUENCES if s in images)
    first = images[present[0]]
    header = nib.Nifti1Image(first.transpose(2, 1, 0), affine).header
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    reference = Image(first.transpose(2, 1, 0), affine, header, Path("P-t1n.nii.gz"))
    x, y, z = (float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(present, tuple(images[s] for s in present), (z, y, x), Orientation.of(affine), reference)


def with_channel(volume: Volume, sequence: str, image: npt.NDArray[np.int16]) -> Volume:
    """Return a case with another image of one sequence."""
    channels = [image if s == sequence else c for s, c in zip(volume.sequences, volume.channels, strict=True)]
    return dataclasses.replace(volume, channels=tuple(channels))

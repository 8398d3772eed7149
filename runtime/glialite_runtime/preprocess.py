"""The one preprocessing: crop to the brain, z-score, resample; nnU-Net's, held to it by a golden test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glialite_runtime.resample import resize, shape_at
from glialite_runtime.sequences import REGIONS, SEQUENCES
from glialite_runtime.volume import Volume

__all__ = ["Geometry", "bounding_box", "normalise", "preprocess", "restore_logits", "uncrop"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How to get from the network's grid back to the whole image; all tuples are in the order z, y, x.

    Attributes
    ----------
    full_shape : tuple of int
        Voxels of the whole image.
    start, stop : tuple of int
        The crop in the whole image.
    network_shape : tuple of int
        Voxels of the crop after resampling.
    """

    full_shape: tuple[int, int, int]
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    network_shape: tuple[int, int, int]

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """The crop as an index of the whole image."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return (start, stop) of the true voxels; the whole image when there are none."""
    start, stop = [], []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        start.append(int(hit[0]) if hit.size else 0)
        stop.append(int(hit[-1]) + 1 if hit.size else mask.shape[axis])
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def _filled(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Fill the holes of a mask: background that no path of face neighbours joins to the edge of the array."""
    import cc3d  # noqa: PLC0415

    background = cc3d.connected_components(np.ascontiguousarray(~mask), connectivity=6)
    outside = np.zeros(int(background.max()) + 1, np.bool_)
    for axis in range(3):
        for face in (0, -1):
            outside[np.unique(np.take(background, face, axis=axis))] = True
    outside[0] = False  # label 0 is the mask itself
    return ~outside[background]


def _mean_and_sd(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return mean and population SD, alike on every processor: whatever is added up are whole numbers.

    Exact for 8- and 16-bit integers. Other values are rounded to at least 17 bits of the largest one first, which over
    the voxels of a brain moves mean and SD by less than float32 can tell.
    """
    count = int(values.size)
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        low = int(values.min())
        counts = np.bincount(values.astype(np.int32) - low)
        at = np.arange(len(counts), dtype=np.int64)
        total, square, unit = int((counts * at).sum()), int((counts * at * at).sum()), 1.0
    else:
        bits = min(20, (62 - count.bit_length()) // 2)  # the sum of squares fits into 64 bits
        reals = values.astype(np.float32)
        exponent = bits - math.frexp(float(np.abs(reals).max()))[1]
        whole = np.rint(np.ldexp(reals, exponent)).astype(np.int64)
        low, total, square, unit = 0, int(whole.sum()), int((whole * whole).sum()), 2.0**-exponent
    sd = (max(count * square - total * total, 0) ** 0.5) / count
    return low + unit * total / count, unit * sd


def normalise(channel: npt.NDArray[Any], mask: npt.NDArray[np.bool_], out: npt.NDArray[np.float32]) -> None:
    """Z-score a channel over a mask into `out`; 0 outside the mask. One pass over memory, plane by plane.

    Parameters
    ----------
    channel : array (z, y, x)
        Stored voxel values, any real type.
    mask : bool array (z, y, x)
        Voxels that count, at least one.
    out : float32 array (z, y, x)
        Written to.

    Notes
    -----
    Source: nnU-Net's ``ZScoreNormalization`` with ``use_mask_for_norm`` (Isensee et al., Nature Methods 18, 2021).
    """
    mean, sd = _mean_and_sd(channel[mask])
    centre, scale = np.float32(mean), np.float32(max(sd, 1e-8))
    plane = np.empty(mask.shape[1:], np.float32)  # stays in the processor's cache
    for stored, inside, wanted in zip(channel, mask, out, strict=True):
        plane[...] = stored
        plane -= centre
        plane /= scale
        np.multiply(plane, inside, out=wanted)


def preprocess(
    volume: Volume, spacing_mm: tuple[float, float, float] | None = None, divisor: int = 1
) -> tuple[npt.NDArray[np.float32], Geometry]:
    """Turn a case into the network's input.

    Crops to the box of the hole-filled union of non-zero voxels over the sequences, z-scores every sequence over that
    mask, and resamples (cubic) when the voxel size differs from the model's. A sequence that is not there is all zeros.

    Parameters
    ----------
    volume : Volume
        The case; at least one voxel of it is not 0 (the intake gate sees to that).
    spacing_mm : tuple of float, optional
        Voxel size (z, y, x) of the model; None keeps the image's own.
    divisor : int
        Every edge is filled up with zeros to a multiple of it; the network's own need, so that it copies nothing.

    Returns
    -------
    float32 array (4, z, y, x)
        Channels as in `SEQUENCES`; in memory z comes first, as the lowered network reads it.
    Geometry
        How to undo it.
    """
    nonzero = volume.channels[0] != 0
    for channel in volume.channels[1:]:
        nonzero |= channel != 0
    start, stop = bounding_box(nonzero)
    full = nonzero.shape
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    mask = _filled(nonzero[box])
    del nonzero
    shape = mask.shape if spacing_mm is None else shape_at(mask.shape, volume.spacing_mm, spacing_mm)
    z, y, x = (-(-n // divisor) * divisor for n in shape)
    image = np.zeros((z, len(SEQUENCES), y, x), np.float32).transpose(1, 0, 2, 3)
    for sequence, channel in zip(volume.sequences, volume.channels, strict=True):
        target = image[SEQUENCES.index(sequence), : shape[0], : shape[1], : shape[2]]
        if shape == mask.shape:
            normalise(channel[box], mask, target)
        else:
            scratch = np.empty(mask.shape, np.float32)
            normalise(channel[box], mask, scratch)
            target[...] = resize(scratch, shape, order=3)
    return image, Geometry((full[0], full[1], full[2]), start, stop, (shape[0], shape[1], shape[2]))


def restore_logits(logits: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Bring logits onto the crop's own voxels, linearly, as nnU-Net does.

    Parameters
    ----------
    logits : float32 array (3, z, y, x)
        As the network gave them; what lies beyond `geometry.network_shape` is padding.
    geometry : Geometry
        Of `preprocess`.

    Returns
    -------
    float32 array (3, z, y, x)
        On the voxels of the crop.
    """
    z, y, x = geometry.network_shape
    logits = logits[:, :z, :y, :x]
    shape = tuple(b - a for a, b in zip(geometry.start, geometry.stop, strict=True))
    if geometry.network_shape == shape:
        return logits
    return np.stack([resize(logits[i], (shape[0], shape[1], shape[2]), order=1) for i in range(len(REGIONS))])


def uncrop(labels: npt.NDArray[np.uint8], geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Put labels of the crop (z, y, x) into an otherwise empty map of the whole image."""
    full = np.zeros(geometry.full_shape, np.uint8)
    full[geometry.crop] = labels
    return full

"""Pictures of slices with the outlines on them, as PNG, from numpy alone."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.metrics import region_masks
from glialite_runtime.resample import resize
from glialite_runtime.sequences import REGIONS

__all__ = ["COLOURS", "PLANES", "Plane", "draw", "largest_slices"]

COLOURS: Final = {"WT": (64, 224, 96), "TC": (255, 176, 32), "ET": (255, 64, 96)}
"""Outline colour (red, green, blue) by region; the outlines also differ in dash, for print in black and white."""

_DASH_PX: Final = {"WT": (1, 0), "TC": (8, 4), "ET": (3, 3)}  # drawn, left out
_GREYS: Final = 256 - len(COLOURS)  # a pixel is a byte: a grey, or one of the outline colours
_PIXELS_PER_MM: Final = 2.5
_MARGIN_MM: Final = 6.0

# 5 × 7 capital letters, a row a number: bit 4 is the left column.
_LETTERS: Final = {
    "R": (30, 17, 17, 30, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "I": (14, 4, 4, 4, 4, 4, 14),
}


@dataclass(frozen=True, slots=True)
class Plane:
    """A way to cut the volume.

    Attributes
    ----------
    name : str
        "axial", "coronal" or "sagittal".
    axis : int
        Axis of (z, y, x) that is fixed.
    upside_down : bool
        Rows run against the array, so that the head is up.
    edges : str
        Letters burned in: left edge, right edge. Radiological convention: the patient's right is on the left.
    """

    name: str
    axis: int
    upside_down: bool
    edges: str


PLANES: Final = (Plane("axial", 0, False, "RL"), Plane("coronal", 1, True, "RL"), Plane("sagittal", 2, True, "AP"))


def largest_slices(labels: npt.NDArray[np.uint8], fallback: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return the slice (z, y, x) with most tumour along each axis; where there is none, with most of `fallback`."""
    mask = labels > 0 if labels.any() else fallback
    z, y, x = (int(np.argmax(mask.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3))
    return z, y, x


def _bigger(plane: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    return resize(np.ascontiguousarray(plane, np.float32)[None], (1, *shape), order=1)[0]


def _outline(mask: npt.NDArray[np.bool_], dash: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the inner edge of a mask, two pixels wide, dashed along its rows and columns."""
    inner = mask.copy()
    for _ in range(2):
        shrunk = inner.copy()
        shrunk[1:] &= inner[:-1]
        shrunk[:-1] &= inner[1:]
        shrunk[:, 1:] &= inner[:, :-1]
        shrunk[:, :-1] &= inner[:, 1:]
        inner = shrunk
    drawn, skipped = dash
    row, column = np.indices(mask.shape)
    return mask & ~inner & (((row + column) % (drawn + skipped)) < drawn)


def _burn(picture: npt.NDArray[np.uint8], letter: str, *, right: bool) -> None:
    rows = np.array(_LETTERS[letter], np.uint8)
    glyph = (rows[:, None] >> np.arange(4, -1, -1)) & 1
    glyph = np.kron(glyph, np.ones((3, 3), np.uint8)).astype(bool)
    height, width = glyph.shape
    top = (picture.shape[0] - height) // 2
    left = picture.shape[1] - width - 4 if right else 4
    if top < 0 or left < 0:
        return
    picture[top : top + height, left : left + width][glyph] = _GREYS - 1


def draw(
    channel: npt.NDArray[Any],
    labels: npt.NDArray[np.uint8],
    plane: Plane,
    at: int,
    spacing_mm: tuple[float, float, float],
) -> bytes:
    """Return one slice with the outlines of the regions as a PNG.

    Parameters
    ----------
    channel : array (z, y, x)
        One sequence of the case in LPS.
    labels : uint8 array (z, y, x)
        Label map on the same grid.
    plane : Plane
        How to cut.
    at : int
        Which slice along `plane.axis`.
    spacing_mm : tuple of float
        Voxel size along z, y, x.

    Returns
    -------
    bytes
        A PNG of 2.5 pixels a millimetre, grey with coloured outlines, cropped to the brain with a margin.
    """
    image = np.take(channel, at, axis=plane.axis).astype(np.float32)
    outline = np.take(labels, at, axis=plane.axis)
    row_mm, column_mm = (s for axis, s in enumerate(spacing_mm) if axis != plane.axis)
    box = _crop_box(image != 0, (row_mm, column_mm))
    image, outline = image[box], outline[box]
    if plane.upside_down:
        image, outline = image[::-1], outline[::-1]
    values = image[image != 0]
    low, high = np.percentile(values, (1, 99.5)) if values.size else (0.0, 1.0)
    shape = (round(image.shape[0] * row_mm * _PIXELS_PER_MM), round(image.shape[1] * column_mm * _PIXELS_PER_MM))
    grey = np.clip((_bigger(image, shape) - low) / max(high - low, 1e-6), 0, 1) * (_GREYS - 1)
    grey *= _bigger(image != 0, shape) > 0.5
    picture = grey.astype(np.uint8)
    for colour, (region, mask) in enumerate(zip(REGIONS, region_masks(outline[None])[:, 0], strict=True), _GREYS):
        if mask.any():
            picture[_outline(_bigger(mask, shape) > 0.5, _DASH_PX[region])] = colour
    _burn(picture, plane.edges[0], right=False)
    _burn(picture, plane.edges[1], right=True)
    return _png(picture)


def _crop_box(mask: npt.NDArray[np.bool_], spacing_mm: tuple[float, float]) -> tuple[slice, slice]:
    """Return rows and columns of the mask with a margin; everything when it is empty."""
    found = []
    for axis, mm in enumerate(spacing_mm):
        hit = np.flatnonzero(mask.any(axis=1 - axis))
        margin = round(_MARGIN_MM / mm)
        size = mask.shape[axis]
        found.append(slice(max(hit[0] - margin, 0), min(hit[-1] + 1 + margin, size)) if hit.size else slice(0, size))
    return found[0], found[1]


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Encode an array (row, column) as PNG: values under `_GREYS` are greys, then come the colours of `REGIONS`."""
    height, width = picture.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # a zero before each row: no filter
    rows[:, 1:] = picture
    greys = np.linspace(0, 255, _GREYS).round().astype(np.uint8).repeat(3).tobytes()
    palette = greys + b"".join(bytes(COLOURS[region]) for region in REGIONS)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)) + chunk(b"PLTE", palette)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")

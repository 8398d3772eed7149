"""Pictures of slices with the outlines on them, as PNG, from numpy alone."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.metrics import region_masks
from glialite_runtime.sequences import REGIONS

__all__ = ["COLOURS", "PLANES", "Plane", "draw", "largest_slices"]

COLOURS: Final = {"WT": (64, 224, 96), "TC": (255, 176, 32), "ET": (255, 64, 96)}
"""Outline colour (red, green, blue) by region; the outlines also differ in dash, for print in black and white."""

_DASH_PX: Final = {"WT": (1, 0), "TC": (14, 7), "ET": (5, 5)}  # drawn, left out
_LINE_PX: Final = 2
_HALO_PX: Final = 1  # black on both sides of a line, which shows it on bright tissue when printed without colour
_GREYS: Final = 256 - len(COLOURS)  # a pixel is a byte: a grey, or one of the outline colours
_PIXELS_PER_MM: Final = 2.5
_MARGIN_MM: Final = 6.0

_Pixels = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

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


def largest_slices(labels: npt.NDArray[np.uint8], fallback: npt.NDArray[Any]) -> tuple[int, int, int]:
    """Return the slice (z, y, x) with most tumour along each axis; without tumour, with most of `fallback` not 0."""
    mask = labels if labels.any() else fallback
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    first = int(planes[0]) if planes.size else 0
    mask = mask[first : int(planes[-1]) + 1] if planes.size else mask  # most planes are empty, and counting is slow
    z, y, x = (
        int(np.argmax(np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)
    )
    return z + first, y, x


def _bigger(plane: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return a plane (row, column) interpolated linearly; value by value, so alike on every processor."""
    for axis, size in enumerate(shape):
        have = plane.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * have / size - 0.5, 0, have - 1)
        low = at.astype(np.intp)
        part = (at - low).astype(np.float32)
        part = part[:, None] if axis == 0 else part
        below = plane.take(low, axis)
        plane = below + (plane.take(np.minimum(low + 1, have - 1), axis) - below) * part
    return plane


def _grown(mask: npt.NDArray[np.bool_], pixels: int) -> npt.NDArray[np.bool_]:
    """Return a mask grown by so many pixels along rows and columns."""
    for _ in range(pixels):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _dashed(line: npt.NDArray[np.bool_], field: npt.NDArray[np.float32], dash: tuple[int, int]) -> _Pixels:
    """Return rows and columns of those pixels of a line that its dashes cover.

    Stripes along one diagonal cut a line into dashes unless it runs along them; so each pixel takes the diagonal that
    crosses its line, which the slope of `field` tells.
    """
    rows, columns = np.nonzero(line)
    drawn, skipped = dash
    if not skipped:
        return rows, columns
    last_row, last_column = (n - 1 for n in field.shape)
    down = field[np.minimum(rows + 2, last_row), columns] - field[np.maximum(rows - 2, 0), columns]
    right = field[rows, np.minimum(columns + 2, last_column)] - field[rows, np.maximum(columns - 2, 0)]
    stripe = np.where(down * right > 0, rows - columns, rows + columns)
    kept = stripe % (drawn + skipped) < drawn
    return rows[kept], columns[kept]


def _draw_outlines(picture: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> None:
    """Draw the outlines of the regions of a label map (row, column) into a picture of any size, over each other."""
    for colour, (region, mask) in enumerate(zip(REGIONS, region_masks(labels[None])[:, 0], strict=True), _GREYS):
        if not mask.any():
            continue
        field = _bigger(mask.astype(np.float32), picture.shape)
        inside = field > 0.5
        line = inside & _grown(~inside, _LINE_PX)
        drawn = _dashed(line, field, _DASH_PX[region])
        picture[_grown(line, _HALO_PX)] = 0
        picture[drawn] = colour


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
    pixels_per_mm: float = _PIXELS_PER_MM,
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
    pixels_per_mm : float, optional
        Of the picture; lines and letters keep their width in pixels.

    Returns
    -------
    bytes
        A PNG, grey with coloured outlines, cropped to the brain with a margin.
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
    shape = (round(image.shape[0] * row_mm * pixels_per_mm), round(image.shape[1] * column_mm * pixels_per_mm))
    grey = np.clip((_bigger(image, shape) - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1) * (_GREYS - 1)
    grey *= _bigger((image != 0).astype(np.float32), shape) > 0.5
    picture = grey.astype(np.uint8)
    _draw_outlines(picture, outline)
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
    from isal import isal_zlib  # noqa: PLC0415 - a fifth of zlib's time

    height, width = picture.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # a zero before each row: no filter
    rows[:, 1:] = picture
    greys = np.linspace(0, 255, _GREYS).round().astype(np.uint8).repeat(3).tobytes()
    palette = greys + b"".join(bytes(COLOURS[region]) for region in REGIONS)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)) + chunk(b"PLTE", palette)
    body = chunk(b"IDAT", isal_zlib.compress(rows.tobytes(), 3))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")

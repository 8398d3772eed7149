"""Pictures: the right way round, outlines where the labels are."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from glialite_runtime.picture import COLOURS, PLANES, draw, largest_slices


def pixels(png: bytes) -> np.ndarray:
    """Decode the PNGs that we write to (row, column, RGB): a palette, no filter, one IDAT."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    content = {}
    for kind in (b"PLTE", b"IDAT"):
        at = png.index(kind)
        (length,) = struct.unpack(">I", png[at - 4 : at])
        content[kind] = png[at + 4 : at + 4 + length]
    rows = np.frombuffer(zlib.decompress(content[b"IDAT"]), np.uint8).reshape(height, 1 + width)
    assert not rows[:, 0].any()
    return np.frombuffer(content[b"PLTE"], np.uint8).reshape(256, 3)[rows[:, 1:]]


def head() -> tuple[np.ndarray, np.ndarray]:
    """Return an ellipsoid and a lesion in it that lies left (high x), front (low y), top (high z) in LPS."""
    at = np.indices((40, 60, 50))
    inside = sum(((a - n / 2) / (n / 2.5)) ** 2 for a, n in zip(at, (40, 60, 50), strict=True)) < 1
    image = np.where(inside, 100 + at[0] % 7, 0).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[24:32, 14:24, 28:38] = 2
    return image, labels


def outline_centre(plane_index: int) -> tuple[float, float]:
    """Return where the outline lies in the picture: fraction of the height, of the width."""
    image, labels = head()
    slices = largest_slices(labels, image > 0)
    plane = PLANES[plane_index]
    picture = pixels(draw(image, labels, plane, slices[plane.axis], (1.0, 1.0, 1.0)))
    rows, columns = np.nonzero((picture == COLOURS["WT"]).all(axis=2))
    assert rows.size > 50
    return rows.mean() / picture.shape[0], columns.mean() / picture.shape[1]


def test_axial_shows_the_patients_left_on_the_right_and_front_up() -> None:
    """Radiological convention."""
    row, column = outline_centre(0)
    assert row < 0.45
    assert column > 0.55


def test_coronal_shows_top_up_and_left_on_the_right() -> None:
    """As a radiologist looks at it."""
    row, column = outline_centre(1)
    assert row < 0.45
    assert column > 0.55


def test_sagittal_shows_top_up_and_front_on_the_left() -> None:
    """Nose to the left."""
    row, column = outline_centre(2)
    assert row < 0.45
    assert column < 0.45


def test_anisotropic_voxels_are_drawn_in_proportion() -> None:
    """3 mm slices are not squashed: the coronal picture is as high as the head."""
    image, labels = head()
    flat = pixels(draw(image, labels, PLANES[1], 30, (1.0, 1.0, 1.0)))
    tall = pixels(draw(image, labels, PLANES[1], 30, (3.0, 1.0, 1.0)))
    assert tall.shape[0] > 2 * flat.shape[0]


def test_lines_keep_their_width_at_any_size() -> None:
    """Half the pixels a millimetre: half the picture, and an outline half as long, not half as wide."""
    image, labels = head()
    large, small = (pixels(draw(image, labels, PLANES[0], 28, (1.0, 1.0, 1.0), scale)) for scale in (2.0, 1.0))
    np.testing.assert_allclose(np.array(large.shape[:2]) / small.shape[:2], 2)
    lengths = [int((picture == COLOURS["WT"]).all(axis=2).sum()) for picture in (large, small)]
    assert lengths[0] / lengths[1] < 2.6


def test_without_tumour_the_fullest_slices_are_shown() -> None:
    """The middle of the brain, not slice 0."""
    image, labels = head()
    np.testing.assert_allclose(largest_slices(labels * 0, image > 0), (20, 30, 25), atol=3)


def test_an_empty_slice_is_drawn_black() -> None:
    """Nothing in it is no reason to fail."""
    assert pixels(draw(np.zeros((5, 20, 20)), np.zeros((5, 20, 20), np.uint8), PLANES[0], 0, (1.0, 1.0, 1.0))).size

"""Resampling: the same numbers as the library that nnU-Net uses, without it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glialite_runtime import resample
from glialite_runtime.resample import resize, shape_at
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPES = st.tuples(st.integers(2, 24), st.integers(2, 24), st.integers(2, 24))


@settings(max_examples=40, deadline=None)
@given(before=SHAPES, after=SHAPES, order=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_resize_equals_skimage(
    before: tuple[int, int, int], after: tuple[int, int, int], order: int, seed: int
) -> None:
    """Any size to any size gives what skimage's resize gives with nnU-Net's arguments."""
    from skimage.transform import resize as reference

    image = np.random.default_rng(seed).normal(size=before).astype(np.float32)
    expected = reference(image, after, order, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resize(image, after, order), expected, atol=2e-5)


def test_a_fitting_image_is_not_touched() -> None:
    """The 1 mm scan of a 1 mm model costs nothing."""
    image = np.zeros((3, 4, 5), np.float32)
    assert resize(image, (3, 4, 5), 3) is image


def test_other_orders_are_refused() -> None:
    """Nearest-neighbour would be a silent surprise."""
    with pytest.raises(ValueError, match="order 0"):
        resize(np.zeros((2, 2, 2), np.float32), (4, 4, 4), 0)


@pytest.mark.parametrize(
    ("spacing", "wanted", "shape"),
    [
        ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (78, 120, 120)),
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), (775, 240, 240)),
        ((1.004, 1.0, 0.998), (1.0, 1.0, 1.0), (155, 240, 240)),
    ],
)
def test_shape_follows_the_spacing(
    spacing: tuple[float, ...], wanted: tuple[float, ...], shape: tuple[int, int, int]
) -> None:
    """Half the resolution is half the voxels; a header's rounding of the spacing changes nothing."""
    assert shape_at((155, 240, 240), spacing, wanted) == shape


@pytest.mark.parametrize(("order", "scale"), [(3, 4.0), (1, 8.0), (3, 1e-6), (3, 1e30)])
def test_no_sum_is_rounded_so_that_its_order_does_not_matter(order: int, scale: float) -> None:
    """Integer arithmetic, which has no order, gives the same bits: so every processor and number of threads does."""
    rng = np.random.default_rng(2)
    image = (scale * rng.uniform(-1, 1, (19, 23, 17))).astype(np.float32)
    shape = (31, 12, 26)
    exponent = resample._IMAGE_BITS - math.frexp(float(np.abs(image).max()))[1]
    whole = np.rint(np.ldexp(image.astype(np.float64), exponent)).astype(np.int64)
    for axis in (2, 1, 0):
        matrix = resample._matrix(image.shape[axis], shape[axis], order).astype(np.int64)
        product = np.moveaxis(np.tensordot(matrix, whole, (1, axis)), 0, axis)
        assert np.abs(matrix).sum(axis=1).max() * int(np.abs(whole).max()) < 2**53
        whole = np.rint(product * 2.0**-resample._MATRIX_BITS).astype(np.int64)
    expected = np.ldexp(whole.astype(np.float64), -exponent).astype(np.float32)
    if order == 3:
        expected = np.clip(expected, image.min(), image.max())
    np.testing.assert_array_equal(resample.resize(image, shape, order), expected)


def test_an_empty_image_stays_empty() -> None:
    """All zeros have no largest value to scale by."""
    assert not resample.resize(np.zeros((5, 6, 7), np.float32), (3, 9, 7), 3).any()

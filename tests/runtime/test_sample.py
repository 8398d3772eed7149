"""The sample of a case: about 4 mm, never too few voxels, never too many."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_runtime.sample import sample_volume

from tests.runtime.brain import brain, volume_of


def test_a_sample_holds_every_nth_voxel_of_every_sequence() -> None:
    """2 mm become 4 mm; values are those of the image."""
    images = brain()
    sample = sample_volume(volume_of(images))
    assert sample.steps == (2, 2, 2)
    assert sample.spacing_mm == (4, 4, 4)
    np.testing.assert_array_equal(sample.channels[1], images["t1c"][1::2, 1::2, 1::2])


def test_its_brain_has_the_volume_of_the_whole() -> None:
    """Every 8th voxel, and still right to 1 %."""
    images = brain()
    sample = sample_volume(volume_of(images))
    whole_ml = float(np.count_nonzero(images["t1n"])) * 8 / 1000
    assert np.count_nonzero(sample.brain) * sample.voxel_ml == pytest.approx(whole_ml, rel=0.01)


def test_few_slices_are_all_kept_and_many_thinned() -> None:
    """20 thick slices stay 20; 300 voxels become at most 80."""
    image = np.ones((20, 300, 40), np.int16)
    sample = sample_volume(volume_of({"t1n": image}, np.diag([-0.5, -1.0, 1.0, 1.0])))
    assert sample.channels.shape[1] == 20
    assert sample.channels.shape[2] <= 80
    assert sample.channels.shape[3] >= 16

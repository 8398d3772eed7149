"""The variance map on disk: what a reader gets back, and in whose axes."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from glialite_distill.predict_options import PredictOptions
from glialite_distill.uncertainty import STEP, uncertainty_files, write_picture, write_variance
from glialite_runtime import nifti
from glialite_runtime.cases import find_case
from glialite_runtime.errors import ConfigError
from glialite_runtime.volume import Volume, load_volume

from tests.distill.conftest import write_case


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """Return a case that is stored in RAS."""
    return load_volume(find_case(write_case(tmp_path / "P1", 5, axes="RAS")))


def test_variances_come_back_within_half_a_step(volume: Volume, tmp_path: Path) -> None:
    """Through nibabel and through our own reader, in the axes of the input; 0 and the largest are exact enough."""
    variance = np.random.default_rng(0).uniform(0, 0.25, volume.channels[0].shape).astype(np.float32)
    variance[0, 0, :3] = (0, 0.25, 1e-7)
    write_variance(tmp_path / "v.nii.gz", variance, volume)
    image = nibabel.load(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(image.affine, volume.reference.affine)
    for found in (np.asarray(image.dataobj), nifti.read(tmp_path / "v.nii.gz").data):
        back = volume.orientation.to_lps(found)
        assert np.abs(back - variance).max() <= STEP
        assert back[0, 0, 0] == back[0, 0, 2] == 0


def test_a_step_is_a_quarter_in_sixteen_bits() -> None:
    """The largest variance of a probability just fits."""
    assert STEP * 65536 == 0.25


def test_there_is_a_file_a_region() -> None:
    """Named after the case and the region."""
    names = [path.name for path in uncertainty_files(Path("out"), "P1")]
    assert names == ["P1-uncertainty-WT.nii.gz", "P1-uncertainty-TC.nii.gz", "P1-uncertainty-ET.nii.gz"]


def test_the_picture_is_bright_where_the_mirrorings_differ(volume: Volume, tmp_path: Path) -> None:
    """Two maps that differ in one place give two pictures; a case without any variance and tumour still has one."""
    shape = volume.channels[0].shape
    variance, labels = np.zeros((3, *shape), np.float32), np.zeros(shape, np.uint8)
    pictures = []
    for value in (0.0, 0.1):
        variance[2, :, 15:20, 15:20] = value
        write_picture(tmp_path / "p.png", variance, labels, volume)
        pictures.append((tmp_path / "p.png").read_bytes())
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]


def test_an_uncertainty_without_mirrorings_is_refused() -> None:
    """It would be zero everywhere and look like certainty."""
    with pytest.raises(ConfigError, match="--tta"):
        PredictOptions(Path("in"), Path("out"), uncertainty=True)

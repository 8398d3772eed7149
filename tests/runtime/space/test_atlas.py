"""What an atlas file must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from glialite_runtime.errors import GeometryError, InputError, IntensityError
from glialite_runtime.space import atlas as atlas_module
from glialite_runtime.space.atlas import grow, read_atlas, shipped_atlas
from glialite_runtime.space.transform import brats_affine

from tests.conftest import save
from tests.runtime.space.conftest import ToySession


def test_the_atlas_is_read_with_its_middle(toy_session: ToySession) -> None:
    """The brain's centre comes out in RAS+ mm."""
    np.testing.assert_allclose(read_atlas(toy_session.atlas).middle, [-119.5, 117, 74], atol=1)


def test_the_shipped_atlas_is_one(toy_session: ToySession) -> None:
    """It passes its own checks, lies where BraTS has the brain, and its notice lies beside it."""
    atlas = shipped_atlas()
    np.testing.assert_allclose(atlas.middle, [-119.5, 117, 74], atol=8)
    notices = list(Path(atlas_module.__file__).parent.glob("atlas-*LICENCE.txt"))
    assert "McConnell Brain Imaging Centre" in notices[0].read_text()


def test_an_atlas_elsewhere_is_refused(tmp_path: Path) -> None:
    """A brain that is not in BraTS space would put every case in the wrong place."""
    moved = brats_affine(2.0)
    moved[1, 3] += 80
    path = save(tmp_path / "a.nii.gz", _ellipsoid(), moved)
    with pytest.raises(GeometryError, match="not in BraTS space"):
        read_atlas(path)


def _ellipsoid() -> np.ndarray:
    at = (np.indices((120, 120, 78)) * 2.0 - np.array([119, 122, 74])[:, None, None, None]) / np.array([66, 85, 64])[
        :, None, None, None
    ]
    return np.where((at**2).sum(0) < 1, 100, 0).astype(np.uint8)


@pytest.mark.parametrize(("spacing", "kind"), [(6.0, GeometryError), (2.0, IntensityError)])
def test_coarse_or_empty_files_are_refused(tmp_path: Path, spacing: float, kind: type[InputError]) -> None:
    """Voxels of 6 mm and an image without a brain are no atlas."""
    path = save(tmp_path / "a.nii.gz", np.zeros((40, 40, 26), np.uint8), brats_affine(spacing))
    with pytest.raises(kind):
        read_atlas(path)


def test_growing_by_one_voxel() -> None:
    """Towards faces a point becomes a cross of 7, with corners a cube of 27."""
    point = np.zeros((5, 5, 5), np.bool_)
    point[2, 2, 2] = True
    assert np.count_nonzero(grow(point)) == 7
    assert np.count_nonzero(grow(point, corners=True)) == 27

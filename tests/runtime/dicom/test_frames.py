"""A voxel keeps its place in the patient from the DICOM file to NIfTI and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_runtime.dicom.conversion import convert_series
from glialite_runtime.dicom.frames import source_datasets, to_frames
from glialite_runtime.dicom.series import scan_folder
from glialite_runtime.errors import GeometryError, InputError

from tests.runtime.dicom.conftest import AXIAL, CORONAL, SAGITTAL, T1N, Written, images, pixels, tilted, write

pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")

TALL = (40, 40, 30)
WAYS = {
    "axial": T1N,
    "axial, feet last": replace(T1N, orientation=(AXIAL[0], (0.0, -1.0, 0.0)), origin=(-110.0, 90.0, 60.0)),
    "axial, seen from above": replace(T1N, orientation=((-1.0, 0.0, 0.0), AXIAL[1]), origin=(100.0, -80.0, 40.0)),
    "oblong pixels": replace(T1N, pixel_mm=(3.0, 4.5)),
    "sagittal": replace(T1N, orientation=SAGITTAL, shape=TALL),
    "coronal": replace(T1N, orientation=CORONAL, shape=TALL),
    "tilted 17 degrees, 6.5 mm slices": replace(T1N, orientation=tilted(17), spacing_mm=6.5),
    "tilted 40 degrees": replace(T1N, orientation=tilted(40)),
    "sagittal, tilted": replace(T1N, orientation=tilted(12, SAGITTAL), shape=TALL),
    "coronal, tilted": replace(T1N, orientation=tilted(-23, CORONAL), shape=TALL),
    "3-D acquisition": replace(T1N, orientation=SAGITTAL, shape=TALL, tags={"MRAcquisitionType": "3D"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_voxel_keeps_its_place(tmp_path: Path, way: str) -> None:
    """Known pixels lie, in mm, where DICOM's definition says; mapped back, every pixel is on its slice, row, column."""
    series = WAYS[way]
    data, (slices, rows, columns) = pixels(series), series.shape
    marks = [(2, 5, 7), (slices - 3, rows - 4, 9), (slices // 2, 11, columns - 2)]
    for value, mark in enumerate(marks, 1000):
        data[mark] = value
    (found,) = scan_folder(write(tmp_path / "dicom", series, images(series, data))).series
    image = nib.load(convert_series(found, tmp_path / "out"))
    voxels = np.asarray(image.dataobj)
    for value, mark in enumerate(marks, 1000):
        ras = image.affine @ [*np.argwhere(voxels == value)[0], 1]
        np.testing.assert_allclose(ras[:3] * [-1, -1, 1], series.place(*mark), atol=0.01)
    back = to_frames(voxels, image.affine, found)
    starts = np.array([series.place(s, 0, 0) for s in range(slices)])
    for n, frame in enumerate(found.frames):
        nearest = int(np.argmin(np.linalg.norm(starts - frame.plane.position_mm, axis=1)))
        np.testing.assert_array_equal(back[n], data[nearest])


def test_mapping_back_does_not_need_the_converted_axes(tmp_path: Path) -> None:
    """The same voxels in other axes (RAS+) come back to the same frames."""
    (found,) = scan_folder(write(tmp_path / "dicom", T1N)).series
    image = nib.as_closest_canonical(nib.load(convert_series(found, tmp_path / "out")))
    np.testing.assert_array_equal(to_frames(np.asarray(image.dataobj), image.affine, found), pixels(T1N))


def affine_of(series: Written) -> np.ndarray:
    """Return index (column, row, slice) to RAS+ mm, computed from the definition alone."""
    affine = np.eye(4)
    origin = series.place(0, 0, 0)
    for axis, index in enumerate([(0, 0, 1), (0, 1, 0), (1, 0, 0)]):
        affine[:3, axis] = (series.place(*index) - origin) * [-1, -1, 1]
    affine[:3, 3] = origin * [-1, -1, 1]
    return affine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, d: (a, d[:-1]), "voxels"),
        (lambda a, d: (a + np.outer([1, 0, 0, 0], [0, 0, 0, 1.0]), d), "1.0 mm away"),
        (lambda a, d: (a * [1, 1, 1.05, 1], d), "mm away"),
        (lambda a, d: (a * [-1, 1, 1, 1], d), "mm away"),
        (lambda a, d: (a[:, [0, 2, 1, 3]] * [0.5, 1, 1, 1], d), "axes"),
    ],
    ids=["a column less", "shifted", "stretched", "mirrored", "resampled"],
)
def test_an_image_of_another_grid_is_refused(tmp_path: Path, change, words: str) -> None:
    """A shift of a millimetre, a stretch of 5 %, a mirror image, a resampled one: none is taken for the source."""
    (found,) = scan_folder(write(tmp_path, T1N)).series
    data = pixels(T1N).transpose(2, 1, 0)
    np.testing.assert_array_equal(to_frames(data, affine_of(T1N), found), pixels(T1N))
    affine, changed = change(affine_of(T1N), data)
    with pytest.raises(GeometryError, match=words):
        to_frames(changed, affine, found)


def test_sources_come_in_the_order_of_the_frames(tmp_path: Path) -> None:
    """The data sets for a DICOM SEG follow the frames, without pixels."""
    (found,) = scan_folder(write(tmp_path, T1N)).series
    datasets = source_datasets(found)
    assert [d.SOPInstanceUID for d in datasets] == [f.sop_instance_uid for f in found.frames]
    assert all("PixelData" not in d for d in datasets)
    assert [float(d.ImagePositionPatient[2]) for d in datasets] == [-60 + 5 * n for n in range(24)]


def test_a_source_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    """A file that holds another image than when the study was read is no source."""
    (found,) = scan_folder(write(tmp_path, T1N)).series
    found.frames[3].path.write_bytes(found.frames[4].path.read_bytes())
    with pytest.raises(InputError, match="exchanged"):
        source_datasets(found)

"""From the voxels of a converted series back to its own frames, rows and columns, and to its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.dicom.series import Series
from glialite_runtime.errors import GeometryError, InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["frame_axes", "source_datasets", "to_frames"]

_LPS_TO_RAS: Final = np.array([-1.0, -1.0, 1.0])
_STRAY_MM: Final = 0.3


def to_frames(data: npt.NDArray[Any], affine: npt.NDArray[np.float64], series: Series) -> npt.NDArray[Any]:
    """Return a label map as the frames of the series that it belongs to.

    Parameters
    ----------
    data : array (i, j, k)
        In the axes of the converted NIfTI file, or in any others that name the same voxels.
    affine : float64 array (4, 4)
        Voxel index to RAS+ mm.
    series : Series
        The source.

    Returns
    -------
    array (frame, row, column)
        A view; ``[n]`` lies on ``series.frames[n]``, pixel by pixel.

    Raises
    ------
    GeometryError
        The voxels are not the pixels of the series (see `frame_axes`).
    """
    order, flipped = frame_axes(data.shape, affine, series)
    return data.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]


def frame_axes(
    shape: tuple[int, ...], affine: npt.NDArray[np.float64], series: Series
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return which voxel axis runs along frames, rows and columns of a series, and whether it runs backwards.

    Raises
    ------
    GeometryError
        Other extents, or a pixel whose place in the patient is more than 0.3 mm from that of its voxel.
    """
    grid, frames = series.grid, series.frames
    if grid is None or len(frames) < 2:
        raise GeometryError(f"series {series.number} has no volume that a label map could lie on")
    plane = frames[0].plane
    extent = np.array([len(frames), grid.rows, grid.columns])
    to_voxel = np.linalg.inv(affine)
    places = np.array([frame.plane.position_mm for frame in frames]) * _LPS_TO_RAS
    origins = places @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    along = np.array([plane.along_column, plane.along_row]) * [[grid.row_mm], [grid.column_mm]] * _LPS_TO_RAS
    steps = np.vstack([(origins[-1] - origins[0]) / (len(frames) - 1), along @ to_voxel[:3, :3].T])
    whole = np.rint(steps)
    if not (np.abs(whole).sum(0) == 1).all() or not (np.abs(whole).sum(1) == 1).all():
        raise GeometryError(f"the image's axes are not those of series {series.number}; it was resampled")
    order = np.abs(whole).argmax(1)
    flipped = whole.sum(1) < 0
    if tuple(np.array(shape)[order]) != tuple(extent):
        frames_rows_columns = " × ".join(map(str, extent))
        raise GeometryError(f"the image has {shape} voxels, series {series.number} {frames_rows_columns} pixels")
    start = np.zeros(3)
    start[order] = np.where(flipped, extent - 1, 0)
    stray = 0.0
    for row in (0, grid.rows - 1):
        for column in (0, grid.columns - 1):
            exact = origins + row * steps[1] + column * steps[2]
            voxel = start + np.arange(len(frames))[:, None] * whole[0] + row * whole[1] + column * whole[2]
            stray = max(stray, float(np.linalg.norm((exact - voxel) @ affine[:3, :3].T, axis=1).max()))
    if stray > _STRAY_MM:
        raise GeometryError(f"the image lies up to {stray:.1f} mm away from series {series.number}, its DICOM source")
    a, b, c = (int(axis) for axis in order)
    return (a, b, c), (bool(flipped[0]), bool(flipped[1]), bool(flipped[2]))


def source_datasets(series: Series) -> tuple[Dataset, ...]:
    """Return the headers of a series' files without pixels, in the order of its frames.

    One a frame; for a multi-frame file, whose frames have an order of their own, one alone.

    Raises
    ------
    InputError
        A file is gone or was changed since the study was read.
    """
    import pydicom  # noqa: PLC0415 - of the extra `dicom`

    found = []
    for path, uid in {frame.path: frame.sop_instance_uid for frame in series.frames}.items():
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            same = dataset.SOPInstanceUID == uid
        except Exception as error:  # pydicom raises many kinds on damaged files
            raise InputError(f"{path.name} cannot be read any more ({error}); is its disk there?") from error
        if not same:
            raise InputError(f"{path.name} was exchanged since the study was read; run it again")
        found.append(dataset)
    return tuple(found)

"""Voxel-wise uncertainty on disk: the variance over the mirrorings as NIfTI, and a picture of it.

The variance of probabilities lies in [0, 0.25]. It is stored as unsigned 16-bit steps of 2^-18 (the header's slope, so
that every reader gives variances): a standard deviation of 0.002 is the smallest that is told from none, and what is
certain, nearly everything, compresses to next to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.files import replacing, write_bytes
from glialite_runtime.picture import PLANES, draw, largest_slices
from glialite_runtime.sequences import REGIONS
from glialite_runtime.volume import Volume

__all__ = ["STEP", "uncertainty_files", "write_picture", "write_variance"]

STEP: Final = 2.0**-18
"""Variance of one stored unit; 65 535 of them are the largest variance that there is, 0.25."""

_FLOOR: Final = 1e-3  # standard deviation that the brain is drawn with, so that its outline shows


def uncertainty_files(folder: Path, case: str) -> tuple[Path, ...]:
    """Return where the variances of a case lie, one file for each of `REGIONS`."""
    return tuple(folder / f"{case}-uncertainty-{region}.nii.gz" for region in REGIONS)


def write_variance(path: Path, variance: npt.NDArray[np.float32], volume: Volume) -> None:
    """Write a variance map with the geometry of a case, in one step.

    Parameters
    ----------
    path : Path
        Ends in .nii.gz.
    variance : float32 array (z, y, x)
        In LPS, whole image, in [0, 0.25].
    volume : Volume
        The case.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from isal import igzip  # noqa: PLC0415

    stored = np.rint(np.clip(variance / np.float32(STEP), 0, np.iinfo(np.uint16).max)).astype(np.uint16)
    header = volume.reference.header.copy()
    header.set_data_dtype(np.uint16)
    header["scl_slope"], header["scl_inter"] = STEP, 0
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"], header["aux_file"], header["db_name"] = b"GliaLite variance over mirrorings", b"", b""
    header["vox_offset"] = int(header["sizeof_hdr"]) + 4
    content = stored.astype(stored.dtype.newbyteorder(header.endianness), copy=False)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as raw,
        igzip.IGzipFile(filename="", fileobj=raw, mode="wb", compresslevel=2, mtime=0) as stream,
    ):
        stream.write(header.binaryblock + b"\0\0\0\0")
        stream.write(volume.orientation.from_lps(content).tobytes(order="F"))


def write_picture(path: Path, variance: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], volume: Volume) -> None:
    """Write the axial slice with most tumour as PNG: bright where the mirrorings differ, outlines of the labels.

    Parameters
    ----------
    path : Path
        Ends in .png.
    variance : float32 array (3, z, y, x)
        In LPS, whole image; the largest of the three regions' standard deviations is drawn.
    labels : uint8 array (z, y, x)
        On the same grid.
    volume : Volume
        The case; its first sequence says where the brain is.
    """
    brain = volume.channels[0] != 0
    at = largest_slices(labels, brain)[0]
    deviation = np.sqrt(variance.max(0)) + np.float32(_FLOOR) * brain
    write_bytes(path, draw(deviation, labels, PLANES[0], at, volume.spacing_mm))

"""Read and write NIfTI files without trusting them: sizes are checked before anything is inflated."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import GeometryError, InputError, IntensityError
from glialite_runtime.files import replacing

__all__ = ["MAX_VOXELS", "Image", "affine_of", "load_nibabel", "read", "read_header", "write_labels"]

MAX_VOXELS: Final = 512 * 512 * 256
"""Larger images are refused before they are inflated."""

_MAX_BYTES: Final = 4 * MAX_VOXELS
_MAX_HEADER_BYTES: Final = 1 << 20
_GZIP_MAX_RATIO: Final = 1100  # deflate cannot expand by more than 1032
_SPACING_MM: Final = (0.1, 20.0)
_PIECE: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Image:
    """One NIfTI image as it lies on disk.

    Attributes
    ----------
    data : array (x, y, z)
        Voxels in the file's own axes, Fortran order, the stored dtype; float32 for float64 and for scaled values.
    affine : float64 array (4, 4)
        Voxel index to RAS+ millimetres.
    header : nibabel header
        Kept so that a label map can be written with the same geometry.
    path : Path
        Where it was read from.
    """

    data: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    header: Any
    path: Path

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a plain or gzip file for reading; damage becomes an `InputError`."""
    try:
        with path.open("rb") as raw:
            if raw.read(2) == b"\x1f\x8b":
                from isal import igzip, isal_zlib  # noqa: PLC0415 - three times faster than zlib

                raw.seek(0)
                try:
                    with igzip.IGzipFile(fileobj=raw, mode="rb") as stream:
                        yield stream
                except isal_zlib.error as error:  # type: ignore[misc]  # the stubs take it for a function
                    raise _damage(path, error) from error
            else:
                raw.seek(0)
                yield raw
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (EOFError, zlib.error, OSError) as error:  # gzip's own errors are among these
        raise _damage(path, error) from error


def _damage(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is truncated or damaged ({error}); copy it again from its source")


def load_nibabel() -> Any:
    """Return nibabel, imported without pydicom: with it, it takes three times as long, and urllib3 opens a socket."""
    hidden = "nibabel" not in sys.modules and "pydicom" not in sys.modules
    if hidden:
        sys.modules["pydicom"] = None  # type: ignore[assignment]  # how Python says that there is none
    try:
        import nibabel  # noqa: PLC0415 - 0.1 s that `--help` need not pay
    finally:
        if hidden:
            del sys.modules["pydicom"]
    return nibabel


def _parse_header(stream: Any, path: Path) -> Any:
    nibabel = load_nibabel()
    from nibabel.spatialimages import HeaderDataError  # noqa: PLC0415

    block = stream.read(348)
    sizes = {int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")}
    if 540 in sizes:
        block += stream.read(540 - 348)
        kind: Any = nibabel.Nifti2Header
        magic_at, needed = 4, 540
    else:
        kind, magic_at, needed = nibabel.Nifti1Header, 344, 348
    if not sizes & {348, 540} or len(block) < needed or block[magic_at : magic_at + 2] != b"n+":
        raise InputError(f"{path} is not a single-file NIfTI image (.nii or .nii.gz)")
    try:
        return kind.from_fileobj(io.BytesIO(block), check=False)
    except (HeaderDataError, ValueError) as error:
        raise InputError(f"{path} has a damaged NIfTI header: {error}") from error


def _shape_of(header: Any, path: Path) -> tuple[int, int, int]:
    dim = [int(d) for d in header["dim"]]
    ndim, extents = dim[0], dim[1:]
    if not 3 <= ndim <= 7 or any(e < 1 for e in extents[:ndim]):
        raise GeometryError(f"{path} has the dimensions {extents[: max(ndim, 0)]}; three positive ones are needed")
    if any(e != 1 for e in extents[3:ndim]):
        raise GeometryError(
            f"{path} is {ndim}-D with the shape {tuple(extents[:ndim])}; give one 3-D file a sequence "
            "(split a series of volumes first)"
        )
    x, y, z = extents[:3]
    if x * y * z > MAX_VOXELS:
        raise GeometryError(f"{path} claims {x}×{y}×{z} voxels; the most that is accepted is {MAX_VOXELS:,}")
    return x, y, z


def affine_of(header: Any, path: Path) -> npt.NDArray[np.float64]:
    """Return the checked affine of a header.

    Raises
    ------
    GeometryError
        The affine is absent, not finite, singular, sheared, of implausible voxel size, differs from `pixdim`, or the
        qform and the sform name different axes.
    """
    with np.errstate(all="ignore"):
        try:
            qform = header.get_qform(coded=True)[0]
            sform = header.get_sform(coded=True)[0]
        except Exception as error:  # nibabel raises several kinds on damaged quaternions
            raise GeometryError(f"{path} has a damaged qform: {error}") from error
    affine = sform if sform is not None else qform
    if affine is None:
        raise GeometryError(f"{path} has neither sform nor qform, so left and right are unknown; convert it again")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError(f"{path} has an affine that is singular or not finite:\n{affine}")
    columns = np.asarray(affine[:3, :3], np.float64)
    spacing = np.linalg.norm(columns, axis=0)
    if spacing.min() < _SPACING_MM[0] or spacing.max() > _SPACING_MM[1]:
        raise GeometryError(
            f"{path} has voxels of {spacing.round(4).tolist()} mm; {_SPACING_MM[0]} to 20 mm is accepted"
        )
    cosines = (columns / spacing).T @ (columns / spacing) - np.eye(3)
    if np.abs(cosines).max() > 0.02:
        raise GeometryError(f"{path} has a sheared affine (axes not at right angles); resample it first")
    pixdim = np.asarray(header["pixdim"][1:4], np.float64)
    if not np.isfinite(pixdim).all() or not np.allclose(np.abs(pixdim), spacing, rtol=0.02):
        raise GeometryError(f"{path}: pixdim says {pixdim.tolist()} mm, the affine {spacing.round(4).tolist()} mm")
    if sform is not None and qform is not None and not _same_axes(sform, qform):
        raise GeometryError(f"{path}: qform and sform name different axes, so left and right are unsure")
    return np.asarray(affine, np.float64)


def _same_axes(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    from nibabel.orientations import aff2axcodes  # noqa: PLC0415

    return bool(np.isfinite(second).all()) and aff2axcodes(first) == aff2axcodes(second)


def read_header(path: Path) -> tuple[Any, tuple[int, int, int], npt.NDArray[np.float64]]:
    """Return header, shape (x, y, z) and affine of a file, checked, without reading its voxels."""
    with _opened(path) as stream:
        header = _parse_header(stream, path)
    return header, _shape_of(header, path), affine_of(header, path)


def read(path: Path) -> Image:
    """Read one image.

    Parameters
    ----------
    path : Path
        A single-file NIfTI-1 or NIfTI-2 image, plain or gzip.

    Raises
    ------
    InputError
        Missing, no NIfTI, truncated, damaged, longer than its header says.
    GeometryError
        Not 3-D, too large, or an affine that cannot be trusted.
    IntensityError
        A voxel type that is not a real number, NaN or infinite voxels, a damaged scale factor.
    """
    with _opened(path) as stream:
        header = _parse_header(stream, path)
        shape, affine = _shape_of(header, path), affine_of(header, path)
        dtype = _dtype_of(header, path)
        count = shape[0] * shape[1] * shape[2]
        size_on_disk = path.stat().st_size
        if count * dtype.itemsize > size_on_disk * _GZIP_MAX_RATIO:
            raise InputError(f"{path} is truncated: {size_on_disk} bytes cannot hold {shape} voxels")
        _skip_to(stream, header, path)
        flat = _voxels(stream, count, dtype, path)
        if stream.read(1):
            raise InputError(f"{path} is longer than its header says: it is damaged, or a 4-D file; copy it again")
    data = flat.reshape(shape, order="F")
    return Image(_scaled(data, header, path), affine, header, path)


def _dtype_of(header: Any, path: Path) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except Exception as error:  # nibabel: HeaderDataError for unknown codes, KeyError for damaged ones
        raise IntensityError(f"{path} has an unknown voxel type: {error}") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise IntensityError(f"{path} has voxels of type {dtype}; integers or real numbers are needed")
    return dtype


def _voxels(stream: Any, count: int, dtype: np.dtype[Any], path: Path) -> npt.NDArray[Any]:
    """Read `count` voxels; float64 becomes float32 piece by piece, so that no more than four bytes a voxel are held."""
    if dtype.kind != "f" or dtype.itemsize == 4:
        if count * dtype.itemsize > _MAX_BYTES:
            raise GeometryError(
                f"{path} claims {count:,} voxels of {dtype.itemsize} bytes; the most that is accepted is "
                f"{_MAX_BYTES >> 20} MB; store it as 16-bit integers"
            )
        flat = np.empty(count, dtype)
        _fill(stream, flat, path)
        return flat
    narrow = np.empty(count, np.float32)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as that
        for start in range(0, count, _PIECE):
            piece = np.empty(min(_PIECE, count - start), dtype)
            _fill(stream, piece, path)
            narrow[start : start + len(piece)] = piece
    return narrow


def _skip_to(stream: Any, header: Any, path: Path) -> None:
    offset, at = float(header["vox_offset"]), int(header["sizeof_hdr"])
    if not (at <= offset <= _MAX_HEADER_BYTES) or offset != int(offset):
        raise InputError(f"{path} has a damaged header: voxels at byte {offset}")
    if len(stream.read(int(offset) - at)) < int(offset) - at:
        raise InputError(f"{path} is truncated in its header")


def _fill(stream: Any, flat: npt.NDArray[Any], path: Path) -> None:
    view, done = memoryview(flat.data).cast("B"), 0
    while done < len(view):
        got = stream.readinto(view[done : done + (1 << 20)])
        if not got:
            raise InputError(f"{path} is truncated: it ends before its last voxel; copy it again")
        done += got


def _scaled(data: npt.NDArray[Any], header: Any, path: Path) -> npt.NDArray[Any]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        count = int(np.count_nonzero(~np.isfinite(data)))
        raise IntensityError(f"{path} holds {count:,} voxels that are NaN or infinite; repair or export it again")
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    if slope == 0 or np.isnan(slope):
        return data
    if not np.isfinite([slope, intercept]).all():
        raise IntensityError(f"{path} has a damaged scale factor: slope {slope}, intercept {intercept}")
    if (slope, intercept) == (1.0, 0.0):
        return data
    scaled = data.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(intercept)
    if not np.isfinite(scaled).all():
        raise IntensityError(f"{path} overflows when its scale factor {slope} is applied")
    return scaled


def write_labels(path: Path, labels: npt.NDArray[np.uint8], like: Image) -> None:
    """Write a label map with the geometry of an image, in one step.

    Parameters
    ----------
    path : Path
        Ends in .nii.gz.
    labels : uint8 array (x, y, z)
        In the axes of `like`.
    like : Image
        Its affine, qform, sform and units come back unchanged.

    Raises
    ------
    GeometryError
        The shapes differ.
    OutputError
        The file cannot be written.
    """
    from isal import igzip  # noqa: PLC0415

    if labels.shape != like.data.shape:
        raise GeometryError(f"labels of shape {labels.shape} do not fit {like.path} of shape {like.data.shape}")
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"], header["aux_file"], header["db_name"] = b"GliaLite labels", b"", b""
    header["vox_offset"] = int(header["sizeof_hdr"]) + 4
    with (
        replacing(path) as temporary,
        temporary.open("wb") as raw,
        igzip.IGzipFile(filename="", fileobj=raw, mode="wb", compresslevel=2, mtime=0) as stream,
    ):
        stream.write(header.binaryblock + b"\0\0\0\0")
        stream.write(labels.astype(np.uint8, copy=False).tobytes(order="F"))

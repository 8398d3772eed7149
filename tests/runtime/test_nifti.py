"""Reading NIfTI: what is right comes back exactly, what is wrong is one clear error and little memory."""

from __future__ import annotations

import gzip
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_runtime import nifti
from glialite_runtime.errors import GeometryError, InputError, IntensityError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import LPS, save

DATA = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save(tmp_path / "good.nii.gz", DATA, LPS)


def patched(path: Path, offset: int, packed: bytes) -> Path:
    """Overwrite bytes of the uncompressed file and pack it again."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[offset : offset + len(packed)] = packed
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_real_voxel_type_comes_back_exactly(tmp_path: Path, dtype: type, suffix: str) -> None:
    """What nibabel wrote is what we read, in value and in type; float64 is read as float32."""
    path = save(tmp_path / f"a{suffix}", DATA.astype(dtype), LPS)
    image = nifti.read(path)
    assert image.data.dtype == (np.float32 if dtype is np.float64 else dtype)
    np.testing.assert_array_equal(image.data, DATA)
    np.testing.assert_array_equal(image.affine, LPS)


def test_scale_factor_is_applied(tmp_path: Path) -> None:
    """A header with slope and intercept gives real values, as nibabel reads them."""
    image = nib.Nifti1Image(DATA, LPS)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii.gz").data, nib.load(tmp_path / "a.nii.gz").get_fdata())


def test_big_endian_file_is_read(tmp_path: Path) -> None:
    """A file from an old big-endian workstation gives the same voxels."""
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(DATA.astype(">i2"), LPS, header), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii.gz").data, DATA)


def test_nifti2_and_trailing_single_dimensions_are_read(tmp_path: Path) -> None:
    """NIfTI-2 and a 4-D file with one volume are the same image."""
    nib.save(nib.Nifti2Image(DATA[..., None], LPS), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii.gz").data, DATA)


def test_labels_keep_the_geometry_of_the_input(good: Path, tmp_path: Path) -> None:
    """A written label map has the input's shape, affine, qform and sform, and type uint8."""
    like = nifti.read(good)
    nifti.write_labels(tmp_path / "seg.nii.gz", (DATA % 4).astype(np.uint8), like)
    written, source = nib.load(tmp_path / "seg.nii.gz"), nib.load(good)
    np.testing.assert_array_equal(np.asarray(written.dataobj), DATA % 4)
    assert written.get_data_dtype() == np.uint8
    for field in ("pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        np.testing.assert_array_equal(written.header[field], source.header[field])


def test_label_file_is_the_same_bytes_every_time(good: Path, tmp_path: Path) -> None:
    """No time stamp or file name hides in the gzip header."""
    like, labels = nifti.read(good), np.zeros(DATA.shape, np.uint8)
    nifti.write_labels(tmp_path / "a.nii.gz", labels, like)
    nifti.write_labels(tmp_path / "b.nii.gz", labels, like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def damage_no_nifti(path: Path) -> None:
    path.write_bytes(b"This is a letter, not an image. " * 40)


def damage_empty_file(path: Path) -> None:
    path.write_bytes(b"")


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_longer(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2 << 20)))


def damage_offset(path: Path) -> None:
    patched(path, 108, struct.pack("<f", float("nan")))


def damage_block(path: Path) -> None:
    path.write_bytes(gzip.compress(b"")[:10] + b"\x07" * 400)  # a deflate block of a type that there is not


def damage_pair(path: Path) -> None:
    patched(path, 344, b"ni1\0")


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing,
        damage_truncated,
        damage_flipped,
        damage_no_nifti,
        damage_empty_file,
        damage_folder,
        damage_longer,
        damage_offset,
        damage_block,
        damage_pair,
    ],
)
def test_a_damaged_file_is_one_input_error_that_names_it(good: Path, damage: Callable[[Path], None]) -> None:
    """Every kind of damage ends in an `InputError` with the file's name."""
    damage(good)
    with pytest.raises(InputError, match=r"good\.nii\.gz"):
        nifti.read(good)


@pytest.mark.parametrize(
    ("offset", "packed", "says"),
    [
        (40, struct.pack("<8h", 4, 4, 5, 6, 3, 1, 1, 1), "4-D"),
        (40, struct.pack("<8h", 3, 4, 0, 6, 1, 1, 1, 1), "dimensions"),
        (40, struct.pack("<8h", 3, -4, 5, 6, 1, 1, 1, 1), "dimensions"),
        (40, struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1), "the most that is accepted"),
        (280, struct.pack("<4f", 0, 0, 0, 0), "singular"),
        (280, struct.pack("<4f", float("nan"), 0, 0, 0), "singular or not finite"),
        (280, struct.pack("<4f", -1, 0.7, 0, 0), "sheared"),
        (80, struct.pack("<f", 3.0), "pixdim"),
        (80, struct.pack("<f", float("nan")), "pixdim"),
        (252, struct.pack("<2h", 0, 0), "neither sform nor qform"),
        (280, struct.pack("<4f", 1, 0, 0, 0), "qform and sform"),
    ],
)
def test_a_lying_geometry_is_refused_with_its_reason(good: Path, offset: int, packed: bytes, says: str) -> None:
    """Dimensions, affine, pixdim, qform and sform are checked against each other."""
    with pytest.raises(GeometryError, match=says):
        nifti.read(patched(good, offset, packed))


def test_nan_voxels_are_refused_with_their_number(tmp_path: Path) -> None:
    """A NaN is never segmented around."""
    data = DATA.astype(np.float32)
    data[1, 2, 3] = np.nan
    with pytest.raises(IntensityError, match="1 voxels that are NaN"):
        nifti.read(save(tmp_path / "a.nii.gz", data, LPS))


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    """A raw reconstruction with complex voxels is not an image to segment."""
    with pytest.raises(IntensityError, match="complex64"):
        nifti.read(save(tmp_path / "a.nii.gz", DATA.astype(np.complex64), LPS))


def test_what_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    """A float64 of 1e39 is no grey value; it is not turned into infinity and worked on."""
    data = DATA.astype(np.float64)
    data[1, 1, 1] = 1e39
    with pytest.raises(IntensityError, match="1 voxels that are NaN or infinite"):
        nifti.read(save(tmp_path / "huge.nii.gz", data, LPS))


def test_infinite_scale_factor_is_refused(good: Path) -> None:
    """A damaged slope is said, not multiplied with."""
    with pytest.raises(IntensityError, match="scale factor"):
        nifti.read(patched(good, 112, struct.pack("<f", float("inf"))))


def test_a_gzip_bomb_costs_no_memory(tmp_path: Path) -> None:
    """A small file that would inflate to a gigabyte is refused after a few megabytes."""
    header = nib.Nifti1Header()
    header.set_data_shape(DATA.shape)
    header.set_data_dtype(np.int16)
    header.set_sform(LPS, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    bomb = gzip.compress(header.binaryblock + bytes(4) + bytes(1 << 30), compresslevel=1)
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(bomb)
    del bomb
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="longer than its header says"):
        nifti.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("extra", [b"\0", bytes(4000)])
def test_any_byte_behind_the_last_voxel_is_refused(good: Path, extra: bytes) -> None:
    """A piece that is there twice moves every voxel behind it; what is left over at the end gives it away."""
    good.write_bytes(gzip.compress(gzip.decompress(good.read_bytes()) + extra))
    with pytest.raises(InputError, match="longer than its header says"):
        nifti.read(good)


def test_wide_integers_of_an_enormous_image_are_refused_before_they_are_read(good: Path) -> None:
    """60 million voxels of 8 bytes are more than a small computer holds."""
    path = patched(good, 40, struct.pack("<8h", 3, 500, 500, 240, 1, 1, 1, 1))
    patched(path, 70, struct.pack("<2h", 1024, 64))
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 20)) * 500)
    with pytest.raises(GeometryError, match="256 MB"):
        nifti.read(path)


def test_nibabel_is_imported_without_pydicom() -> None:
    """With it, nibabel takes three times as long and urllib3 opens a socket; DICOM is still there afterwards."""
    code = (
        "import sys; from glialite_runtime.nifti import load_nibabel; load_nibabel(); "
        "assert 'urllib3' not in sys.modules and 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_header_that_claims_more_than_gzip_can_hold_is_truncated(good: Path) -> None:
    """A tiny file that claims 60 million voxels is refused before anything is allocated."""
    with pytest.raises(InputError, match="truncated"):
        nifti.read(patched(good, 40, struct.pack("<8h", 3, 500, 500, 240, 1, 1, 1, 1)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 351), value=st.integers(0, 255))
def test_no_header_byte_makes_the_reader_crash(good: Path, at: int, value: int) -> None:
    """Any header byte may be anything: the file is read or refused as input, never another exception."""
    original = good.read_bytes()
    try:
        nifti.read(patched(good, at, bytes([value])))
    except InputError:
        pass
    finally:
        good.write_bytes(original)

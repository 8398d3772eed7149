"""Conversion in a child process: right pixels, typed failures, limits that hold."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from glialite_runtime.dicom import conversion
from glialite_runtime.dicom.conversion import convert_series
from glialite_runtime.dicom.frames import to_frames
from glialite_runtime.dicom.series import Series, scan_folder
from glialite_runtime.errors import BackendUnavailableError, GeometryError, InputError, OutputError

from tests.runtime.dicom.conftest import T1N, images, write

pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (extra: dicom)")

SMALL = replace(T1N, shape=(4, 16, 16))


@pytest.fixture
def small(tmp_path: Path) -> Series:
    return scan_folder(write(tmp_path / "dicom", SMALL)).series[0]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a Python program in the place of dcm2niix."""

    def install(code: str) -> None:
        program = tmp_path / "program"
        program.write_text(f"#!{sys.executable} -S\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(conversion, "_program", lambda: str(program))

    return install


@pytest.mark.parametrize(
    ("code", "words"),
    [(2, "no image"), (4, "damaged"), (8, "only some of its slices"), (10, "slices missing"), (99, "code 99")],
)
def test_every_exit_code_is_a_sentence(small: Series, tmp_path: Path, pretend, code: int, words: str) -> None:
    """dcm2niix's typed codes, and one that it does not have."""
    pretend(f"raise SystemExit({code})")
    with pytest.raises(InputError, match=f"series 3 cannot be converted: dcm2niix .*{words}.*export it again"):
        convert_series(small, tmp_path / "out")


def test_a_child_that_hangs_is_ended(small: Series, tmp_path: Path, pretend, monkeypatch) -> None:
    """Not waited for beyond its time."""
    monkeypatch.setattr(conversion, "_SECONDS", 0.5)
    monkeypatch.setattr(conversion, "_limit", lambda *_: None)
    pretend("import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(InputError, match="not converted after"):
        convert_series(small, tmp_path / "out")
    assert time.monotonic() - started < 30


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a child are Linux only")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import time; time.sleep(0.2); open('big.nii', 'wb').write(bytes(50 << 20))", "stops with code 1|more space"),
        ("import time; time.sleep(0.2); bytearray(2 << 30)", "stops with code 1"),
    ],
    ids=["disk", "memory"],
)
def test_a_child_gets_no_more_than_its_share(small: Series, tmp_path: Path, pretend, code: str, words: str) -> None:
    """50 MB for a series of 2 kB, 2 GB of memory: refused by the system, told in a sentence."""
    pretend(code)
    with pytest.raises(InputError, match=words):
        convert_series(small, tmp_path / "out")
    assert sum(p.stat().st_size for p in (tmp_path / "out").glob("*.nii")) < 2 << 20


def test_what_comes_out_is_not_believed(small: Series, tmp_path: Path, pretend) -> None:
    """A converter that mirrors left and right is found out."""
    image = nib.load(convert_series(small, tmp_path / "right"))
    wrong = tmp_path / "wrong.nii"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine * [[-1] * 4, [1] * 4, [1] * 4, [1] * 4]), wrong)
    pretend(f"import shutil; shutil.copy({str(wrong)!r}, 'converted.nii')")
    with pytest.raises(GeometryError, match="mm away from series 3"):
        convert_series(small, tmp_path / "out")


def test_two_volumes_are_not_one(small: Series, tmp_path: Path, pretend) -> None:
    """More than one file is no answer to which one."""
    pretend("open('a.nii', 'w'); open('b.nii', 'w')")
    with pytest.raises(GeometryError, match="became 2 volumes"):
        convert_series(small, tmp_path / "out")


def test_only_the_image_is_left(small: Series, tmp_path: Path) -> None:
    """Copies of the slices, which name the patient, are gone; the source is untouched; no side-car is written."""
    before = {p: p.read_bytes() for p in (tmp_path / "dicom").iterdir()}
    made = convert_series(small, tmp_path / "out")
    assert {p.name for p in made.parent.iterdir()} == {"converted.nii", "log.txt"}
    assert {p: p.read_bytes() for p in (tmp_path / "dicom").iterdir()} == before
    assert b"Mwangi" not in made.read_bytes()
    assert b"P-0017" not in made.read_bytes()


def test_the_same_series_gives_the_same_bytes(small: Series, tmp_path: Path) -> None:
    """So that a finished case is recognised when it is given again."""
    made = [convert_series(small, tmp_path / name).read_bytes() for name in "ab"]
    assert hashlib.sha256(made[0]).digest() == hashlib.sha256(made[1]).digest()


def test_compressed_rubbish_is_refused(tmp_path: Path) -> None:
    """A JPEG-LS file whose picture is noise: dcm2niix fails or gives another shape; nothing is passed on."""
    import pydicom

    made = images(SMALL)
    for image in made:
        image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
        image.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7\0\x0b\x10\xff\xff\xff\xff\x01" + bytes(200)])
        image["PixelData"].is_undefined_length = True
    (found,) = scan_folder(write(tmp_path / "dicom", SMALL, made)).series
    assert found.problem is None
    with pytest.raises(InputError, match="series 3"):
        convert_series(found, tmp_path / "out")


def test_without_dcm2niix(small: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    with pytest.raises(BackendUnavailableError, match=r"glialite\[dicom\]"):
        convert_series(small, tmp_path / "out")


def test_a_program_that_may_not_run(small: Series, tmp_path: Path, pretend) -> None:
    """A disk mounted without the right to execute."""
    pretend("")
    (tmp_path / "program").chmod(0o644)
    with pytest.raises(BackendUnavailableError, match="cannot be started"):
        convert_series(small, tmp_path / "out")


def test_a_folder_that_cannot_be_written(small: Series, tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot prepare series 3"):
        convert_series(small, tmp_path / "file" / "out")


@pytest.mark.parametrize("vendor", ["ge", "hitachi", "hyperfine", "philips", "siemens", "compressed_jpegls"])
def test_vendors_files(real_data: Path, tmp_path: Path, vendor: str) -> None:
    """Real headers, a multi-frame file and JPEG-LS: the reference image, voxel by voxel; back on its frames."""
    import pydicom

    (found,) = scan_folder(real_data / "dicom" / vendor / "001").series
    made = nib.load(convert_series(found, tmp_path / "out"))
    reference = nib.load(real_data / "dicom" / vendor / "001_ground_truth.nii.gz")
    got, wanted = nib.as_closest_canonical(made), nib.as_closest_canonical(reference)
    np.testing.assert_allclose(got.affine, wanted.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(got.dataobj), np.asarray(wanted.dataobj))
    back = to_frames(np.asarray(made.dataobj), made.affine, found)
    if vendor not in ("compressed_jpegls", "hyperfine", "philips"):  # decoded or scaled by dcm2niix alone
        for frame, plane in zip(found.frames, back, strict=True):
            np.testing.assert_array_equal(plane, pydicom.dcmread(frame.path).pixel_array)


@pytest.mark.parametrize("name", ["sliceincrement/001", "sliceincrement/002"])
def test_vendors_broken_series(real_data: Path, name: str) -> None:
    """Real series with a slice missing are known before anything is converted."""
    (found,) = scan_folder(real_data / "dicom" / "broken" / name).series
    assert "lacks 1 of its slices (first after slice 3)" in str(found.problem)

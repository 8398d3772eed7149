"""One header: damaged, lying and hostile files end in a sentence, soon, and in little memory."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from glialite_runtime.dicom.parsing import read_header
from glialite_runtime.dicom.series import scan_folder
from glialite_runtime.errors import GliaLiteError, InputError

from tests.runtime.dicom.conftest import T1N, images, write

ITEM = b"\xfe\xff\x00\xe0" + bytes(4)
OPEN_ITEM = b"\xfe\xff\x00\xe0" + b"\xff" * 4
PIXELS = b"\xe0\x7f\x10\0OW" + bytes(6)


def sequence(group: int, element: int, length: int = 0xFFFFFFFF) -> bytes:
    return struct.pack("<HH2sHI", group, element, b"SQ", 0, length)


def file_of(folder: Path, **tags: object) -> Path:
    (path,) = write(folder, T1N, images(replace(T1N, tags=tags))[:1]).iterdir()
    return path


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Rows": 65535, "Columns": 65535}, "claims 1 frames of 65535 × 65535"),
        ({"Rows": 512, "Columns": 512}, "truncated: 512 × 512 pixels need 524,288 bytes"),
        ({"NumberOfFrames": 20000}, "position of 1 of its 20000 frames"),
        ({"BitsAllocated": 0}, "truncated"),
        ({"Rows": 0}, "no rows"),
        ({"PixelSpacing": [0, 0]}, "pixels of 0 × 0 mm"),
        ({"PixelSpacing": [1e5, 1]}, "100000 × 1 mm"),
        ({"PixelSpacing": None}, "no rows, columns and pixel spacing"),
        ({"ImagePositionPatient": None}, "no position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no position and no right-angled"),
        ({"ImageOrientationPatient": [0] * 6}, "no position and no right-angled"),
    ],
)
def test_a_lying_header_has_a_problem(tmp_path: Path, tags: dict[str, object], words: str) -> None:
    """What the header claims is held against the file's size and against sense."""
    header = read_header(file_of(tmp_path, **tags))
    assert header is not None
    assert words in str(header.problem)


def test_a_file_of_endless_pixels_is_not_copied(tmp_path: Path) -> None:
    """A file of 100 GB (mostly a hole) that claims 48 × 64 pixels."""
    path = file_of(tmp_path)
    with path.open("r+b") as stream:
        stream.truncate(100 << 30)
    header = read_header(path)
    assert header is not None
    assert "is too long" in str(header.problem)


@pytest.mark.parametrize("keyword", ["RepetitionTime", "EchoTime", "PatientAge", "SeriesNumber", "ImageType"])
def test_values_that_are_none_are_nothing(tmp_path: Path, keyword: str) -> None:
    """Text where a number belongs is an absent number, not a crash."""
    path = file_of(tmp_path)
    element = {"RepetitionTime": b"500", "EchoTime": b"10", "SeriesNumber": b"3 "}.get(keyword)
    if element is not None:
        path.write_bytes(path.read_bytes().replace(element, b"xyz"[: len(element)]))
    assert read_header(path) is not None


def test_a_deflated_file_is_not_inflated(raw_header: Callable[..., Path]) -> None:
    """100 MB of zeros in 100 kB: refused before a byte is inflated."""
    squeezer = zlib.compressobj(9, wbits=-15)
    bomb = raw_header(squeezer.compress(bytes(100 << 20)) + squeezer.flush(), b"1.2.840.10008.1.2.1.99")
    tracemalloc.start()
    with pytest.raises(InputError, match="deflated"):
        read_header(bomb)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "elements",
    [
        sequence(0x0008, 0x1140) + ITEM * 500_000,
        sequence(0x5200, 0x9230, 8 * 500_000) + ITEM * 500_000 + PIXELS,
        sequence(0x5200, 0x9230, 8 * 40_000) + ITEM * 40_000 + PIXELS,
        (sequence(0x0008, 0x1140) + OPEN_ITEM) * 40_000,
        (sequence(0x5200, 0x9229) + OPEN_ITEM) * 40_000,
        struct.pack("<HH2sHI", 0x10, 0x10, b"UC", 0, 0x7FFFFFFF) + b"A" * (4 << 20),
        b"\x08\x00\x01\x00CS\0\0" * 550_000,
    ],
    ids=["wide", "wide frames", "many frames", "deep", "deep groups", "long", "endless"],
)
def test_a_hostile_header_is_refused_soon(raw_header: Callable[..., Path], elements: bytes) -> None:
    """Items beyond number, nested without end, a value of 2 GB: within 5 s and 100 MB."""
    path = raw_header(elements)
    started = time.process_time()
    with pytest.raises(InputError):
        read_header(path)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("count", [150, pytest.param(4000, marks=pytest.mark.slow)])
def test_mutated_files_end_in_a_verdict(tmp_path: Path, count: int) -> None:
    """Flipped, cut, doubled and overwritten headers: a header, nothing, or our error; never another one, never long."""
    original = file_of(tmp_path / "original").read_bytes()
    rng = random.Random(0)  # noqa: S311 - a seed, not a secret
    path = tmp_path / "mutated" / "one"
    path.parent.mkdir()
    verdicts = set()
    for _ in range(count):
        content = bytearray(original[: rng.randrange(132, len(original))] if rng.random() < 0.2 else original)
        for _ in range(rng.choice([1, 3, 30])):
            at = rng.randrange(132, min(len(content), 1600) + 1) if len(content) > 132 else 0
            match rng.randrange(3):
                case 0:
                    content[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x7f"])
                case _:
                    content[at:at] = content[at : at + rng.randrange(64)]
        path.write_bytes(content)
        started = time.process_time()
        try:
            found = scan_folder(path.parent)
            verdicts.add(found.series[0].problem is None or "usable")
        except GliaLiteError as error:
            verdicts.add(type(error).__name__)
        assert time.process_time() - started < 5
    assert "InputError" in verdicts

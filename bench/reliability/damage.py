"""Damage files as clinics and attackers do: bits, cuts, lying headers, broken compression; every kind from a number."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

__all__ = ["BYTES", "NIFTI", "damaged"]

_HEADER: Final = 352
_HOSTILE: Final = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"), 3.0)
_FLOATS: Final = (56, 60, 64, 76, 80, 84, 88, 92, 108, 112, 116, 124, 128, *range(256, 328, 4))
"""Where the header's real numbers lie: pixdim, vox_offset, slope, intercept, quaternion, offsets, sform."""
_NOT_IMAGES: Final = (
    b"",
    b"\0",
    b"\x1f\x8b",
    b"\x89PNG\r\n\x1a\n" * 50,
    b"letter\n" * 400,
    b"DICM".rjust(132, b"\0") * 9,
)

Kind = Callable[[bytes, np.random.Generator], bytes]


def _bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip 1 to 8 bits anywhere."""
    changed = bytearray(content)
    for at in rng.integers(0, len(content), rng.integers(1, 9)):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut the file off anywhere."""
    return content[: int(rng.integers(0, len(content)))]


def _lost(content: bytes, rng: np.random.Generator) -> bytes:
    """Lose a piece from the middle."""
    at, size = int(rng.integers(0, len(content))), int(rng.integers(1, 5000))
    return content[:at] + content[at + size :]


def _twice(content: bytes, rng: np.random.Generator) -> bytes:
    """Repeat a piece."""
    at, size = int(rng.integers(0, len(content))), int(rng.integers(1, 5000))
    return content[: at + size] + content[at:]


def _overwritten(content: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite up to 4 kB with one value, as a bad sector does."""
    at, size = int(rng.integers(0, len(content))), int(rng.integers(1, 4096))
    filling = bytes([int(rng.choice((0, 0x7F, 0xFF, 0x41)))]) * size
    return (content[:at] + filling + content[at + size :])[: len(content)]


def _length(content: bytes, rng: np.random.Generator) -> bytes:
    """Make two or four bytes of the first kilobyte say something enormous, as a lying length does."""
    at = int(rng.integers(0, max(1, min(len(content) - 4, 1024))))
    lie = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff\xff"))
    return content[:at] + bytes(lie) + content[at + len(lie) :]


def _no_image(content: bytes, rng: np.random.Generator) -> bytes:
    """Be something else altogether."""
    del content
    return bytes(_NOT_IMAGES[int(rng.integers(len(_NOT_IMAGES)))])


def _inside(change: Kind) -> Kind:
    """Return a kind that changes what is inside the gzip stream."""

    def inner(content: bytes, rng: np.random.Generator) -> bytes:
        return gzip.compress(change(gzip.decompress(content), rng), compresslevel=1, mtime=0)

    return inner


def _header_bits(raw: bytes, rng: np.random.Generator) -> bytes:
    return _bits(raw[:_HEADER], rng) + raw[_HEADER:]


def _header_numbers(raw: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    for at in rng.choice(_FLOATS, rng.integers(1, 4)):
        struct.pack_into("<f", changed, int(at), float(rng.choice(_HOSTILE)))
    return bytes(changed)


def _dimensions(raw: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    for at in rng.integers(0, 8, rng.integers(1, 4)):
        lie = int(rng.choice((-32768, -1, 0, 1, 2, 7, 300, 512, 2048, 32767)))
        struct.pack_into("<h", changed, 40 + 2 * int(at), lie)
    return bytes(changed)


def _voxel_type(raw: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    code = int(rng.choice((0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 9999)))
    struct.pack_into("<hh", changed, 70, code, int(rng.choice((0, 8, 16, 32, 64, -1))))
    return bytes(changed)


def _nan(raw: bytes, rng: np.random.Generator) -> bytes:
    """Store real numbers, some of them NaN, infinite or enormous."""
    voxels = np.frombuffer(raw, np.int16, offset=_HEADER).astype(np.float32)
    bad = rng.choice((np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45))
    voxels[rng.integers(0, len(voxels), int(rng.choice((1, 100, 20000))))] = bad
    header = bytearray(raw[:_HEADER])
    struct.pack_into("<hh", header, 70, 16, 32)
    return bytes(header) + voxels.tobytes()


def _noise(raw: bytes, rng: np.random.Generator) -> bytes:
    """Replace all voxels by noise, one value, or noise inside the brain."""
    voxels = np.frombuffer(raw, np.int16, offset=_HEADER)
    noise = rng.integers(-32768, 32767, len(voxels), np.int16)
    made = (noise, np.full_like(noise, noise[0]), np.where(voxels != 0, noise, 0), np.where(voxels != 0, 1, 0))
    return raw[:_HEADER] + made[int(rng.integers(len(made)))].astype(np.int16).tobytes()


def _trailing(content: bytes, rng: np.random.Generator) -> bytes:
    """Append garbage, a second member, or 64 MB of zeros in 64 kB."""
    tails = (rng.bytes(100), gzip.compress(rng.bytes(1000)), gzip.compress(bytes(1 << 26), compresslevel=1))
    return content + tails[int(rng.integers(len(tails)))]


BYTES: Final[Mapping[str, Kind]] = {
    "bits": _bits, "cut": _cut, "lost": _lost, "twice": _twice, "overwritten": _overwritten, "length": _length,
    "no image": _no_image,
}  # fmt: skip
"""Kinds for any file."""

NIFTI: Final[Mapping[str, Kind]] = {
    "gzip bits": _bits, "gzip cut": _cut, "gzip lost": _lost, "gzip overwritten": _overwritten, "trailing": _trailing,
    "no image": _no_image, "bits": _inside(_bits), "cut": _inside(_cut), "twice": _inside(_twice),
    "header bits": _inside(_header_bits), "header numbers": _inside(_header_numbers),
    "dimensions": _inside(_dimensions), "voxel type": _inside(_voxel_type), "NaN": _inside(_nan),
    "noise": _inside(_noise),
}  # fmt: skip
"""Kinds for a .nii.gz of 16-bit integers."""


def damaged(content: bytes, kinds: Mapping[str, Kind], number: int) -> tuple[str, bytes]:
    """Return kind and damaged bytes of trial `number`; kinds take turns, the rest comes from the number."""
    name = list(kinds)[number % len(kinds)]
    return name, kinds[name](content, np.random.default_rng(number))

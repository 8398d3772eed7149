"""What a program for Linux asks of the C library, read from its files: nothing is run."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Final

__all__ = ["glibc_of", "needed_glibc"]

_VERSIONS_NEEDED: Final = 0x6FFFFFFE  # SHT_GNU_verneed
_GLIBC: Final = re.compile(r"GLIBC_(\d+)\.(\d+)")


def glibc_of(content: bytes) -> tuple[int, int] | None:
    """Return the glibc, (major, minor), that an ELF file of 64 bits needs at least; None when it needs none.

    Everything but a well-formed little-endian ELF file of 64 bits counts as needing none.

    Source: System V ABI, "Section header"; Linux Standard Base, "Symbol versioning".
    """
    if content[:6] != b"\x7fELF\x02\x01":
        return None
    found: list[tuple[int, int]] = []
    try:
        (table,) = struct.unpack_from("<Q", content, 40)
        size, count = struct.unpack_from("<HH", content, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", content, table + size * number) for number in range(count)]
        for _, kind, _, _, start, _, link, info, _, _ in sections:
            if kind == _VERSIONS_NEEDED:
                found += _needs(content, start, info, sections[link][4])
    except (struct.error, IndexError, ValueError):
        return None
    return max(found, default=None)


def _needs(content: bytes, start: int, libraries: int, strings: int) -> list[tuple[int, int]]:
    """Return the versions of glibc in a list of needed versions; names lie at `strings`."""
    found, at, left = [], start, libraries
    while left:
        left -= 1
        _, versions, _, first, following = struct.unpack_from("<HHIII", content, at)
        place = at + first
        for _ in range(versions):
            _, _, _, name, step = struct.unpack_from("<IHHII", content, place)
            text = content[strings + name : content.index(b"\0", strings + name)].decode("ascii", "replace")
            match = _GLIBC.match(text)
            if match is not None:
                found.append((int(match[1]), int(match[2])))
            place += step
        at, left = at + following, left if following else 0  # the last one is followed by none, whatever the count
    return found


def needed_glibc(folder: Path) -> tuple[str, Path] | None:
    """Return the glibc that all files of a folder together need, as "2.28", and the file that asks for it."""
    found = [
        (version, path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (version := glibc_of(path.read_bytes())) is not None
    ]
    if not found:
        return None
    (major, minor), path = max(found, key=lambda item: item[0])
    return f"{major}.{minor}", path

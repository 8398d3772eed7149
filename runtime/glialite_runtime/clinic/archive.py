"""Unpack a zip that nobody vouches for: names, kinds, number and size are checked, and bytes counted as they come."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from glialite_runtime.errors import InputError, OutputError

__all__ = ["MAX_BYTES", "MAX_FILES", "unpack"]

MAX_FILES: Final = 20_000
"""A DICOM study of four thin sequences has about 1 000."""
MAX_BYTES: Final = 2 << 30
"""Four sequences at the most voxels that are read have 0.5 GB."""
_MAX_RATIO: Final = 1100  # deflate cannot expand by more than 1032
_SKIPPED: Final = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
_PIECE: Final = 1 << 20


def unpack(archive: Path, target: Path) -> None:
    """Write the files of a zip below `target`, an empty folder.

    Raises
    ------
    InputError
        Damaged, encrypted, too many or too large files, packed in an unusual way, or a member that is a link or would
        land outside of `target`. Members before it may have been written.
    OutputError
        `target` cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if not m.is_dir() and not _skipped(m.filename)]
            _check(archive, members)
            left = MAX_BYTES
            for member in members:
                left -= _write(opened, member, target / PurePosixPath(member.filename), left)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"{archive.name} is damaged or no zip ({error}); copy it again from its source") from error
    except OSError as error:
        ours = error.filename is not None and Path(error.filename) == archive
        if ours or error.errno == errno.EINVAL:  # the latter: an offset that lies
            raise InputError(f"{archive.name} cannot be read: {error.strerror}; copy it again") from error
        raise OutputError(
            f"cannot unpack {archive.name} into {target}: {error.strerror or error}; free space"
        ) from error


def _skipped(name: str) -> bool:
    return any(part in _SKIPPED for part in PurePosixPath(name).parts)


def _check(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    if not members:
        raise InputError(f"{archive.name} is empty")
    if len(members) > MAX_FILES:
        raise InputError(f"{archive.name} holds {len(members):,} files; {MAX_FILES:,} are accepted: zip one case alone")
    if sum(m.file_size for m in members) > MAX_BYTES:
        raise InputError(f"{archive.name} unpacks to more than {MAX_BYTES >> 30} GB: zip one case alone")
    seen = set()
    for member in members:
        problem = _problem(member)
        if problem is None and member.filename.casefold() in seen:
            problem = "is there twice"
        if problem:
            raise InputError(
                f"{archive.name} holds {member.filename[:80]!r}, which {problem}; nothing was taken from this archive"
            )
        seen.add(member.filename.casefold())


def _problem(member: zipfile.ZipInfo) -> str | None:
    parts = PurePosixPath(member.filename).parts
    if (
        not member.filename.isprintable()
        or member.orig_filename != member.filename  # zipfile cuts names at a zero byte
        or any(c in member.filename for c in '\\:*?"<>|')
        or not parts
        or parts[0].startswith("/")
        or any(part == ".." or part[-1] in ". " or len(part.encode()) > 200 for part in parts)
        or len(parts) > 20
    ):
        return "is a name that could leave the folder or cannot be stored"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a device"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in an unusual way (deflate is read)"
    if member.file_size > member.compress_size * _MAX_RATIO + _PIECE:
        return "claims a size that its bytes cannot hold"
    return None


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < member.file_size:
        raise OutputError(f"not enough space to unpack {member.filename}: {member.file_size >> 20} MB are needed")
    done = 0
    with opened.open(member) as source, path.open("xb") as sink:
        while piece := source.read(_PIECE):
            done += len(piece)
            if done > min(left, member.file_size):
                raise InputError(f"{member.filename} is longer than the archive says")
            sink.write(piece)
    return done

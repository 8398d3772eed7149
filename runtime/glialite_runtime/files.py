"""Write files so that a power cut never leaves half of one under its final name."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from glialite_runtime.errors import OutputError

__all__ = ["json_bytes", "remove", "replacing", "sha256_bytes", "sha256_file", "write_bytes", "write_json"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and move it to `path`.

    When the body raises, the temporary file is removed and `path` is left as it was.

    Raises
    ------
    OutputError
        The folder cannot be made or written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise  # somebody else's file, read inside the body
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error


def _sweep(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = left.name.split(".")[-2]
        if process.isdigit() and not _alive(int(process)):
            with suppress(OSError):
                left.unlink()


def _alive(process: int) -> bool:
    if process == os.getpid() or os.name == "nt":  # Windows keeps an open file, whoever wants to delete it
        return os.name != "nt"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows has no handle on a folder to flush
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file that may be absent; `OutputError` when it is there and cannot be deleted."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        raise OutputError(f"cannot replace {path}: {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `json_bytes` in one step."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return `value` as indented UTF-8 JSON; NaN and infinity are refused with a `ValueError`."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

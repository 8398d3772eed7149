"""One program at a time works into a folder: a lock of the operating system, gone when the process dies."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from glialite_runtime.errors import ConfigError, OutputError

__all__ = ["LOCK_NAME", "only_one"]

LOCK_NAME: Final = ".glialite.lock"
_LOCKED_BYTE: Final = 4096  # beyond the holder's number, which others may read meanwhile
_BUSY: Final = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the right to work into `folder`, which is made if need be.

    The lock file stays behind; it is the lock that counts, and a process that was killed holds none.

    Raises
    ------
    ConfigError
        Another process holds it.
    OutputError
        The folder cannot be written, or lies on a drive that knows no locks.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("r+b" if path.exists() else "w+b", buffering=0)
    except OSError as error:
        raise OutputError(
            f"cannot write into {folder}: {error.strerror or error}; free space or choose another folder"
        ) from error
    with stream:
        try:
            _lock(stream)
        except OSError as error:
            if error.errno not in _BUSY:
                raise OutputError(
                    f"{folder} lies on a drive without locks ({error.strerror}); choose one on this computer's disk"
                ) from error
            raise ConfigError(
                f"another GliaLite{_holder(stream)} already works into {folder}; stop it, or choose another folder"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()).encode())
        yield


def _holder(stream: IO[bytes]) -> str:
    stream.seek(0)
    number = stream.read(16).decode("ascii", "replace")
    return f" (process {number})" if number.isdigit() else ""


if sys.platform == "win32":

    def _lock(stream: IO[bytes]) -> None:
        import msvcrt  # noqa: PLC0415

        stream.seek(_LOCKED_BYTE)
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        stream.seek(0)

else:

    def _lock(stream: IO[bytes]) -> None:
        import fcntl  # noqa: PLC0415

        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

"""What became of each case: one file of JSON lines that is only ever added to, and that survives a power cut."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from glialite_runtime.errors import OutputError

__all__ = ["EVENTS", "JOURNAL_NAME", "Entry", "Standing", "append", "entry", "follow", "read_journal", "standings"]

JOURNAL_NAME: Final = "glialite-journal.jsonl"
EVENTS: Final = ("started", "done", "failed")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal.

    Attributes
    ----------
    at : str
        When, in UTC, by this computer's clock.
    event : str
        One of `EVENTS`.
    case : str
        Name of the case.
    mark : str
        Tells its files as they were (names, sizes, times); another mark is another state of the case.
    sentence : str
        For people: the volumes of a case that is done, the reason of one that failed.
    """

    at: str
    event: str
    case: str
    mark: str
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a case stands.

    Attributes
    ----------
    event, mark : str
        Of its last entry.
    starts : int
        How often it was begun in a row, with these files, without an end: the program or the computer died over it.
    """

    event: str
    mark: str
    starts: int


def entry(event: str, case: str, mark: str, sentence: str = "") -> Entry:
    """Return an entry of this moment."""
    return Entry(datetime.now(UTC).isoformat(timespec="seconds"), event, case, mark, sentence)


def append(path: Path, new: Entry) -> None:
    """Add a line to the journal and wait until it lies on the disk; the file is made if need be.

    When the last line was cut off by a power cut, the new one begins on a line of its own.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    line = json.dumps(asdict(new), ensure_ascii=True, allow_nan=False).encode() + b"\n"
    try:
        fresh = not path.exists()
        with path.open("a+b", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            if size:
                stream.seek(size - 1)
                line = line if stream.read(1) == b"\n" else b"\n" + line
            if stream.write(line) != len(line):
                raise OutputError(f"cannot write {path} to its end: the disk is full; free space")
            os.fsync(stream.fileno())
        if fresh and os.name != "nt":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; free space") from error


def read_journal(path: Path) -> list[Entry]:
    """Return the entries of a journal, oldest first; none when there is no file.

    A line that is not an entry (cut off or zeroed by a power cut) is left out: what it told is found out again.

    Raises
    ------
    OutputError
        The file is there and cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return [found for line in stream if (found := _parsed(line)) is not None]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}; check the drive") from error


def _parsed(line: bytes) -> Entry | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        found = Entry(**fields)
    except (ValueError, TypeError):
        return None
    texts = (found.at, found.event, found.case, found.mark, found.sentence)
    return found if found.event in EVENTS and all(isinstance(text, str) for text in texts) else None


def follow(before: Standing | None, new: Entry) -> Standing:
    """Return where a case stands after one more entry."""
    again = before is not None and before.event == "started" and before.mark == new.mark
    starts = (before.starts if before is not None and again else 0) + 1 if new.event == "started" else 0
    return Standing(new.event, new.mark, starts)


def standings(entries: Iterable[Entry]) -> dict[str, Standing]:
    """Return case -> where it stands after all entries."""
    found: dict[str, Standing] = {}
    for one in entries:
        found[one.case] = follow(found.get(one.case), one)
    return found

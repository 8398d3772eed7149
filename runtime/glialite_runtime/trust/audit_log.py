"""The audit log: a line for every case, chained by hashes, without anything about a patient.

``audit.jsonl`` lies in the folder of the results. Its first line tells how many entries follow, where they end and the
hash of the last one, so that a log that was cut short is told from one that ends there. Whoever rewrites entries *and*
hashes with a program is not found; keep a copy of the last hash elsewhere where that matters.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from glialite_runtime import __version__
from glialite_runtime.errors import CheckFailedError, InputError, OutputError
from glialite_runtime.files import sha256_file

__all__ = ["LOG", "Event", "append", "inputs_hash", "verify_log"]

LOG: Final = "audit.jsonl"

_START: Final = "0" * 64
_HEAD_BYTES: Final = 140
_WORDS: Final = re.compile(r"[A-Za-z]+(: [A-Za-z]+)?")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to one case.

    Attributes
    ----------
    action : str
        The command, one word.
    verdict : str
        A word, or two with a colon: "good", "check", "refused: GeometryError". Never a message: those name files.
    inputs : str
        See `inputs_hash`.
    bundle : str
        `Bundle.identity`.
    seconds : float
        From start to verdict.
    manifest : str, optional
        SHA-256 of the case's manifest; None when nothing was written.
    """

    action: str
    verdict: str
    inputs: str
    bundle: str
    seconds: float
    manifest: str | None = None


@dataclass(frozen=True, slots=True)
class _Head:
    """The first line: how many entries there are, where the last one ends (in bytes of the file), its hash."""

    entries: int
    end: int
    last: str


def inputs_hash(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 for a case's inputs, from those of its files by sequence; file names do not enter."""
    return hashlib.sha256(_canonical(dict(hashes))).hexdigest()


def append(folder: Path, event: Event) -> str:
    """Add an entry to the log of a folder of results, flushed to disk, and return its hash.

    Threads and processes may append at once. What a power cut left of an entry is removed. Damage is not repaired: the
    chain stays broken at that place, for `verify_log` to find.

    Raises
    ------
    OutputError
        The log cannot be written.
    """
    if not all(_WORDS.fullmatch(text) for text in (event.action, event.verdict)):
        raise ValueError(f"{event} says more than words do; names of patients and files may not enter the log")
    path = folder / LOG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            with _locked(descriptor):
                return _append(descriptor, event)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"cannot write the audit log {path}: {error.strerror or error}; free space on it") from error


def _append(descriptor: int, event: Event) -> str:
    head = _settled(descriptor)
    entry = {
        **asdict(event),
        "number": head.entries + 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": f"GliaLite {__version__}",
        "previous": head.last,
    }
    digest = hashlib.sha256(_canonical(entry)).hexdigest()
    os.lseek(descriptor, 0, os.SEEK_END)
    _write(descriptor, _canonical({**entry, "hash": digest}) + b"\n")
    os.fsync(descriptor)  # the entry is on disk before the first line says so
    end = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, 0, os.SEEK_SET)
    _write(descriptor, _head_line(_Head(head.entries + 1, end, digest)))
    os.fsync(descriptor)
    return digest


def _settled(descriptor: int) -> _Head:
    """Return the head, after dealing with what a power cut left behind the last entry that it knows."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    line = os.read(descriptor, _HEAD_BYTES)
    if len(line) < _HEAD_BYTES and b"\n" not in line:  # new, or killed while it was made
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        _write(descriptor, _head_line(_Head(0, _HEAD_BYTES, _START)))
        return _Head(0, _HEAD_BYTES, _START)
    head = _parse_head(line)
    if head is None:
        return _Head(0, 0, _START)
    os.lseek(descriptor, head.end, os.SEEK_SET)
    tail = os.read(descriptor, 1 << 16)
    if tail and b"\n" not in tail:
        os.ftruncate(descriptor, head.end)
    entry = _parse_entry(tail)
    if entry is not None and entry["previous"] == head.last:
        return _Head(head.entries + 1, head.end + len(tail), entry["hash"])
    return head


def verify_log(folder: Path) -> dict[str, Any]:
    """Check the log of a folder of results: every entry, their chain, its length, and the results that are there.

    Returns
    -------
    dict
        `entries`, `last` (hash of the last entry), `results` (manifests found in the log).

    Raises
    ------
    InputError
        There is no log.
    CheckFailedError
        An entry was changed, removed, added or moved; the log was cut short; a result is not in it.
    """
    path = folder / LOG
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"there is no audit log {path} ({error.strerror}); give the folder of the results") from error
    head = _parse_head(content[:_HEAD_BYTES])
    problems = [] if head is not None else ["its first line was changed"]
    lines = content[_HEAD_BYTES:].split(b"\n")
    last, known = _START, set()
    for number, line in enumerate(lines[:-1], 1):
        entry = _parse_entry(line + b"\n")
        if entry is None:
            problems.append(f"entry {number} was changed")
            continue
        if entry["previous"] != last or entry["number"] != number:
            problems.append(f"entry {number} does not follow the one before: one was removed, added or moved")
        last = entry["hash"]
        known.add(entry["manifest"])
    count = len(lines) - 1
    # A power cut between an entry and the first line leaves the entry out of the first line's account: one, not more.
    if head is not None and not problems and (head.entries, head.last) != (count, last):
        earlier = _parse_entry(lines[count - 1] + b"\n") if count else None
        if earlier is None or (head.entries, head.last) != (count - 1, earlier["previous"]):
            problems.append(f"it holds {count} entries where {head.entries} were written")
    manifests = sorted(folder.glob("*/*-manifest.json"))
    unknown = [manifest for manifest in manifests if sha256_file(manifest) not in known]
    problems += [f"the result {manifest.parent.name} is not in it" for manifest in unknown]
    if problems:
        raise CheckFailedError(f"{path}: " + "; ".join(problems))
    return {"entries": count, "last": last, "results": len(manifests)}


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _parse_entry(line: bytes) -> dict[str, Any] | None:
    """Return an entry whose hash is right and that is written in the one way, else None."""
    try:
        entry = json.loads(line)
        body = {name: value for name, value in entry.items() if name != "hash"}
        right = hashlib.sha256(_canonical(body)).hexdigest() == entry["hash"] and _canonical(entry) + b"\n" == line
        whole = right and isinstance(entry["manifest"], str | None) and {"number", "previous"} <= entry.keys()
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    return entry if whole else None


def _head_line(head: _Head) -> bytes:
    return _canonical(asdict(head)).ljust(_HEAD_BYTES - 1) + b"\n"


def _parse_head(line: bytes) -> _Head | None:
    try:
        found = json.loads(line)
        head = _Head(int(found["entries"]), int(found["end"]), str(found["last"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return head if _head_line(head) == line else None


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Hold the log against other processes and threads; each has opened it for itself."""
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # the first byte; it waits 10 s, then raises OSError
        try:
            yield
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl  # noqa: PLC0415

        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

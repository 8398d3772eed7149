"""The journal: added to, never rewritten; a line that a power cut spoilt costs that line only."""

from __future__ import annotations

from pathlib import Path

import pytest
from glialite_runtime.clinic.journal import append, entry, follow, read_journal, standings
from glialite_runtime.errors import OutputError


def test_what_is_added_is_read_again_in_order(tmp_path: Path) -> None:
    """Names and sentences of any alphabet, on one line each."""
    written = [entry("started", "Señora\n1", "m"), entry("done", "Señora\n1", "m", "WT 3 mL")]
    for one in written:
        append(tmp_path / "j", one)
    assert read_journal(tmp_path / "j") == written
    assert (tmp_path / "j").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("tail", [b'{"at": "2026", "event": "do', b"\0" * 300, b"\xff\xfe", b"[1]\n", b"{}"])
def test_a_spoilt_last_line_is_left_out_and_the_next_one_is_whole(tmp_path: Path, tail: bytes) -> None:
    """Cut off anywhere, or zeroed: the entries before and after it count."""
    path = tmp_path / "j"
    append(path, entry("done", "A", "m"))
    with path.open("ab") as stream:
        stream.write(tail)
    assert [e.case for e in read_journal(path)] == ["A"]
    append(path, entry("done", "B", "m"))
    assert [e.case for e in read_journal(path)] == ["A", "B"]


def test_every_cut_of_the_last_line_leaves_a_journal(tmp_path: Path) -> None:
    """At each byte."""
    path = tmp_path / "j"
    append(path, entry("done", "A", "m"))
    first = path.stat().st_size
    append(path, entry("failed", "B", "m", "why"))
    content = path.read_bytes()
    for length in range(first, len(content) + 1):
        path.write_bytes(content[:length])
        assert [e.case for e in read_journal(path)] == (["A", "B"] if length >= len(content) - 1 else ["A"])


def test_starts_without_an_end_are_counted_by_state_of_the_files() -> None:
    """A program that died over the same files three times; an end or other files begin anew."""
    standing = None
    for _ in range(3):
        standing = follow(standing, entry("started", "A", "m"))
    assert standing is not None
    assert standing.starts == 3
    assert follow(standing, entry("started", "A", "other")).starts == 1
    assert standings([entry("started", "A", "m"), entry("done", "A", "m"), entry("started", "A", "m")])["A"].starts == 1


def test_a_journal_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The sentence names the file."""
    with pytest.raises(OutputError, match="absent"):
        append(tmp_path / "absent" / "j", entry("done", "A", "m"))

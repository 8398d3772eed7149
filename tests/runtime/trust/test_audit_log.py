"""The audit log: what was done is there, and what was done to the log is found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from glialite_runtime.errors import CheckFailedError, InputError, OutputError
from glialite_runtime.files import sha256_file
from glialite_runtime.trust import audit_log
from glialite_runtime.trust.audit_log import LOG, Event, append, inputs_hash, verify_log

EVENT = Event("segment", "good", inputs_hash({"t1n": "a"}), "b" * 64, 0.8)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the log of a folder with five entries."""
    for seconds in range(5):
        append(tmp_path, replace(EVENT, seconds=float(seconds)))
    return tmp_path / LOG


def edit(log: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of a log; the first one is number 0."""
    log.write_bytes(b"".join(change(log.read_bytes().splitlines(keepends=True))))


def test_an_untouched_log_holds(log: Path) -> None:
    """Entries are counted, and the last hash is the one that `append` gave."""
    last = append(log.parent, EVENT)
    assert verify_log(log.parent) == {"entries": 6, "last": last, "results": 0}


def test_an_entry_says_what_happened_and_nothing_of_the_patient(log: Path) -> None:
    """Exactly these fields; words and hashes, no names."""
    entry = json.loads(log.read_bytes().splitlines()[3])
    assert {**entry, "time": "", "previous": "", "hash": "", "software": entry["software"][:8]} == {
        "action": "segment",
        "bundle": "b" * 64,
        "hash": "",
        "inputs": EVENT.inputs,
        "manifest": None,
        "number": 3,
        "previous": "",
        "seconds": 2.0,
        "software": "GliaLite",
        "time": "",
        "verdict": "good",
    }


@pytest.mark.parametrize("verdict", ["P01 is not skull-stripped", "refused: /data/P01", "good\n", ""])
def test_a_message_cannot_enter(verdict: str, tmp_path: Path) -> None:
    """Messages name files and patients; only words pass."""
    with pytest.raises(ValueError, match="names of patients"):
        append(tmp_path, replace(EVENT, verdict=verdict))
    assert not (tmp_path / LOG).exists()


def test_the_hash_of_inputs_knows_the_sequences_but_not_their_order() -> None:
    """Two swapped sequences are other inputs."""
    assert inputs_hash({"t1n": "a", "t1c": "b"}) == inputs_hash({"t1c": "b", "t1n": "a"})
    assert inputs_hash({"t1n": "a", "t1c": "b"}) != inputs_hash({"t1n": "b", "t1c": "a"})


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda lines: [line.replace(b'"seconds":2.0', b'"seconds":3.0') for line in lines], "entry 3 was changed"),
        (lambda lines: [*lines[:3], *lines[4:]], "entry 3 does not follow"),
        (lambda lines: [*lines[:2], *lines[3:1:-1], *lines[4:]], "entry 2 does not follow"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "entry 3 does not follow"),
        (lambda lines: lines[:-1], "holds 4 entries where 5"),
        (lambda lines: lines[:1], "holds 0 entries where 5"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "holds 4 entries where 5"),
        (lambda lines: [*lines[:-2], lines[-1]], "entry 4 does not follow"),
        (lambda lines: [*lines, b"{}\n"], "entry 6 was changed"),
        (lambda lines: [*lines, b"[" * 100_000 + b"\n"], "entry 6 was changed"),
        (lambda lines: [*lines[:3], b"\xff\x00\n", *lines[3:]], "entry 3 was changed"),
        (lambda lines: [lines[0].replace(b'"entries":5', b'"entries":4'), *lines[1:]], "holds 5 entries where 4"),
        (lambda lines: [b"\n", *lines[1:]], "first line was changed"),
        (lambda lines: [lines[0], lines[1].replace(b'","', b'", "'), *lines[2:]], "entry 1 was changed"),
    ],
    ids=[
        *("edited", "removed", "moved", "doubled", "cut short", "emptied", "cut within", "last but one removed"),
        *("added", "deep", "garbage", "count edited", "no first line", "same content, other bytes"),
    ],
)
def test_what_was_done_to_it_is_found(log: Path, change: Callable[[list[bytes]], list[bytes]], found: str) -> None:
    """Edits, deletion, truncation, insertion: a failed check that says where."""
    edit(log, change)
    with pytest.raises(CheckFailedError, match=found):
        verify_log(log.parent)


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_going_on_does_not_hide_that_entries_were_removed(log: Path, kept: int) -> None:
    """The next case is logged all the same, and the gap stays visible."""
    edit(log, lambda lines: lines[:kept])
    append(log.parent, EVENT)
    with pytest.raises(CheckFailedError, match="does not follow"):
        verify_log(log.parent)


def test_a_removed_log_is_found_by_the_results(log: Path) -> None:
    """Results whose manifest no entry names."""
    (log.parent / "P01").mkdir()
    manifest = log.parent / "P01" / "P01-manifest.json"
    manifest.write_text("{}")
    append(log.parent, replace(EVENT, manifest=sha256_file(manifest)))
    assert verify_log(log.parent)["results"] == 1
    log.unlink()
    append(log.parent, EVENT)
    with pytest.raises(CheckFailedError, match="the result P01 is not in it"):
        verify_log(log.parent)


def test_a_power_cut_within_an_entry_is_repaired(log: Path) -> None:
    """What is left of the entry goes; nothing else does."""
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"action":"seg\0\0\0')
    assert verify_log(log.parent)["entries"] == 5
    append(log.parent, EVENT)
    assert verify_log(log.parent)["entries"] == 6


def test_a_power_cut_between_entry_and_first_line_loses_nothing(log: Path) -> None:
    """The entry was on disk already: it counts, and the next one follows it."""
    before = log.read_bytes()[: audit_log._HEAD_BYTES]
    append(log.parent, EVENT)
    log.write_bytes(before + log.read_bytes()[len(before) :])
    assert verify_log(log.parent)["entries"] == 6
    append(log.parent, EVENT)
    assert verify_log(log.parent)["entries"] == 7


def test_a_power_cut_in_the_first_line_starts_anew(tmp_path: Path) -> None:
    """A log that holds nothing yet is made again."""
    (tmp_path / LOG).write_bytes(b'{"end":1')
    append(tmp_path, EVENT)
    assert verify_log(tmp_path)["entries"] == 1


def test_several_processes_and_threads_append_at_once(tmp_path: Path) -> None:
    """No entry is lost or torn."""
    code = (
        "import sys; from pathlib import Path; from glialite_runtime.trust.audit_log import *\n"
        "for n in range(15): append(Path(sys.argv[1]), Event('batch', 'good', 'a', 'b', float(n)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    others = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: append(tmp_path, EVENT), range(20)))
    assert [other.wait() for other in others] == [0, 0, 0]
    assert verify_log(tmp_path)["entries"] == 65


def test_an_entry_is_flushed_before_the_first_line_counts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two flushes, and at the first one the file does not know the entry yet."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((tmp_path / LOG).read_bytes()))
    append(tmp_path, EVENT)
    assert [re.findall(rb'"entries":(\d)', content) for content in seen] == [[b"0"], [b"1"]]
    assert all(content.count(b"\n") == 2 for content in seen)


def test_a_folder_without_a_log_says_so(tmp_path: Path) -> None:
    """Exit code 3."""
    with pytest.raises(InputError, match="no audit log"):
        verify_log(tmp_path)


def test_a_log_that_cannot_be_written_stops_the_case(tmp_path: Path) -> None:
    """Exit code 7: no result without its entry."""
    (tmp_path / LOG).mkdir()
    with pytest.raises(OutputError, match="audit log"):
        append(tmp_path, EVENT)

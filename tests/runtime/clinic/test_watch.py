"""Watching a folder: what is begun when, what is recorded, and what happens when things go wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from glialite_runtime.cases import Case
from glialite_runtime.clinic.instance import only_one
from glialite_runtime.clinic.journal import JOURNAL_NAME, append, entry, read_journal
from glialite_runtime.clinic.watch import WatchOptions, watch
from glialite_runtime.errors import BundleError, ConfigError, InputError, OutputError

from tests.runtime.clinic.test_arrivals import SEQUENCES, fill

QUICK = WatchOptions(interval_s=0.01, patience_s=0.05, pause_s=0.01, once=True)


class Desk:
    """A clinic: an inbox, an outbox, what was worked on and what was told."""

    def __init__(self, folder: Path) -> None:
        self.inbox, self.outbox = folder / "in", folder / "out"
        self.inbox.mkdir()
        self.worked: list[str] = []
        self.told: list[tuple[str, str, str]] = []
        self.stop = threading.Event()

    def run(self, work: Callable[[Case], str] | None = None, options: WatchOptions = QUICK) -> int:
        def note(case: Case) -> str:
            self.worked.append(case.name)
            return work(case) if work else "fine"

        return watch(self.inbox, self.outbox, note, lambda *t: self.told.append(t), self.stop, options)

    @property
    def journal(self) -> list[tuple[str, str]]:
        return [(e.event, e.case) for e in read_journal(self.outbox / JOURNAL_NAME)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_each_case_is_worked_on_once_and_never_again(desk: Desk) -> None:
    """A second start finds all done; the inbox is left as it was."""
    fill(desk.inbox / "A")
    fill(desk.inbox, "B-")
    before = sorted(p.name for p in desk.inbox.rglob("*"))
    assert desk.run() == 0
    assert desk.run() == 0
    assert desk.worked == ["A", "B"]
    assert desk.told == [("done", "A", "fine"), ("done", "B", "fine")]
    assert desk.journal == [("started", "A"), ("done", "A"), ("started", "B"), ("done", "B")]
    assert sorted(p.name for p in desk.inbox.rglob("*")) == before


def test_a_failed_case_is_recorded_once_and_tried_again_when_its_files_change(desk: Desk) -> None:
    """Its sentence lies in the journal and in a text file, which goes when it is done at last."""
    fill(desk.inbox / "A")

    def refuse(case: Case) -> str:
        raise InputError("t1c is empty")

    assert desk.run(refuse) == 1
    assert desk.run(refuse) == 1
    notice = desk.outbox / "A-not-segmented.txt"
    assert desk.worked == ["A"]
    assert desk.told == [("failed", "A", "t1c is empty")]
    assert "t1c is empty" in notice.read_text()
    (desk.inbox / "A" / "t1c.nii.gz").write_bytes(b"a better copy")
    assert desk.run() == 0
    assert desk.worked == ["A", "A"]
    assert not notice.exists()


def test_the_notice_of_a_failed_case_is_in_the_language_of_the_clinic(desk: Desk) -> None:
    """With the English sentence behind it; the journal, which others read too, stays English."""
    fill(desk.inbox / "A")

    def refuse(case: Case) -> str:
        raise InputError("t1c is empty: every voxel is 0")

    assert desk.run(refuse, replace(QUICK, language="fr")) == 1
    notice = (desk.outbox / "A-not-segmented.txt").read_text("utf-8")
    assert notice.startswith("A n'a pas été segmenté : T1 avec contraste est vide : tous les voxels valent 0 (")
    assert notice.endswith("t1c is empty: every voxel is 0)\n")
    assert read_journal(desk.outbox / JOURNAL_NAME)[-1].sentence == "t1c is empty: every voxel is 0"
    assert desk.told == [("failed", "A", "t1c is empty: every voxel is 0")]


def test_a_growing_file_is_waited_for(desk: Desk) -> None:
    """It is as large as ever only when two looks agree."""
    fill(desk.inbox / "A")
    growing, sizes = desk.inbox / "A" / "t2f.nii.gz", []

    def grow() -> None:
        for _ in range(10):
            with growing.open("ab") as stream:
                stream.write(b"x" * 10)
            threading.Event().wait(0.02)

    def work(case: Case) -> str:
        sizes.append(growing.stat().st_size)
        return ""

    writer = threading.Thread(target=grow)
    writer.start()
    desk.run(work, WatchOptions(interval_s=0.1, once=True))
    writer.join()
    assert sizes == [103]


def test_what_is_not_complete_is_given_time(desk: Desk) -> None:
    """The fourth file comes late, but comes in time."""
    fill(desk.inbox / "A", sequences=SEQUENCES[:3])
    late = threading.Timer(0.15, fill, (desk.inbox / "A",))
    late.start()
    seen = []
    desk.run(lambda case: str(seen.append(len(case.paths))), WatchOptions(interval_s=0.02, patience_s=5, once=True))
    late.join()
    assert seen == [4]


def test_what_stays_incomplete_is_taken_as_it_is(desk: Desk) -> None:
    """The model says what it needs; nobody waits for ever without a word."""
    fill(desk.inbox / "A", sequences=SEQUENCES[:2])
    seen = []
    desk.run(lambda case: str(seen.append(len(case.paths))))
    assert seen == [2]


def test_a_locked_file_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and times agree, but it cannot be opened at the first three looks."""
    fill(desk.inbox / "A")
    looks = iter([False, False, False, True, True, True])
    monkeypatch.setattr("glialite_runtime.clinic.watch.readable", lambda arrival: next(looks))
    desk.run(options=WatchOptions(interval_s=0.01, patience_s=60, once=True))
    assert desk.worked == ["A"]
    assert next(looks), "it was begun at the second look that could open it"


def test_a_full_disk_is_waited_for_and_said_once(desk: Desk) -> None:
    """No case fails for it; when there is room the work goes on by itself."""
    fill(desk.inbox / "A")
    fill(desk.inbox / "B")
    full = [True] * 7

    def work(case: Case) -> str:
        if full and full.pop():
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise OutputError("cannot write X: No space left on device") from error
        return "fine"

    assert desk.run(work) == 0
    assert [event for event, _, _ in desk.told] == ["waiting", "done", "done"]
    assert "No space left" in desk.told[0][2]
    assert desk.journal == [("started", "A"), ("done", "A"), ("started", "B"), ("done", "B")]


def test_a_name_that_the_drive_cannot_keep_fails_that_case_only(desk: Desk) -> None:
    """Waiting would not cure it, and would hold up everybody else."""
    fill(desk.inbox / "A")
    fill(desk.inbox / "B")

    def work(case: Case) -> str:
        if case.name == "A":
            try:
                raise OSError(errno.ENAMETOOLONG, "File name too long")
            except OSError as error:
                raise OutputError("cannot write A") from error
        return "fine"

    assert desk.run(work) == 1
    assert [event for event, _, _ in desk.told] == ["failed", "done"]


def test_our_own_bug_costs_one_case(desk: Desk) -> None:
    """It is recorded as one, and the next case is done."""
    fill(desk.inbox / "A")
    fill(desk.inbox / "B")

    def work(case: Case) -> str:
        return "fine" if case.name == "B" else str(1 // 0)

    assert desk.run(work) == 1
    assert "ZeroDivisionError" in desk.told[0][2]
    assert desk.told[1][:2] == ("done", "B")


def test_a_bad_bundle_ends_the_watch_and_blames_no_case(desk: Desk) -> None:
    """Every case would fail for it."""
    fill(desk.inbox / "A")

    def work(case: Case) -> str:
        raise BundleError("changed")

    with pytest.raises(BundleError):
        desk.run(work)
    assert desk.journal == [("started", "A")]


def test_files_that_vanish_during_the_work_are_no_failure(desk: Desk) -> None:
    """The stick was pulled out: when it comes back the case is tried again."""
    fill(desk.inbox / "A")

    def work(case: Case) -> str:
        for path in case.paths.values():
            path.unlink()
        raise InputError("truncated")

    assert desk.run(work) == 0
    assert desk.told == []
    fill(desk.inbox / "A")
    desk.run()
    assert desk.told == [("done", "A", "fine")]


def test_an_inbox_that_vanishes_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once; the work goes on when it is back."""
    fill(desk.inbox / "A")
    moved = desk.inbox.with_name("gone")
    desk.inbox.rename(moved)
    monkeypatch.setattr("glialite_runtime.clinic.watch._check_folders", lambda *folders: None)
    back = threading.Timer(0.2, moved.rename, (desk.inbox,))
    back.start()
    desk.run(options=WatchOptions(interval_s=0.01, pause_s=0.02, once=True))
    back.join()
    assert [event for event, _, _ in desk.told] == ["waiting", "done"]


def test_after_a_power_cut_the_work_goes_on_where_it_was(desk: Desk) -> None:
    """A was done, B was begun, the line about it cut off: B is worked on, A is not."""
    fill(desk.inbox / "A")
    desk.run()
    fill(desk.inbox / "B")
    with (desk.outbox / JOURNAL_NAME).open("ab") as stream:
        stream.write(b'{"at": "2026-01-01", "event": "star')
    (desk.outbox / ".glialite-work" / "unpacked").mkdir(parents=True)
    desk.run()
    assert desk.worked == ["A", "B"]
    assert not (desk.outbox / ".glialite-work").exists()


def test_a_case_that_kills_the_program_is_left_alone_in_the_end(desk: Desk) -> None:
    """Begun five times without an end: the sixth start says so and does the others."""
    fill(desk.inbox / "A")
    fill(desk.inbox / "B")

    def die(case: Case) -> str:
        raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            desk.run(die)
    assert desk.run() == 1
    assert desk.worked == ["A"] * 5 + ["B"]
    assert "ended 5 times" in desk.told[0][2]


def test_stop_finishes_the_case_in_work_and_begins_no_other(desk: Desk) -> None:
    """What is written is whole and recorded."""
    fill(desk.inbox / "A")
    fill(desk.inbox / "B")

    def work(case: Case) -> str:
        desk.stop.set()
        return "fine"

    desk.run(work)
    assert desk.journal == [("started", "A"), ("done", "A")]


def test_folders_must_lie_apart_and_belong_to_one_watch(desk: Desk) -> None:
    """An outbox in the inbox would be taken for a case."""
    for inbox, outbox in ((desk.inbox, desk.inbox), (desk.inbox, desk.inbox / "out"), (desk.inbox / "a", desk.outbox)):
        with pytest.raises(ConfigError):
            watch(inbox, outbox, str, lambda *told: None, desk.stop, QUICK)
    with only_one(desk.outbox), pytest.raises(ConfigError, match="already works into"):
        desk.run()


def test_a_journal_of_another_day_is_respected(desk: Desk) -> None:
    """A case that is recorded with other files is worked on again."""
    fill(desk.inbox / "A")
    desk.outbox.mkdir()
    append(desk.outbox / JOURNAL_NAME, entry("done", "A", "other files"))
    desk.run()
    assert desk.worked == ["A"]


def test_the_command_ends_in_order_when_asked_to(
    tmp_path: Path, case_folder: Path, make_bundle: Callable[..., Path]
) -> None:
    """A child process: it segments what lies there, SIGTERM ends it with code 0 and a whole journal."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    case_folder.rename(inbox / "P01")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = "from glialite_runtime.cli import main; main()"
    arguments = ["watch", str(inbox), str(tmp_path / "out"), "--bundle", str(make_bundle())]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    assert "P01: WT" in child.stdout.readline()
    child.terminate()
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert (tmp_path / "out" / "P01" / "P01-manifest.json").exists()
    assert [e.event for e in read_journal(tmp_path / "out" / JOURNAL_NAME)] == ["started", "done"]

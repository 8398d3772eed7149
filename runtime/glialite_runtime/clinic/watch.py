"""Segment what arrives in a folder, one case after the other, until told to stop."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glialite_runtime.cases import Case
from glialite_runtime.clinic.arrivals import Arrival, find_arrivals, mark_of, open_arrival, readable
from glialite_runtime.clinic.instance import only_one
from glialite_runtime.clinic.journal import (
    JOURNAL_NAME,
    Entry,
    Standing,
    append,
    entry,
    follow,
    read_journal,
    standings,
)
from glialite_runtime.errors import (
    BackendUnavailableError,
    BundleError,
    ConfigError,
    GliaLiteError,
    InputError,
    OutputError,
)
from glialite_runtime.files import remove, write_bytes
from glialite_runtime.page.refusals import refusal
from glialite_runtime.page.words import words_in

__all__ = ["WatchOptions", "watch"]

_MOST_STARTS: Final = 5
"""A case over which the program died this often in a row is left alone: the sixth time would end the same way."""

_OF_THE_CASE: Final = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})
"""Reasons why one case cannot be written that waiting does not cure; a full disk or an unplugged drive it may."""

_WORK_FOLDER: Final = ".glialite-work"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch.

    Attributes
    ----------
    channel_order : tuple of str or None
        What nnU-Net's ``_0000`` to ``_0003`` are.
    interval_s : float
        Between two looks. FAT drives keep times to 2 s.
    patience_s : float
        How long a case that is not complete must stay unchanged before it is taken as it is.
    pause_s : float
        Before the next try when a result could not be written.
    once : bool
        End as soon as nothing is left to do.
    language : str
        Of ``<case>-not-segmented.txt``. The journal and what is told are English.
    """

    channel_order: tuple[str, ...] | None = None
    interval_s: float = 2.0
    patience_s: float = 60.0
    pause_s: float = 10.0
    once: bool = False
    language: str = "en"


@dataclass(frozen=True, slots=True)
class _Seen:
    """State of an arrival and since when, in seconds of the monotonic clock, it has been in it."""

    mark: str
    since: float


Tell = Callable[[str, str, str], None]
"""Called with an event ("done", "failed", "waiting"), the name of the case or "", and a sentence."""


def watch(
    inbox: Path,
    outbox: Path,
    work: Callable[[Case], str],
    tell: Tell,
    stop: threading.Event,
    options: WatchOptions = WatchOptions(),
) -> int:
    """Work on every case that arrives in `inbox` until `stop` is set; return how many lie there that have failed.

    A case is taken when two looks have found the same files, sizes and times, every file can be opened, and it is
    complete or has not changed for `patience_s`. What became of it is written to the journal in `outbox`; it is taken
    again only when its files change. After a crash or a power cut the same call goes on where it was.

    Parameters
    ----------
    inbox, outbox : Path
        Neither may lie in the other. Nothing in `inbox` is ever changed.
    work : callable
        Makes and writes the results of a case, or finds them finished; returns a sentence for people.
    tell : callable
        See `Tell`.
    stop : Event
        When set, the case in work is finished and nothing more begun.
    options : WatchOptions
        How.

    Raises
    ------
    ConfigError
        `inbox` is no folder, one folder lies in the other, or another process works into `outbox`.
    OutputError
        `outbox` cannot be made or locked. Later a full disk is waited for.
    BundleError, BackendUnavailableError
        From `work`: no case can be segmented.
    """
    _check_folders(inbox, outbox)
    with only_one(outbox):
        shutil.rmtree(outbox / _WORK_FOLDER, ignore_errors=True)
        desk = _Desk(outbox, work, tell, options)
        said = ""
        while not stop.is_set():
            pause = options.interval_s
            try:
                for arrival in desk.look(find_arrivals(inbox, options.channel_order)):
                    if stop.is_set():
                        break
                    desk.attend(arrival)
                said = ""
                if options.once and desk.idle:
                    break
            except (OutputError, InputError) as error:  # InputError: the inbox itself cannot be read
                pause = options.pause_s
                if str(error) != said:
                    said = str(error)
                    tell("waiting", "", f"{said}; waiting, and trying again every {pause:g} s")
            stop.wait(pause)
        return desk.failed


def _check_folders(inbox: Path, outbox: Path) -> None:
    if not inbox.is_dir():
        raise ConfigError(f"{inbox} is not a folder; give the one in which cases arrive")
    first, second = inbox.resolve(), outbox.resolve()
    if first == second or first in second.parents or second in first.parents:
        raise ConfigError(f"{inbox} and {outbox} lie in each other; give two separate folders")


class _Desk:
    """What is known of the cases, and the work on one of them."""

    def __init__(self, outbox: Path, work: Callable[[Case], str], tell: Tell, options: WatchOptions) -> None:
        self._outbox, self._work, self._tell, self._options = outbox, work, tell, options
        self._known: dict[str, Standing] = standings(read_journal(outbox / JOURNAL_NAME))
        self._seen: dict[str, _Seen] = {}
        self._begun: set[tuple[str, str]] = set()

    def look(self, arrivals: list[Arrival]) -> list[Arrival]:
        """Return the arrivals that are ready: seen before as they are now, and not yet dealt with."""
        now, before, ready = time.monotonic(), self._seen, []
        self._seen = {}
        for arrival in arrivals:
            mark = mark_of(arrival)
            opens = self._settled(arrival.name, mark) or readable(arrival)
            mark = mark if opens else f"{mark}-locked"
            last = before.get(arrival.name)
            again = last is not None and last.mark == mark
            since = last.since if last is not None and again else now
            self._seen[arrival.name] = _Seen(mark, since)
            waited = now - since >= self._options.patience_s
            if again and not self._settled(arrival.name, mark) and (waited or (arrival.complete and opens)):
                ready.append(arrival)
        return ready

    def _settled(self, name: str, mark: str) -> bool:
        standing = self._known.get(name)
        return standing is not None and standing.event in ("done", "failed") and standing.mark == mark

    @property
    def idle(self) -> bool:
        """Whether everything that was seen is dealt with."""
        return all(self._settled(name, seen.mark) for name, seen in self._seen.items())

    @property
    def failed(self) -> int:
        """How many of the arrivals seen have failed, as they lie there."""
        return sum(self._known[n].event == "failed" for n, seen in self._seen.items() if self._settled(n, seen.mark))

    def attend(self, arrival: Arrival) -> None:
        """Work on a case and record what became of it.

        Raises
        ------
        OutputError
            Nothing can be written now; the case is not recorded as failed.
        """
        mark, standing = self._seen[arrival.name].mark, self._known.get(arrival.name)
        if (arrival.name, mark) not in self._begun:  # a full disk makes us begin again: that is no crash
            if standing is not None and standing.mark == mark and standing.starts >= _MOST_STARTS:
                self._fail(arrival, mark, f"the program ended {standing.starts} times while working on this case")
                return
            self._record(entry("started", arrival.name, mark))
            self._begun.add((arrival.name, mark))
        try:
            sentence = self._worked(arrival)
        except (BundleError, BackendUnavailableError, ImportError):  # the installation's fault, whatever the case
            raise
        except OutputError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_THE_CASE):
                raise
            self._fail(arrival, mark, str(error))
        except GliaLiteError as error:
            self._fail(arrival, mark, str(error))
        except MemoryError:
            self._fail(arrival, mark, "this computer has not enough free memory for this case; close other programs")
        except OSError as error:
            self._fail(arrival, mark, f"cannot be read ({error.strerror or error}); check the drive")
        except Exception as error:
            logging.getLogger(__name__).exception("this is a bug in GliaLite")
            self._fail(arrival, mark, f"a fault in GliaLite ({type(error).__name__}: {error}); please report it")
        else:
            remove(self._notice(arrival.name))
            self._record(entry("done", arrival.name, mark, sentence))
            self._tell("done", arrival.name, sentence)

    def _worked(self, arrival: Arrival) -> str:
        scratch = self._outbox / _WORK_FOLDER  # on the same drive as the results, emptied at every start
        try:
            return self._work(open_arrival(arrival, scratch, self._options.channel_order))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _fail(self, arrival: Arrival, mark: str, sentence: str) -> None:
        now = mark_of(arrival)
        if now != mark.removesuffix("-locked"):  # a drive was pulled out, or somebody still copies
            return
        words = words_in(self._options.language)
        said = words.say("not_segmented", name=arrival.name, sentence=refusal(sentence, words))
        write_bytes(self._notice(arrival.name), f"{said}\n".encode())
        self._record(entry("failed", arrival.name, mark, sentence))
        self._tell("failed", arrival.name, sentence)

    def _record(self, new: Entry) -> None:
        append(self._outbox / JOURNAL_NAME, new)
        self._known[new.case] = follow(self._known.get(new.case), new)

    def _notice(self, name: str) -> Path:
        return self._outbox / f"{name}-not-segmented.txt"

"""The cases of the local page: files that were dropped, a queue for the one worker, results."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from glialite_runtime.cases import Case, case_from_files, sequence_of
from glialite_runtime.clinic.arrivals import Arrival, open_arrival, prefix_of
from glialite_runtime.errors import ConfigError, GliaLiteError, InputError, OutputError
from glialite_runtime.report import ReportOptions
from glialite_runtime.sequences import SEQUENCES

__all__ = ["Job", "Limits", "Result", "Work", "Worklist"]

_ENDING: Final = re.compile(r"(\.nii|\.nii\.gz|\.zip)$", re.IGNORECASE)
_PIECE: Final = 1 << 20
_DEFAULT: Final = ReportOptions()


@dataclass(frozen=True, slots=True)
class Limits:
    """What the page accepts.

    Attributes
    ----------
    file_bytes, case_bytes : int
        Most bytes of a file and of all files of a case.
    files : int
        Most files of a case; a DICOM study has about 1 000.
    cases : int
        Most cases in the list.
    spare_bytes : int
        Of the disk, that uploads leave free.
    """

    file_bytes: int = 1 << 30
    case_bytes: int = 2 << 30
    files: int = 5000
    cases: int = 50
    spare_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case: its report and the files that may be downloaded, by name."""

    report: dict[str, Any]
    files: dict[str, Path]


Work = Callable[[Case, ReportOptions], Result]


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Job:
    """A case of the list.

    Attributes
    ----------
    key : str
        Its name in addresses, made here.
    folder : Path
        Its uploads, removed with it.
    state : str
        "collecting", "waiting", "working", "done" or "failed".
    files : dict of str to Path
        The name that a file came with -> where it lies, under a name made here.
    arriving : int
        How many of them are still being copied.
    name : str
        Name of the case; empty until it is started.
    chosen : dict of str to str
        Sequence -> name of the file, as the user confirmed it.
    options : ReportOptions
        What the user wants of its report, and whether the scans are raw.
    sentence : str
        Why it failed.
    since : float
        When it got into this state (`time.monotonic`).
    case : Case or None
        Once it is worked on.
    result : Result or None
        Once it is done.
    """

    key: str
    folder: Path
    state: str = "collecting"
    files: dict[str, Path] = field(default_factory=dict)
    arriving: int = 0
    name: str = ""
    chosen: dict[str, str] = field(default_factory=dict)
    options: ReportOptions = _DEFAULT
    sentence: str = ""
    since: float = 0.0
    case: Case | None = None
    result: Result | None = None


class Worklist:
    """The list; safe to use from several threads."""

    def __init__(self, folder: Path, taken: Callable[[str], bool], limits: Limits = Limits()) -> None:
        self._folder, self._taken, self.limits = folder, taken, limits
        self._jobs: dict[str, Job] = {}
        self._bytes: dict[str, int] = {}
        self._changed = threading.Condition()

    def get(self, key: str) -> Job:
        """Return a case; `InputError` when there is none of that key."""
        with self._changed:
            if key not in self._jobs:
                raise InputError("this case is not in the list any more")
            return self._jobs[key]

    def jobs(self) -> list[Job]:
        """Return all cases, in the order in which they came."""
        with self._changed:
            return list(self._jobs.values())

    def _set(self, key: str, **changes: Any) -> Job:
        with self._changed:
            self._jobs[key] = replace(self._jobs[key], since=time.monotonic(), **changes)
            self._changed.notify_all()
            return self._jobs[key]

    def open(self) -> Job:
        """Begin a case without files; `ConfigError` when the list is full."""
        with self._changed:
            if len(self._jobs) >= self.limits.cases:
                raise ConfigError(f"the list is full ({self.limits.cases} cases); remove some first")
            key = secrets.token_hex(8)
            self._jobs[key] = Job(key, self._folder / key)
            self._bytes[key] = 0
            return self._jobs[key]

    def receive(self, key: str, name: str, length: int, source: _Source) -> str | None:
        """Take a file and return the sequence that its name tells, if any.

        It is stored under a name made here, so that no name that comes from outside touches the disk.

        Raises
        ------
        InputError
            The name is damaged or there twice, the file breaks a limit or came only in part.
        OutputError
            The disk is full.
        """
        path = self._reserve(key, name, length)
        try:
            if shutil.disk_usage(self._folder).free < length + self.limits.spare_bytes:
                raise OutputError(f"the disk is too full for {name} ({length >> 20} MB); free space")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as sink:
                left = length
                while left and (piece := source.read(min(left, _PIECE))):
                    sink.write(piece)
                    left -= len(piece)
            if left:
                raise InputError(f"{name} came only in part; drop it again")
        except OSError as error:
            self._forget(key, name, length, path)
            if isinstance(error, TimeoutError):
                raise
            raise OutputError(f"cannot store {name}: {error.strerror or error}; free space") from error
        except GliaLiteError:
            self._forget(key, name, length, path)
            raise
        with self._changed:
            if key in self._jobs:
                self._jobs[key] = replace(self._jobs[key], arriving=self._jobs[key].arriving - 1)
        return sequence_of(Path(name))

    def _reserve(self, key: str, name: str, length: int) -> Path:
        limits = self.limits
        with self._changed:
            job = self.get(key)
            if job.state != "collecting":
                raise InputError("this case is in work already; drop the files as a new case")
            if not 0 < len(name) <= 255 or not name.isprintable() or re.search(r'[/\\:*?"<>|]', name):
                raise InputError(f"{name[:80]!a} is no name of a file")
            if name.casefold() in (other.casefold() for other in job.files):
                raise InputError(f"{name} is there twice; drop the files of one case only")
            if not 0 < length <= limits.file_bytes:
                raise InputError(f"{name} has {length:,} bytes; 1 to {limits.file_bytes:,} are accepted")
            if len(job.files) >= limits.files or self._bytes[key] + length > limits.case_bytes:
                raise InputError(
                    f"a case may have {limits.files:,} files and {limits.case_bytes:,} bytes; drop one case at a time"
                )
            ending = _ENDING.search(name)
            path = (
                job.folder
                / "files"
                / f"{len(job.files):05d}-{secrets.token_hex(4)}{ending[0].lower() if ending else ''}"
            )
            self._jobs[key] = replace(job, files={**job.files, name: path}, arriving=job.arriving + 1)
            self._bytes[key] += length
            return path

    def _forget(self, key: str, name: str, length: int, path: Path) -> None:
        path.unlink(missing_ok=True)
        with self._changed:
            if key in self._jobs:
                job = self._jobs[key]
                kept = {n: p for n, p in job.files.items() if n != name}
                self._jobs[key] = replace(job, files=kept, arriving=job.arriving - 1)
                self._bytes[key] -= length

    def suggested_name(self, job: Job) -> str:
        """Return what the names of a case's files have in common, or nothing."""
        names = {prefix_of(Path(name)) for name in job.files if _ENDING.search(name)}
        return re.sub(r"[^\w.\- ]", "-", names.pop()).removesuffix(".zip").lstrip(".") if len(names) == 1 else ""

    def start(self, key: str, name: str, chosen: dict[str, str], options: ReportOptions = _DEFAULT) -> Job:
        """Put a case in the queue.

        Parameters
        ----------
        key : str
            The case.
        name : str
            What it is to be called.
        chosen : dict of str to str
            Sequence -> name of the file, as the user confirmed it; empty for a zip or a study.
        options : ReportOptions
            How it is to be segmented.

        Raises
        ------
        InputError
            The name cannot be one or is taken, a file or a sequence does not exist.
        """
        case_from_files({}, name)  # its rules for names
        if not 0 < len(name) <= 100 or name != name.strip(". "):
            raise InputError(f"the case name {name[:100]!r} must have 1 to 100 characters and not end in a full stop")
        with self._changed:
            job = self.get(key)
            if job.state != "collecting" or not job.files or job.arriving:
                raise InputError("this case has no files, is still being copied, or is in work already")
            named = [j.name.casefold() for j in self._jobs.values() if j.state != "failed"]
            if name.casefold() in named or self._taken(name):
                raise InputError(
                    f"there is a case {name} already: its results would be overwritten; choose another name"
                )
            if set(chosen) - set(SEQUENCES) or set(chosen.values()) - set(job.files):
                raise InputError("a chosen sequence or file does not exist")
            if len(set(chosen.values())) != len(chosen):
                raise InputError("one file was chosen for two sequences")
            return self._set(key, state="waiting", name=name, chosen=chosen, options=options)

    def remove(self, key: str) -> None:
        """Take a case off the list and delete its uploads; `InputError` while it is worked on."""
        with self._changed:
            job = self.get(key)
            if job.state == "working":
                raise InputError("this case is being worked on; wait a moment")
            del self._jobs[key], self._bytes[key]
        shutil.rmtree(job.folder, ignore_errors=True)

    def work_on(self, work: Work, stop: threading.Event) -> None:
        """Work on what waits, one case at a time, until `stop` is set and `wake` called."""
        while not stop.is_set():
            with self._changed:
                job = next((j for j in self._jobs.values() if j.state == "waiting"), None)
                if job is None:
                    if not stop.is_set():  # asked again: `wake` may have come before we listened
                        self._changed.wait()
                    continue
                self._set(job.key, state="working")
            try:
                case = _case_of(job)
                self._set(job.key, state="done", case=case, result=work(case, job.options))
            except GliaLiteError as error:
                self._set(job.key, state="failed", sentence=_with_names(str(error), job))
            except Exception as error:
                logging.getLogger(__name__).exception("this is a bug in GliaLite")
                self._set(
                    job.key, state="failed", sentence=f"a fault in GliaLite ({type(error).__name__}); please report it"
                )

    def wake(self) -> None:
        """Let `work_on` look whether it should stop."""
        with self._changed:
            self._changed.notify_all()


def _case_of(job: Job) -> Case:
    if job.chosen:
        return case_from_files({s: job.files[name] for s, name in job.chosen.items()}, job.name)
    paths = tuple(job.files.values())
    one_zip = len(paths) == 1 and paths[0].suffix == ".zip"
    where = paths[0] if one_zip else job.folder / "files"
    arrival = Arrival(job.name, "zip" if one_zip else "folder", where, paths, complete=True)
    return open_arrival(arrival, job.folder / "scratch")


def _with_names(sentence: str, job: Job) -> str:
    """Return a sentence with the files called as the user knows them."""
    for name, path in job.files.items():
        sentence = sentence.replace(str(path), name).replace(path.name, name)
    return sentence.replace(str(job.folder), job.name)

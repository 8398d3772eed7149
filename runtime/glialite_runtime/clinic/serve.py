"""The local page: one server on loopback, one worker, and what each address answers."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from glialite_runtime.cases import Case
from glialite_runtime.clinic.guard import Guard
from glialite_runtime.clinic.instance import only_one
from glialite_runtime.clinic.routes import Handler
from glialite_runtime.clinic.viewer import Scan, load_scan
from glialite_runtime.clinic.worklist import Limits, Result, Worklist
from glialite_runtime.errors import ConfigError, GliaLiteError, InputError
from glialite_runtime.page.words import words_in
from glialite_runtime.report import ReportOptions

__all__ = ["PageServer", "ServeOptions", "serve"]

_MOST_CONNECTIONS: Final = 24
_PREFIX: Final = "glialite-serve-"
_STALE_S: Final = 60.0  # a folder younger than this may belong to a page that is just starting
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve.

    Attributes
    ----------
    out : Path or None
        Where results are kept; None: in a folder that is deleted when the page ends.
    port : int
        0: any that is free.
    limits : Limits
        What is accepted.
    language : str
        That the page begins with; it has a selector.
    """

    out: Path | None = None
    port: int = 0
    limits: Limits = field(default_factory=Limits)
    language: str = "en"

    def __post_init__(self) -> None:
        words_in(self.language)


class PageServer(socketserver.ThreadingTCPServer):
    """The server: it listens on 127.0.0.1 only and answers a limited number of connections at a time."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32
    allow_reuse_address = os.name == "posix"  # on Windows that would let another program take the port over

    def __init__(self, options: ServeOptions, worklist: Worklist, model: dict[str, Any], stop: threading.Event) -> None:
        self.language, self.worklist, self.model, self.stop = options.language, worklist, model, stop
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._scan: tuple[str, Scan] | None = None
        self._scan_lock = threading.Lock()
        super().__init__(("127.0.0.1", options.port), Handler)
        self.guard = Guard(self.server_address[1], secrets.token_urlsafe(32))

    @property
    def address(self) -> str:
        """The address to open; the part after # never leaves the browser."""
        return f"http://127.0.0.1:{self.guard.port}/#token={self.guard.token}"

    def scan(self, key: str) -> Scan:
        """Return a finished case ready to be cut; the last one stays in memory.

        Raises
        ------
        InputError
            There is no such case, or it is not done.
        """
        job = self.worklist.get(key)
        if job.case is None or job.result is None:
            raise InputError("this case is not done yet")
        with self._scan_lock:
            if self._scan is None or self._scan[0] != key:
                self._scan = None  # two in memory at a time would be one too many
                labels = job.result.files[f"{job.name}-seg.nii.gz"]
                self._scan = (key, load_scan(job.case, labels, job.result.report.get("alignment")))
            return self._scan[1]

    def forget(self, key: str) -> None:
        """Drop a case's images from memory."""
        with self._scan_lock:
            if self._scan is not None and self._scan[0] == key:
                self._scan = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or hang up when too many are being answered."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def shutdown_request(self, request: Any) -> None:
        """Hang up so that a refusal still arrives: what the browser goes on sending is dropped for a moment."""
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(0.2)
            until = time.monotonic() + 1
            while time.monotonic() < until and request.recv(1 << 16):
                pass
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log our bugs; a browser that hung up is none."""
        del request, client_address
        error = sys.exception()
        _LOG.log(logging.DEBUG if isinstance(error, OSError) else logging.ERROR, "connection ended", exc_info=True)


def serve(
    work: Callable[[Case, Path, ReportOptions], dict[str, Any]],
    model: dict[str, Any],
    announce: Callable[[str], None],
    stop: threading.Event,
    options: ServeOptions = ServeOptions(),
) -> None:
    """Serve the page until `stop` is set, by a signal or by its own button; the case in work is finished first.

    Parameters
    ----------
    work : callable
        Segments a case into a folder, as the user of the page wants it, and returns its report.
    model : dict
        What the page says of the model.
    announce : callable
        Called with the address as soon as it answers.
    stop : Event
        Ends it.
    options : ServeOptions
        How.

    Raises
    ------
    ConfigError
        The port is taken, or another process works into the folder.
    OutputError
        The folder cannot be written.
    """
    _sweep()
    with _folders(options.out) as (scratch, out):

        def work_into(case: Case, wanted: ReportOptions) -> Result:
            report = work(case, out, wanted)
            return Result(report, _files_of(case.name, out))

        taken = lambda name: (out / name / f"{name}-manifest.json").exists()  # noqa: E731
        worklist = Worklist(scratch, taken, options.limits)
        try:
            server = PageServer(options, worklist, model, stop)
        except OSError as error:
            raise ConfigError(f"port {options.port} is not free ({error.strerror}); leave --port out") from error
        worker = threading.Thread(target=worklist.work_on, args=(work_into, stop), daemon=True)
        listener = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        with server:
            worker.start()
            listener.start()
            announce(server.address)
            while not stop.wait(0.5):  # without a limit Ctrl-C would not be heard on Windows
                pass
            server.shutdown()
            worklist.wake()
            worker.join()


def _files_of(name: str, out: Path) -> dict[str, Path]:
    """Return the files of a finished case by name: those of its manifest, and the manifest."""
    import json  # noqa: PLC0415

    manifest = out / name / f"{name}-manifest.json"
    files = json.loads(manifest.read_bytes())["files"]
    return {file: manifest.with_name(file) for file in [*files, manifest.name]}


@contextmanager
def _folders(out: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield a folder for uploads, which only this user can read and which goes at the end, and one for results."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as made:
        scratch = Path(made)
        with only_one(scratch), only_one(out) if out is not None else nullcontext():
            yield scratch, out if out is not None else scratch / "results"


def _sweep() -> None:
    """Delete what pages of this user left behind that were killed: it holds images of patients."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(GliaLiteError, OSError):
            state = old.lstat()
            ours = os.name == "nt" or state.st_uid == os.getuid()
            if ours and old.is_dir() and not old.is_symlink() and time.time() - state.st_mtime > _STALE_S:
                with only_one(old):
                    shutil.rmtree(old, ignore_errors=True)

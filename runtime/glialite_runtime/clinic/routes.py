"""One request of the local page: guarded, read in good time, answered by one of a few functions."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from glialite_runtime import __version__
from glialite_runtime.clinic.guard import HEADER_SECONDS, SECURITY_HEADERS, TimedReader, body_seconds
from glialite_runtime.clinic.shown import page, shown_job
from glialite_runtime.clinic.viewer import cut, describe
from glialite_runtime.errors import ConfigError, GliaLiteError, InputError, OutputError
from glialite_runtime.page.refusals import refusal
from glialite_runtime.page.words import LANGUAGES, Words
from glialite_runtime.report import ReportOptions

if TYPE_CHECKING:
    from glialite_runtime.clinic.serve import PageServer

__all__ = ["Handler", "Reply"]

_MAX_JSON_BYTES: Final = 1 << 16
_WRITE_SECONDS: Final = 60.0
_LAST_WORDS_S: Final = 0.2  # so that the answer to the last request gets out
_STATUS: Final[tuple[tuple[type[GliaLiteError], int], ...]] = (
    (InputError, 400),
    (ConfigError, 409),
    (OutputError, 507),
    (GliaLiteError, 500),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: content and its media type."""

    content: bytes
    kind: str = "application/json"
    status: int = 200


def _json(value: Any) -> Reply:
    return Reply(json.dumps(value, allow_nan=False).encode())


class Handler(BaseHTTPRequestHandler):
    """Answers one request and hangs up (HTTP/1.0): nothing is left over that a second request could be hidden in."""

    server: PageServer
    server_version = "GliaLite"
    sys_version = ""

    def setup(self) -> None:
        """Read the connection through a clock."""
        super().setup()
        self.rfile.close()
        self._timed = TimedReader(self.connection, HEADER_SECONDS)
        self.rfile = io.BufferedReader(self._timed)

    def do_GET(self) -> None:
        """Answer a question."""
        self._answer("GET")

    def do_POST(self) -> None:
        """Make a change."""
        self._answer("POST")

    def _answer(self, method: str) -> None:
        try:
            target = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(target.query, max_num_fields=8, errors="strict").items()}
        except ValueError:
            self._problem(400, "this is no address")
            return
        if target.scheme or target.netloc:  # a request for a proxy; what it names would be more than its Host says
            self._problem(400, "this is no address")
            return
        if refusal := self.server.guard.refusal(method, target.path, self.headers):
            self._problem(*refusal)
            return
        for wanted, pattern, function in _ROUTES:
            found = pattern.fullmatch(target.path)
            if wanted == method and found:
                try:
                    self._send(function(self, query | found.groupdict()))
                except GliaLiteError as error:
                    self._problem(next(s for kind, s in _STATUS if isinstance(error, kind)), str(error))
                return
        self._problem(404, "there is nothing at this address")

    def length(self, most: int) -> int:
        """Return the length that the request states, and give it time to come; `InputError` beyond `most`."""
        stated = self.headers.get_all("Content-Length", ["0"])
        if len(stated) != 1 or not re.fullmatch(r"[0-9]{1,15}", stated[0]) or int(stated[0]) > most:
            raise InputError(f"the content must have a length of at most {most:,} bytes")
        self._timed.allow(body_seconds(int(stated[0])))
        return int(stated[0])

    def json_body(self) -> dict[str, Any]:
        """Return the JSON object that was sent; `InputError` when it is none."""
        try:
            value = json.loads(self.rfile.read(self.length(_MAX_JSON_BYTES)))
        except (ValueError, RecursionError) as error:
            raise InputError("the content is no JSON") from error
        if not isinstance(value, dict):
            raise InputError("the content is no JSON object")
        return value

    @property
    def words(self) -> Words:
        """The language that the page asks for, else the one that it began with."""
        headers = getattr(self, "headers", {})  # there are none before a request has been read
        asked = str(headers.get("Accept-Language"))
        return Words(asked if asked in LANGUAGES else self.server.language)

    def _problem(self, status: int, sentence: str) -> None:
        said = refusal(sentence, self.words)
        self._send(Reply(json.dumps({"error": said}).encode(), status=status))

    def _send(self, reply: Reply) -> None:
        self.connection.settimeout(_WRITE_SECONDS)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.content)))
        self.send_header("Connection", "close")
        policy = page(self.server.language)[1] if reply.kind.startswith("text/html") else "default-src 'none'; sandbox"
        for name, value in {**SECURITY_HEADERS, "Content-Security-Policy": policy}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no proper request, in our own form."""
        del explain
        if self.request_version == "HTTP/0.9":
            self.request_version = "HTTP/1.0"
        self._problem(code, message or "this is no proper request")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: addresses hold names of files."""


def _home(request: Handler, given: dict[str, str]) -> Reply:
    del given
    return Reply(page(request.server.language)[0], "text/html; charset=utf-8")


def _state(request: Handler, given: dict[str, str]) -> Reply:
    del given
    worklist = request.server.worklist
    jobs = worklist.jobs()
    waiting = [job.key for job in jobs if job.state == "waiting"]
    return _json(
        {
            "software": f"GliaLite {__version__}",
            "model": request.server.model,
            "limits": asdict(worklist.limits),
            "cases": [shown_job(job, worklist.suggested_name(job), waiting, request.words) for job in jobs],
        }
    )


def _open(request: Handler, given: dict[str, str]) -> Reply:
    del given
    request.length(_MAX_JSON_BYTES)
    return _json({"key": request.server.worklist.open().key})


def _receive(request: Handler, given: dict[str, str]) -> Reply:
    worklist = request.server.worklist
    name = given.get("name", "")
    return _json({"sequence": worklist.receive(given["key"], name, request.length(1 << 40), request.rfile)})


def _start(request: Handler, given: dict[str, str]) -> Reply:
    body = request.json_body()
    name, chosen, raw = body.get("name"), body.get("sequences", {}), body.get("raw", False)
    if (
        not isinstance(name, str)
        or not isinstance(raw, bool)
        or not isinstance(chosen, dict)
        or not all(isinstance(v, str) for v in chosen.values())
    ):
        raise InputError("a name and the files of the sequences are needed")
    request.server.worklist.start(given["key"], name, chosen, ReportOptions(request.words.language, raw=raw))
    return _json({})


def _remove(request: Handler, given: dict[str, str]) -> Reply:
    request.length(_MAX_JSON_BYTES)
    request.server.worklist.remove(given["key"])
    request.server.forget(given["key"])
    return _json({})


def _quit(request: Handler, given: dict[str, str]) -> Reply:
    del given
    request.length(_MAX_JSON_BYTES)
    threading.Timer(_LAST_WORDS_S, request.server.stop.set).start()
    return _json({})


def _scan(request: Handler, given: dict[str, str]) -> Reply:
    return _json(describe(request.server.scan(given["key"])))


def _slice(request: Handler, given: dict[str, str]) -> Reply:
    at = given.get("at", "")
    if not re.fullmatch(r"[0-9]{1,4}", at):
        raise InputError("which slice?")
    content = cut(request.server.scan(given["key"]), given.get("sequence", ""), given.get("plane", ""), int(at))
    return Reply(content, "application/octet-stream")


def _download(request: Handler, given: dict[str, str]) -> Reply:
    result = request.server.worklist.get(given["key"]).result
    if result is None or given.get("name", "") not in result.files:
        raise InputError("there is no such result")
    return Reply(result.files[given["name"]].read_bytes(), "application/octet-stream")


def _download_all(request: Handler, given: dict[str, str]) -> Reply:
    job = request.server.worklist.get(given["key"])
    if job.result is None:
        raise InputError("this case is not done yet")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in job.result.files.items():
            archive.write(path, f"{job.name}/{name}")
    return Reply(content.getvalue(), "application/zip")


_KEY: Final = r"/api/cases/(?P<key>[0-9a-f]{16})"
_ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[[Handler, dict[str, str]], Reply]], ...]] = (
    ("GET", re.compile("/"), _home),
    ("GET", re.compile("/api/state"), _state),
    ("POST", re.compile("/api/cases"), _open),
    ("POST", re.compile(f"{_KEY}/files"), _receive),
    ("POST", re.compile(f"{_KEY}/start"), _start),
    ("POST", re.compile(f"{_KEY}/remove"), _remove),
    ("GET", re.compile(f"{_KEY}/scan"), _scan),
    ("GET", re.compile(f"{_KEY}/slice"), _slice),
    ("GET", re.compile(f"{_KEY}/result"), _download),
    ("GET", re.compile(f"{_KEY}/results"), _download_all),
    ("POST", re.compile("/api/quit"), _quit),
)

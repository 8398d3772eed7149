"""The local page against another page, another computer's name and another start: nothing is told, nothing changes.

`make proof-page` starts `glialite serve`, and sends every request that the page answers with each thing wrong that a
hostile page, a name that resolves to this computer, or a guess could bring; and addresses and file names that lead
elsewhere. The same requests without the fault are the control. Raw sockets, because HTTP libraries mend what is wrong.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glialite_runtime.clinic.guard import TOKEN_HEADER
from glialite_runtime.clinic.routes import _ROUTES

from bench.reliability.command import GLIALITE
from bench.reliability.ledger import Ledger, arguments, run_slice, write_section

Header = tuple[str, str]

_ELSEWHERE: Final = (
    "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/api/cases/../state", "/page.html",
    "/..%5c..%5cwindows", "/\0", "http://evil.example/api/state", "*", "/api/state/", "/[",
)  # fmt: skip
_NAMES: Final = (
    "../../escaped.nii", "..%2F..%2Fescaped.nii", "%2Fescaped.nii", "C%3A%5Cescaped.nii", "..%5Cescaped.nii",
    "escaped.nii%00.gz", "%ED%A0%80.nii",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A page that runs: its port, its token and the folder of its results."""

    port: int
    token: str
    out: Path

    def headers(self, method: str) -> dict[str, Header]:
        """Return what its own tab would send."""
        own = {"host": ("Host", f"127.0.0.1:{self.port}"), "token": (TOKEN_HEADER, self.token)}
        if method == "POST":
            own["origin"] = ("Origin", f"http://127.0.0.1:{self.port}")
        return own

    def ask(self, method: str, path: str, headers: list[Header], body: bytes = b"") -> tuple[int, bytes]:
        """Send one request as it is; return status (0: hung up) and content."""
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        sent = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(sent)
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
        head, _, content = answer.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
        return int(status[1]) if status else 0, content

    def state(self) -> Any:
        """Return the cases that the page knows, asked as its own tab asks."""
        status, content = self.ask("GET", "/api/state", list(self.headers("GET").values()))
        return json.loads(content)["cases"] if status == 200 else f"no state, but {status}"


@contextmanager
def served(folder: Path, bundle: Path) -> Iterator[Page]:
    """Run `glialite serve` until the end of the block."""
    words = ("serve", "--out", str(folder), "--no-browser", "--threads", "1", "--bundle", str(bundle))
    with subprocess.Popen([sys.executable, "-u", "-c", GLIALITE, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            where, token = process.stdout.readline().strip().split("/#token=")
            yield Page(int(where.rpartition(":")[2]), token, folder)
            if process.poll() is not None:
                raise SystemExit(f"the page ended with exit code {process.returncode}")
        finally:
            process.terminate()


def requests() -> list[tuple[str, str]]:
    """Return method and path of everything that the page answers but its front, which holds no data."""
    paths = [(method, pattern.pattern) for method, pattern, _ in _ROUTES if pattern.pattern != "/"]
    return [(method, re.sub(r"\(.*?\)", "0" * 16, path)) for method, path in paths]


def faults(page: Page, method: str) -> dict[str, list[Header]]:
    """Return what may be wrong with a request -> its headers."""
    port, own = page.port, page.headers(method)

    def but(**changed: list[Header]) -> list[Header]:
        kept: Mapping[str, list[Header]] = {key: [header] for key, header in own.items()} | changed
        return [header for headers in kept.values() for header in headers]

    hosts = ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "127.0.0.1", "")
    origins = ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}")
    wrong = {f"Host {host!r}": but(host=[("Host", host)]) for host in hosts}
    wrong["no Host"] = but(host=[])
    wrong["two Hosts"] = but(host=[own["host"], ("Host", "evil.example")])
    wrong |= {f"Origin {origin!r}": but(origin=[("Origin", origin)]) for origin in origins}
    wrong["two Origins"] = but(origin=[("Origin", f"http://127.0.0.1:{port}"), ("Origin", "http://evil.example")])
    if method == "POST":
        wrong["no Origin"] = but(origin=[])
    wrong["Sec-Fetch-Site cross-site"] = but(site=[("Sec-Fetch-Site", "cross-site")])
    tokens = {
        "no token": [],
        "an empty token": [""],
        "another start's token": ["x" * 43],
        "half the token": [page.token[:20]],
    }
    tokens["two tokens"] = [page.token, "x"]
    return wrong | {name: but(token=[(TOKEN_HEADER, t) for t in given]) for name, given in tokens.items()}


def attacks(page: Page) -> list[tuple[str, str, str, list[Header]]]:
    """Return kind, method, path and headers of every attack."""
    found = [
        (name.split(" ", 1)[0] if name.startswith(("Host", "Origin", "Sec")) else name, method, path, headers)
        for method, path in requests()
        for name, headers in faults(page, method).items()
    ]
    found += [("an address elsewhere", "GET", path, list(page.headers("GET").values())) for path in _ELSEWHERE]
    key = "/api/cases/" + "0" * 16
    for name in _NAMES:
        found.append(("a file elsewhere", "GET", f"{key}/result?name={name}", list(page.headers("GET").values())))
        found.append(("a file elsewhere", "POST", f"{key}/files?name={name}", list(page.headers("POST").values())))
    return found


def trial(page: Page, number: int) -> dict[str, Any]:
    """Send one attack; it must be refused, tell nothing and change nothing."""
    kind, method, path, headers = attacks(page)[number]
    before = sorted(page.out.rglob("*"))
    status, content = page.ask(method, path, headers, b"x" if method == "POST" else b"")
    fault = "" if status == 0 or 400 <= status < 500 else f"answered with {status}"
    if b"root:" in content or page.token.encode() in content:
        fault = f"told {content[:80]!r}"
    if page.state() != [] or sorted(page.out.rglob("*")) != before:
        fault = f"changed something: {page.state()}"
    return {"n": number, "kind": kind, "what": f"{method} {path}", "status": status, "fault": fault}


def controls(page: Page) -> list[str]:
    """Return which requests are not let in when nothing is wrong with them: 401, 403 and 421 are the guard's."""
    asked = [r for r in requests() if r[1] not in ("/api/quit", "/api/cases")]
    return [
        f"{method} {path}"
        for method, path in asked
        if page.ask(method, path, list(page.headers(method).values()))[0] in (0, 401, 403, 421)
    ]


def summary(trials: list[dict[str, Any]], shut_out: list[str]) -> str:
    """Return the figures and a table by kind."""
    wrong = [t for t in trials if t["fault"]]
    lines = [
        f"{len(trials)} hostile requests to a page that runs ({len(requests())} requests that it answers, each with "
        f"every fault): {len(wrong)} were let in, told something or changed something. Without a fault "
        f"{len(shut_out) or 'none'} of them was shut out.",
        "",
        "| what is wrong | requests | answers |",
        "| --- | --- | --- |",
    ]
    for kind in dict.fromkeys(t["kind"] for t in trials):
        answers = Counter(t["status"] or "hung up" for t in trials if t["kind"] == kind)
        said = ", ".join(f"{status} ({count})" for status, count in sorted(answers.items(), key=str))
        lines.append(f"| {kind} | {answers.total()} | {said} |")
    return "\n".join(lines)


def main() -> None:
    """Run all, and write the figures."""
    given = arguments(__doc__ or "", 0).parse_args()
    ledger = Ledger("page")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "out", given.bundle.resolve()) as page:
        run_slice(ledger, len(attacks(page)), given.seconds, lambda number: trial(page, number))
        shut_out = controls(page)
    write_section("page", summary(ledger.trials, shut_out))
    if wrong := [t for t in ledger.trials if t["fault"]] + shut_out:
        raise SystemExit("\n".join(map(str, wrong)))


if __name__ == "__main__":
    main()

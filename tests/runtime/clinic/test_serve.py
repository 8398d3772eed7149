"""The local page over real connections: what it does, and every attack that was thought of."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from glialite_runtime.cases import Case
from glialite_runtime.clinic import serve as serving
from glialite_runtime.clinic.guard import TOKEN_HEADER
from glialite_runtime.clinic.serve import ServeOptions, serve
from glialite_runtime.clinic.worklist import Limits
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import write_json
from glialite_runtime.notes import note
from glialite_runtime.page.words import LANGUAGES, words_in
from glialite_runtime.report import ReportOptions
from glialite_runtime.volume import load_volume

from tests.conftest import save, toy

LIMITS = Limits(file_bytes=1 << 20, case_bytes=2 << 20, files=6, cases=4, spare_bytes=0)


def work(case: Case, out: Path, wanted: ReportOptions) -> dict[str, Any]:
    """Stand in for the network: the label map is the toy's own."""
    load_volume(case)  # refuses what is no image
    folder = out / case.name
    save(folder / f"{case.name}-seg.nii.gz", toy().labels, toy().affine)
    (folder / f"{case.name}-report.html").write_text("<p>report")
    files = [f"{case.name}-seg.nii.gz", f"{case.name}-report.html"]
    write_json(folder / f"{case.name}-manifest.json", {"files": dict.fromkeys(files, "")})
    found = asdict(note("space.coverage", sequence="t1c", percent=80))
    alignment = {"reference": "t1c", "to_scan_mm": dict.fromkeys(case.paths, np.eye(4).tolist())}
    return {
        "volumes_ml": {"WT": 1.25, "TC": None, "ET": None},
        "volume_intervals_ml": {"WT": {"rate": 0.9, "low": 0.5, "high": 2.0}},
        "quality": {"verdict": "check", "notes": [found["text"]], "findings": [found]},
        "bundle": {"trained_on": "synthetic patients only", "golden_crop": "equal"},
        "lesions": [],
        "lesions_not_listed": 0,
        "alignment": alignment if wanted.raw else None,
        "language": wanted.language,
    }


@dataclass
class Client:
    """A browser's tab."""

    port: int
    token: str
    folder: Path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> tuple[int, bytes]:
        own = {"Host": f"127.0.0.1:{self.port}", TOKEN_HEADER: self.token}
        if method == "POST":
            own["Origin"] = f"http://127.0.0.1:{self.port}"
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in own.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "Content-Length" not in own:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            self.headers = answer.headers
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, value: Any = None) -> dict[str, Any]:
        status, content = self.ask(method, path, None if value is None else json.dumps(value).encode())
        assert status == 200, content
        found: dict[str, Any] = json.loads(content)
        return found

    def case(self, name: str = "P1", *, raw: bool = False) -> str:
        """Drop the toy, start it, wait until it is done, and return its key."""
        key: str = self.json("POST", "/api/cases")["key"]
        chosen = {}
        for sequence, image in toy().images.items():
            path = save(self.folder / f"{sequence}.nii.gz", image, toy().affine)
            status, content = self.ask("POST", f"/api/cases/{key}/files?name={name}-{path.name}", path.read_bytes())
            assert (status, json.loads(content)["sequence"]) == (200, sequence)
            chosen[sequence] = f"{name}-{path.name}"
        self.json("POST", f"/api/cases/{key}/start", {"name": name, "sequences": chosen, "raw": raw})
        for _ in range(500):
            (state,) = [c for c in self.json("GET", "/api/state")["cases"] if c["key"] == key]
            if state["state"] in ("done", "failed"):
                break
            time.sleep(0.02)
        assert state["state"] == "done", state
        return key


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    stop, ready, address = threading.Event(), threading.Event(), []

    def announce(where: str) -> None:
        address.append(where)
        ready.set()

    options = ServeOptions(tmp_path / "out", limits=LIMITS)
    thread = threading.Thread(target=serve, args=(work, {"name": "toy"}, announce, stop, options))
    thread.start()
    assert ready.wait(20)
    where, token = address[0].split("/#token=")
    yield Client(int(where.rpartition(":")[2]), token, tmp_path / "client")
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_case_is_dropped_shown_and_downloaded(client: Client) -> None:
    """From four files to slices, each result, and all of them in a zip."""
    key = client.case()
    facts = client.json("GET", f"/api/cases/{key}/scan")
    size = facts["planes"]["axial"]
    status, content = client.ask("GET", f"/api/cases/{key}/slice?sequence=t2f&plane=axial&at={size['start']}")
    assert (status, len(content)) == (200, 2 * size["rows"] * size["columns"])
    assert {1, 2, 3} <= set(content[size["rows"] * size["columns"] :])
    assert client.ask("GET", f"/api/cases/{key}/result?name=P1-report.html") == (200, b"<p>report")
    status, content = client.ask("GET", f"/api/cases/{key}/results")
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert names == [f"P1/P1-{end}" for end in ("seg.nii.gz", "report.html", "manifest.json")]
    client.json("POST", f"/api/cases/{key}/remove")
    assert client.json("GET", "/api/state")["cases"] == []


def test_raw_scans_are_asked_for_and_shown_on_their_reference(client: Client) -> None:
    """The box that was ticked reaches the work; the scans, each on its own grid, are shown under the outline."""
    key = client.case(raw=True)
    facts = client.json("GET", f"/api/cases/{key}/scan")
    size = facts["planes"]["axial"]
    for sequence in facts["sequences"]:
        status, content = client.ask(
            "GET", f"/api/cases/{key}/slice?sequence={sequence}&plane=axial&at={size['start']}"
        )
        assert (status, len(content)) == (200, 2 * size["rows"] * size["columns"])
        assert any(content[: size["rows"] * size["columns"]])


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_told_of_a_case_is_in_the_language_that_is_asked_for(client: Client, language: str) -> None:
    """Numbers, findings of the gate, warnings; another page in another language at the same time."""
    client.case()
    told = client.ask("GET", "/api/state", Accept_Language=language)[1]
    report = json.loads(told)["cases"][0]["report"]
    words = words_in(language)
    assert report["regions"][0]["volume"] == words.ml(1.25)
    assert report["regions"][1]["volume"] == words.say("without_t1c")
    assert report["warnings"][0] == words.say("note.space.coverage", sequence=words.say("sequence.t1c"), percent=80)
    assert words.say("synthetic_only") in report["warnings"]
    assert words.say("not_for_diagnosis").encode() not in told, "the page itself says it"


@pytest.mark.parametrize("asked", [None, "de", "sw;q=1", "x" * 2000, "\xff", "en\xe9"])
def test_a_language_that_there_is_not_is_the_one_that_was_begun_with(client: Client, asked: str | None) -> None:
    """Whatever a browser sends by itself."""
    client.case()
    told = client.json("GET", "/api/state") if asked is None else None
    status, content = client.ask("GET", "/api/state", Accept_Language=asked)
    assert status == 200
    report = json.loads(content)["cases"][0]["report"]
    assert report["regions"][0]["volume"] == "1.2 mL"
    assert told is None or told["cases"][0]["report"] == report


def test_the_page_holds_the_words_of_every_language(client: Client) -> None:
    """So that changing it asks for nothing; a word cannot end the script."""
    content = client.ask("GET", "/")[1].decode()
    script = content.partition("<script>")[2]
    facts, _ = json.JSONDecoder().raw_decode(script.partition("const FACTS = ")[2])
    assert facts["language"] == "en"
    assert {code: words["serve.quit"] for code, words in facts["words"].items()} == {
        code: words_in(code).say("serve.quit") for code in LANGUAGES
    }
    assert set(re.findall(r"""["'`](serve\.[a-z_]+)["'`]""", content)) <= set(facts["words"]["sw"])
    assert content.count("</script>") == 1


def test_a_refusal_comes_in_the_language_that_is_asked_for(client: Client) -> None:
    """With the English sentence behind it, and the file as the user knows it; another language later."""
    key = client.json("POST", "/api/cases")["key"]
    client.ask("POST", f"/api/cases/{key}/files?name=mine.nii", b"no image")
    client.json("POST", f"/api/cases/{key}/start", {"name": "bad", "sequences": {"t1c": "mine.nii"}})
    client.case("good")
    said = {}
    for language in LANGUAGES:
        cases = json.loads(client.ask("GET", "/api/state", Accept_Language=language)[1])["cases"]
        (said[language],) = [c["sentence"] for c in cases if c["key"] == key]
    assert said["en"] == "mine.nii is not a single-file NIfTI image (.nii or .nii.gz)"
    assert said["sw"].startswith("mine.nii si picha ya NIfTI")
    assert all(sentence.count(said["en"]) == 1 for sentence in said.values())


def test_a_case_that_is_there_already_is_not_overwritten(client: Client) -> None:
    """Nor after it was taken off the list: its results are kept."""
    client.json("POST", f"/api/cases/{client.case()}/remove")
    key = client.json("POST", "/api/cases")["key"]
    client.ask("POST", f"/api/cases/{key}/files?name=x-t1c.nii", b"x")
    body = json.dumps({"name": "p1" if os.name == "nt" else "P1", "sequences": {"t1c": "x-t1c.nii"}}).encode()
    status, content = client.ask("POST", f"/api/cases/{key}/start", body)
    assert status == 400
    assert b"already" in content


def test_the_page_lets_only_its_own_script_run(client: Client) -> None:
    """The policy names the script's hash; nothing is loaded from elsewhere; no frame, no caching."""
    status, content = client.ask("GET", "/", X_GliaLite_Token=None)
    assert status == 200
    policy = client.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert client.headers["Cache-Control"] == "no-store"
    assert client.headers["X-Content-Type-Options"] == "nosniff"
    assert client.token.encode() not in content
    assert content.count(b"<script") == 1
    for elsewhere in (b"http://", b"https://", b"src=", b"@import", b"url("):
        assert elsewhere not in content


def test_foreign_host_origin_and_token_are_refused(client: Client) -> None:
    """Over the wire as in `Guard`; nothing is changed."""
    assert client.ask("GET", "/", Host="evil.example")[0] == 421
    assert client.ask("POST", "/api/cases", b"", Host=f"evil.example:{client.port}")[0] == 421
    assert client.ask("POST", "/api/cases", b"", Origin="http://evil.example")[0] == 403
    assert client.ask("POST", "/api/cases", b"", Origin="null")[0] == 403
    assert client.ask("POST", "/api/cases", b"", Origin=None)[0] == 403
    assert client.ask("POST", "/api/cases", b"", X_GliaLite_Token=None)[0] == 401
    assert client.ask("POST", "/api/quit", b"", X_GliaLite_Token="x" * 43)[0] == 401
    assert client.ask("GET", "/api/state", X_GliaLite_Token=None)[0] == 401
    for method in ("OPTIONS", "PUT", "DELETE", "HEAD", "TRACE", "CONNECT"):
        assert client.ask(method, "/api/state")[0] == 501
    assert client.ask("GET", "/api/quit")[0] == 404
    assert client.json("GET", "/api/state")["cases"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/api/cases/../state",
        "/page.html",
        "/api/state/",
        "http://x/api",
        "http://evil.example/api/state",
        "/[",
        "*",
    ],
)
def test_only_known_addresses_answer(client: Client, path: str) -> None:
    """There are no files behind them."""
    status, content = client.ask("GET", path)
    assert status in (400, 404)
    assert b"root" not in content


def test_only_results_can_be_downloaded(client: Client) -> None:
    """By their exact names."""
    key = client.case()
    for name in ("../P1-seg.nii.gz", "/etc/passwd", "P1-seg.nii.gz/..", "..%2f", ".glialite.lock", ""):
        assert client.ask("GET", f"/api/cases/{key}/result?name={quote(name)}")[0] == 400


@pytest.mark.parametrize("name", ["../../x.nii", "a/b.nii", "\0.nii", "C:\\x.nii", "%2e%2e/x", "\ud800"])
def test_a_hostile_file_name_is_refused(client: Client, name: str, tmp_path: Path) -> None:
    """Nothing lands on the disk, here or elsewhere."""
    key = client.json("POST", "/api/cases")["key"]
    encoded = quote(name.encode("utf-8", "surrogatepass"))
    assert client.ask("POST", f"/api/cases/{key}/files?name={encoded}", b"x")[0] == 400
    assert not list(tmp_path.rglob("x.nii"))


def test_oversized_uploads_are_refused_before_they_come(client: Client) -> None:
    """One file, all files, a length that is none, none at all; the answer arrives."""
    key = client.json("POST", "/api/cases")["key"]
    path = f"/api/cases/{key}/files?name="
    assert client.ask("POST", path + "a", b"x" * 1000, Content_Length=str(1 << 21))[0] == 400
    for length in ("-1", "1e3", "0x10", "9" * 30, "", "1, 1"):
        assert client.ask("POST", path + "a", b"x", Content_Length=length)[0] == 400
    for n in range(2):
        assert client.ask("POST", f"{path}{n}", bytes(1 << 20))[0] == 200
    assert client.ask("POST", path + "more", b"x")[0] == 400
    assert client.ask("POST", f"/api/cases/{key}/start", bytes(1 << 17))[0] == 400
    wrong = (b'{"name": 1}', b'{"name": "a", "sequences": {"t1c": 3}}', b'{"name": "a", "raw": 1}')
    for body in (b"[]", b"{", b"[" * 50_000, *wrong, b"\xff"):
        assert client.ask("POST", f"/api/cases/{key}/start", body)[0] == 400


def test_what_is_no_image_fails_in_words_and_the_next_case_is_done(client: Client, tmp_path: Path) -> None:
    """No zip; the worker survives."""
    key = client.json("POST", "/api/cases")["key"]
    client.ask("POST", f"/api/cases/{key}/files?name=P1.zip", b"no zip at all")
    client.json("POST", f"/api/cases/{key}/start", {"name": "bad"})
    client.case("good")
    (bad,) = [c for c in client.json("GET", "/api/state")["cases"] if c["key"] == key]
    assert bad["state"] == "failed"
    assert "P1.zip is damaged or no zip" in bad["sentence"]


def test_a_slow_request_is_cut_off_and_others_are_answered(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that drip, and a header that never ends; the page goes on."""
    monkeypatch.setattr("glialite_runtime.clinic.routes.HEADER_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", client.port)) as slow:
        slow.settimeout(10)
        slow.sendall(b"GET / HTTP/1.1\r\n")
        started, closed = time.monotonic(), False
        while not closed and time.monotonic() - started < 8:
            try:
                slow.sendall(b"X: y\r\n")
                slow.settimeout(0.05)
                closed = slow.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed
        assert time.monotonic() - started < 5
    assert client.ask("GET", "/api/state")[0] == 200


def test_many_connections_that_say_nothing_do_not_pile_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most that are answered they are hung up; when they are cut off the page answers again."""
    monkeypatch.setattr("glialite_runtime.clinic.routes.HEADER_SECONDS", 0.5)
    held = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(60)]
    threads = sum("process_request_thread" in t.name for t in threading.enumerate())
    assert threads <= serving._MOST_CONNECTIONS
    time.sleep(1.5)
    assert client.ask("GET", "/api/state")[0] == 200
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\r\n",
    ],
)
def test_nonsense_is_hung_up_on(client: Client, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, no page, no hanging."""
    monkeypatch.setattr("glialite_runtime.clinic.routes.HEADER_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.settimeout(10)
        connection.sendall(sent)
        answer = b""
        try:
            while piece := connection.recv(1 << 16):
                answer += piece
        except ConnectionResetError:
            pass
    assert b"<script" not in answer
    assert b"Traceback" not in answer
    assert client.ask("GET", "/api/state")[0] == 200


def test_it_listens_on_loopback_only(client: Client) -> None:
    """Another address of this computer finds nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", client.port)) != 0


def test_two_pages_do_not_share_a_folder_or_a_port(client: Client, tmp_path: Path) -> None:
    """A sentence each."""
    for options in (ServeOptions(tmp_path / "out"), ServeOptions(port=client.port)):
        with pytest.raises(ConfigError):
            serve(work, {}, print, threading.Event(), options)


def test_uploads_are_deleted_at_the_end_and_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of patients do not stay in a temporary folder; what a running page uses is left alone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "glialite-serve-killed"
    left.mkdir()
    (left / "image").write_text("x")
    os.utime(left, (1, 1))
    stop, seen = threading.Event(), []

    def announce(address: str) -> None:
        (running,) = tmp_path.glob("glialite-serve-*")
        os.utime(running, (1, 1))
        serving._sweep()
        seen.append(running.exists())
        seen.append(running.stat().st_mode & 0o077 if os.name == "posix" else 0)
        stop.set()

    serve(work, {}, announce, stop)
    assert seen == [True, 0]
    assert not list(tmp_path.iterdir())

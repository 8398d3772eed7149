"""Who is let through to the local page."""

from __future__ import annotations

import socket
import time
from email.message import Message

import pytest
from glialite_runtime.clinic.guard import TOKEN_HEADER, Guard, TimedReader

GUARD = Guard(8123, "secret")
OWN = [("Host", "127.0.0.1:8123"), ("Origin", "http://127.0.0.1:8123"), (TOKEN_HEADER, "secret")]


def refused(method: str, path: str, headers: list[tuple[str, str]]) -> int | None:
    message = Message()
    for name, value in headers:
        message[name] = value
    found = GUARD.refusal(method, path, message)
    return found[0] if found else None


def test_the_pages_own_requests_pass() -> None:
    """With Host, token and, for changes, Origin; under both names of this computer; the page itself without a token."""
    assert refused("POST", "/api/cases", OWN) is None
    assert refused("GET", "/api/state", [*OWN[::2], ("Sec-Fetch-Site", "same-origin")]) is None
    assert refused("GET", "/api/state", [("Host", "localhost:8123"), OWN[2]]) is None
    assert refused("GET", "/", [OWN[0], ("Sec-Fetch-Site", "none")]) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "127.0.0.1:80", "localhost:8123.evil.example", "LOCALHOST:8123 ", "", "[::1]:8123"],
)
def test_a_foreign_host_is_refused(host: str) -> None:
    """A name of somebody else's that was made to resolve to this computer (DNS rebinding)."""
    assert refused("GET", "/", [("Host", host)]) == 421
    assert refused("POST", "/api/cases", [("Host", host), *OWN[1:]]) == 421


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:8123", "http://127.0.0.1", "http://127.0.0.1:8123.evil", ""],
)
def test_a_foreign_origin_is_refused_token_or_not(origin: str) -> None:
    """Also for questions, and when ours comes beside it."""
    assert refused("POST", "/api/cases", [OWN[0], ("Origin", origin), OWN[2]]) == 403
    assert refused("GET", "/api/state", [OWN[0], ("Origin", origin), OWN[2]]) == 403
    assert refused("POST", "/api/cases", [*OWN, ("Origin", origin)]) == 403


def test_a_request_that_another_site_made_the_browser_send_is_refused() -> None:
    """The browser says so itself."""
    for site in ("cross-site", "same-site"):
        assert refused("GET", "/", [OWN[0], ("Sec-Fetch-Site", site)]) == 403


def test_a_change_without_origin_is_refused() -> None:
    """Browsers always send one with a POST."""
    assert refused("POST", "/api/quit", [OWN[0], OWN[2]]) == 403


@pytest.mark.parametrize("token", [[], ["wrong"], [""], ["secret", "secret"], ["sécret"], ["\udcff"], ["secret "]])
def test_without_the_token_nothing_but_the_page_is_had(token: list[str]) -> None:
    """Missing, wrong, doubled, not even ASCII; on any path but "/" itself."""
    headers = [*OWN[:2], *((TOKEN_HEADER, t) for t in token)]
    for method, path in (
        ("GET", "/api/state"),
        ("POST", "/"),
        ("GET", "//"),
        ("GET", "/index.html"),
        ("POST", "/api/quit"),
    ):
        assert refused(method, path, headers) == 401


def test_no_second_length_is_believed() -> None:
    """Chunks are refused: one way to say how long a body is."""
    assert refused("POST", "/api/cases", [*OWN, ("Transfer-Encoding", "chunked")]) == 411


def drip(reader: TimedReader, sender: socket.socket, until: float) -> None:
    while time.monotonic() < until:
        sender.send(b"x")
        reader.readinto(bytearray(1))
        time.sleep(0.02)


def test_a_drip_of_bytes_ends_at_its_moment() -> None:
    """Each byte comes in time, all of them do not."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, until = TimedReader(ours, 0.25), time.monotonic() + 5
        with pytest.raises(TimeoutError):
            drip(reader, theirs, until)
        assert time.monotonic() < until - 4

"""What the local page lets through: requests from its own tab on this computer, in good time, and nothing else."""

from __future__ import annotations

import hmac
import io
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final

__all__ = ["HEADER_SECONDS", "SECURITY_HEADERS", "TOKEN_HEADER", "Guard", "TimedReader", "body_seconds"]

TOKEN_HEADER: Final = "X-GliaLite-Token"  # noqa: S105 - a header's name

HEADER_SECONDS: Final = 10.0
"""A request's header must have come within this time, however slowly its bytes drip."""

_SLOWEST_BYTES_PER_S: Final = 1 << 20

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def body_seconds(length: int) -> float:
    """Return how long a body of `length` bytes may take: 20 s and a second a MB, which a USB stick manages."""
    return 20 + length / _SLOWEST_BYTES_PER_S


@dataclass(frozen=True, slots=True)
class Guard:
    """Whom the page serves.

    Attributes
    ----------
    port : int
        The port that it listens on.
    token : str
        Made anew at every start; only who was given the address has it.
    """

    port: int
    token: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """The only values of Host: a name of somebody else's that resolves to this computer is not among them."""
        return (f"127.0.0.1:{self.port}", f"localhost:{self.port}")

    def refusal(self, method: str, path: str, headers: Message[str, str]) -> tuple[int, str] | None:
        """Return status and sentence when a request must be refused, else None.

        The page itself ("/") needs no token, because the browser cannot send one; it holds no data.
        """
        hosts, origins = headers.get_all("Host", []), headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return 421, "this page answers only under its own address on this computer"
        ours = len(origins) <= 1 and all(origin in [f"http://{host}" for host in self.hosts] for origin in origins)
        if not ours or headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return 403, "this request comes from another page"
        if method == "POST" and not origins:
            return 403, "a change must say which page it comes from"
        if headers.get("Transfer-Encoding") is not None:
            return 411, "say how long the content is"
        if (method, path) != ("GET", "/") and not self._knows_token(headers):
            return 401, "open the address that `glialite serve` printed; this page is from an earlier start"
        return None

    def _knows_token(self, headers: Message[str, str]) -> bool:
        tokens = headers.get_all(TOKEN_HEADER, [])
        if len(tokens) != 1 or not isinstance(tokens[0], str):  # a Header, where it is no text
            return False
        return hmac.compare_digest(tokens[0].encode(), self.token.encode())


class TimedReader(io.RawIOBase):
    """The bytes of a connection until a moment; later than that, reading raises `TimeoutError`.

    A timeout of the socket alone begins anew with every byte, so that one byte now and then would hold a thread for
    ever.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """Set the moment to so many seconds from now."""
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there, at least a byte unless the connection was closed."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)

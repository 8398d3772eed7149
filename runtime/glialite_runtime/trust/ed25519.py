"""Ed25519 signatures in pure Python: the wheels of cryptographic libraries need a newer glibc than a clinic has.

Checking uses public values only, so that its time may depend on them. Signing (`glialite_export.signing`) shares the
arithmetic; it happens on the engineer's own computer.

Source: RFC 8032, sections 5.1 and 6; Hisil et al., "Twisted Edwards curves revisited" (2008), for the coordinates.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["BASE", "ORDER", "encode", "hash_to_scalar", "multiply", "verify"]

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of the group that `BASE` generates."""

_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)

Point = tuple[int, int, int, int]
"""Extended coordinates (X, Y, Z, T): x = X / Z, y = Y / Z, x·y = T / Z."""

_NEUTRAL: Final[Point] = (0, 1, 1, 0)


def _add(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(p: Point) -> Point:
    a, b, c = p[0] * p[0] % _P, p[1] * p[1] % _P, 2 * p[2] * p[2] % _P
    h = a + b
    e = h - (p[0] + p[1]) ** 2 % _P
    g = a - b
    f = c + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def multiply(scalar: int, point: Point) -> Point:
    """Return `scalar` times `point`; the time it takes depends on the scalar."""
    result = _NEUTRAL
    for bit in bin(scalar)[2:]:
        result = _double(result)
        if bit == "1":
            result = _add(result, point)
    return result


def encode(point: Point) -> bytes:
    """Return a point as 32 bytes: y, and the lowest bit of x in the top bit."""
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(data: bytes) -> Point | None:
    """Return the point of 32 bytes, or None when they are none, or not the one way to write it."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == -u % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if v * x * x % _P != u or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return x, y, 1, x * y % _P


def _base() -> Point:
    point = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    if point is None:
        raise ArithmeticError("4/5 is the y of a point")
    return point


BASE: Final = _base()
"""The generator: y = 4/5, x even."""


def hash_to_scalar(*parts: bytes) -> int:
    """Return the SHA-512 of the parts together, as a number below `ORDER`."""
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % ORDER


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether `signature` (64 bytes) is the key's (32 bytes) signature of `message`.

    Stricter than the RFC asks, as libsodium is: no second way to write a signature passes (s below the order, points in
    canonical form), and no key of small order, under which anything would seem signed.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key = _decode(public_key)
    s = int.from_bytes(signature[32:], "little")
    if key is None or s >= ORDER or encode(multiply(8, key)) == encode(_NEUTRAL):
        return False
    h = hash_to_scalar(signature[:32], public_key, message)
    negative = (_P - key[0], key[1], key[2], _P - key[3])
    return encode(_two_products(s, BASE, h, negative)) == signature[:32]


def _two_products(a: int, p: Point, b: int, q: Point) -> Point:
    """Return a·P + b·Q, doubling once for both (Shamir's trick)."""
    table = {(False, True): q, (True, False): p, (True, True): _add(p, q)}
    result = _NEUTRAL
    for place in range(max(a.bit_length(), b.bit_length()) - 1, -1, -1):
        result = _double(result)
        chosen = table.get((bool(a >> place & 1), bool(b >> place & 1)))
        if chosen is not None:
            result = _add(result, chosen)
    return result

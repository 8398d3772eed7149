"""Signatures and public keys in minisign's format, so that the well-known tool and GliaLite check each other.

A signature file has four lines: an untrusted comment, the signature with the number of its key, a trusted comment, and
a signature of the signature and that comment.

Source: minisign's manual, "Signature format" and "Public key format".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glialite_runtime.errors import BundleError, BundleIntegrityError
from glialite_runtime.trust import ed25519

__all__ = ["NOT_SIGNED", "TRUSTED_KEYS", "PublicKey", "judge", "parse_public_key", "trusted_keys"]

NOT_SIGNED: Final = "not signed"

TRUSTED_KEYS: Final = "trusted_keys.json"
"""Data file of this package: name of a signer -> base64 of its public key."""

_COMMENTS: Final = (b"untrusted comment: ", b"trusted comment: ")
_MAX_BYTES: Final = 16384


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes
    ----------
    name : str
        Whose it is, shown in reports.
    number : bytes
        8 bytes that signatures name it by; people see them as 16 hexadecimal digits.
    key : bytes
        The Ed25519 key, 32 bytes.
    """

    name: str
    number: bytes
    key: bytes

    @property
    def text(self) -> str:
        """The key as one line of base64."""
        return base64.b64encode(b"Ed" + self.number + self.key).decode()


def parse_public_key(text: str, name: str) -> PublicKey:
    """Return a public key from the content of a ``.pub`` file, or from its second line alone.

    Raises
    ------
    ValueError
        It is no public key in minisign's format.
    """
    raw = _base64(text.strip().splitlines()[-1].encode() if text.strip() else b"", 42)
    if raw[:2] != b"Ed":
        raise ValueError("it is for another algorithm than Ed25519")
    return PublicKey(name, raw[2:10], raw[10:])


def trusted_keys() -> tuple[PublicKey, ...]:
    """Return the keys that this installation trusts.

    Raises
    ------
    BundleError
        The file of keys is missing or damaged: the installation is.
    """
    try:
        listed = json.loads(Path(__file__).with_name(TRUSTED_KEYS).read_bytes())
        return tuple(parse_public_key(text, name) for name, text in listed.items())
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"the installation's {TRUSTED_KEYS} is damaged ({error}); install GliaLite again") from error


def judge(content: bytes, signature: bytes | None, keys: tuple[PublicKey, ...], what: str) -> str:
    """Return what is known of a signature, in a few words for reports; refuse what may not be used.

    An installation that trusts no key can check none, and says so. One that trusts a key uses nothing that it did not
    sign: else whoever changes a bundle would only need to remove its signature.

    Parameters
    ----------
    content : bytes
        What was signed.
    signature : bytes or None
        The signature file.
    keys : tuple of PublicKey
        Those that are trusted.
    what : str
        Named in messages.

    Raises
    ------
    BundleIntegrityError
        The signature is malformed or belongs to other content; or keys are trusted, and none of them signed.
    """
    names = ", ".join(key.name for key in keys)
    if signature is None:
        if keys:
            raise BundleIntegrityError(f"{what} is not signed, and this installation uses only what {names} signed")
        return NOT_SIGNED
    try:
        algorithm, number, signed, comment, over_all = _parse(signature)
    except ValueError as error:
        raise BundleIntegrityError(f"{what} has a damaged signature ({error}); get it again from its makers") from error
    shown = number[::-1].hex().upper()
    if not keys:
        return f"signed with the key {shown}, which this installation cannot check"
    for key in keys:
        if key.number == number:
            message = hashlib.blake2b(content).digest() if algorithm == b"ED" else content
            if ed25519.verify(key.key, message, signed) and ed25519.verify(key.key, signed + comment, over_all):
                return f"signed by {key.name}"
            raise BundleIntegrityError(
                f"{what} does not agree with its signature by {key.name} ({shown}): it was changed after it was "
                "signed; do not use it, and get it again from its makers"
            )
    raise BundleIntegrityError(
        f"{what} is signed with the key {shown}, and this installation uses only what {names} signed"
    )


def _parse(signature: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return algorithm, key number, signature, trusted comment and the signature of both; `ValueError` if malformed."""
    if len(signature) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    lines = signature.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    if len(lines) != 4 or not all(line.startswith(c) for line, c in zip(lines[::2], _COMMENTS, strict=True)):
        raise ValueError("not the four lines of a minisign signature")
    raw, over_all = _base64(lines[1], 74), _base64(lines[3], 64)
    if raw[:2] not in (b"Ed", b"ED"):
        raise ValueError("unknown algorithm")
    return raw[:2], raw[2:10], raw[10:], lines[2].removeprefix(_COMMENTS[1]), over_all


def _base64(text: bytes, length: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(raw) != length:
        raise ValueError(f"{len(raw)} bytes where {length} were needed")
    return raw

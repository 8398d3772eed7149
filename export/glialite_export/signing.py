"""Sign a bundle, and make the key for it, in minisign's format and in pure Python.

The arithmetic takes a time that depends on the key: sign on a computer of your own. A key here has no password; for one
with a password use minisign itself on the same ``bundle.json`` (``minisign -Sm bundle/bundle.json``).

Source: RFC 8032, section 5.1; minisign's manual, "Signature format" and "Secret key format".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glialite_runtime.bundle import MANIFEST, SIGNATURE, Bundle, read_bundle
from glialite_runtime.errors import ConfigError, OutputError
from glialite_runtime.files import replacing, write_bytes
from glialite_runtime.trust import ed25519
from glialite_runtime.trust.minisign import parse_public_key

__all__ = ["SecretKey", "make_keys", "public_line", "read_secret_key", "sign", "sign_bundle"]

_NO_PASSWORD: Final = b"Ed\0\0B2" + bytes(48)  # algorithms of signature, password and checksum; salt and its two limits


@dataclass(frozen=True, slots=True)
class SecretKey:
    """What signs.

    Attributes
    ----------
    number : bytes
        8 bytes that signatures name the key by.
    seed : bytes
        32 secret bytes, Ed25519's private key.
    """

    number: bytes
    seed: bytes


def _expanded(key: SecretKey) -> tuple[int, bytes, bytes]:
    """Return the secret scalar, the secret prefix and the public key."""
    digest = hashlib.sha512(key.seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    return scalar, digest[32:], ed25519.encode(ed25519.multiply(scalar, ed25519.BASE))


def _signature(key: SecretKey, message: bytes) -> bytes:
    scalar, prefix, public = _expanded(key)
    r = ed25519.hash_to_scalar(prefix, message)
    point = ed25519.encode(ed25519.multiply(r, ed25519.BASE))
    s = (r + ed25519.hash_to_scalar(point, public, message) * scalar) % ed25519.ORDER
    return point + s.to_bytes(32, "little")


def sign(key: SecretKey, content: bytes, comment: str, *, prehashed: bool = True) -> bytes:
    """Return the signature file of `content`; `comment` is one line and is signed, too.

    `prehashed` signs the content's BLAKE2b, as minisign does since 2019; without it, the content itself.
    """
    if "\n" in comment or "\r" in comment:
        raise ValueError("a comment is one line")
    signed = _signature(key, hashlib.blake2b(content).digest() if prehashed else content)
    over_all = _signature(key, signed + comment.encode())
    lines = (
        b"untrusted comment: signature of a GliaLite bundle",
        base64.b64encode((b"ED" if prehashed else b"Ed") + key.number + signed),
        b"trusted comment: " + comment.encode(),
        base64.b64encode(over_all),
    )
    return b"\n".join(lines) + b"\n"


def public_line(key: SecretKey) -> str:
    """Return the public key as one line of base64."""
    return base64.b64encode(b"Ed" + key.number + _expanded(key)[2]).decode()


def make_keys(stem: Path) -> tuple[Path, Path]:
    """Write a new pair of keys, ``<stem>.key`` (readable by its owner only) and ``<stem>.pub``; return both paths.

    Raises
    ------
    OutputError
        One of them is there already, or the folder cannot be written.
    """
    secret, public = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.pub")
    key = SecretKey(secrets.token_bytes(8), secrets.token_bytes(32))
    text = base64.b64encode(_NO_PASSWORD + key.number + key.seed + _expanded(key)[2] + bytes(32)).decode()
    number = key.number[::-1].hex().upper()
    try:
        if public.exists():
            raise FileExistsError(17, "it is there already", str(public))
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"untrusted comment: GliaLite secret key {number}\n{text}\n")
    except OSError as error:
        raise OutputError(f"cannot write the keys {stem}.*: {error.strerror or error}; choose another name") from error
    write_bytes(public, f"untrusted comment: GliaLite public key {number}\n{public_line(key)}\n".encode())
    return secret, public


def read_secret_key(path: Path) -> SecretKey:
    """Return the key of a file that `make_keys` or ``minisign -GW`` wrote.

    Raises
    ------
    ConfigError
        It is no such file, is damaged, or has a password.
    """
    try:
        raw = base64.b64decode(path.read_text(encoding="ascii").split("\n")[1], validate=True)
    except (OSError, ValueError, IndexError, binascii.Error) as error:
        raise ConfigError(f"{path} is not a secret key ({error}); make one: edge-export keygen") from error
    if raw[:4] == b"EdSc":
        raise ConfigError(f"{path} has a password; use minisign itself: minisign -Sm BUNDLE/{MANIFEST} -s {path}")
    key = SecretKey(raw[54:62], raw[62:94])
    if raw[:54] != _NO_PASSWORD or raw[94:126] != _expanded(key)[2]:
        raise ConfigError(f"{path} is damaged, or another kind of key; make one: edge-export keygen")
    return key


def sign_bundle(path: Path, key: SecretKey) -> Bundle:
    """Sign a bundle (folder or zip) in place and return it; a signature that it had is replaced.

    Raises
    ------
    BundleError
        It is no whole bundle.
    OutputError
        It cannot be written.
    """
    read_bundle(path, keys=())
    comment = f"timestamp:{int(time.time())}\tfile:{MANIFEST}\thashed"
    if path.is_dir():
        write_bytes(path / SIGNATURE, sign(key, (path / MANIFEST).read_bytes(), comment))
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        files[SIGNATURE] = sign(key, files[MANIFEST], comment)
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return read_bundle(path, keys=(parse_public_key(public_line(key), "this key"),))

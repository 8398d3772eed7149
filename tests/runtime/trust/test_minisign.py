"""Signature files of minisign: what is trusted, what is refused, and what is said of the rest."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from glialite_runtime.errors import BundleError, BundleIntegrityError
from glialite_runtime.trust import minisign
from glialite_runtime.trust.minisign import NOT_SIGNED, judge, parse_public_key, trusted_keys
from hypothesis import given, settings
from hypothesis import strategies as st

# Made by minisign itself: the public key of its manual, and two signatures of the file "test" of minisign-verify.
KEY = parse_public_key("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3", "example")
PREHASHED = b"""untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1633700835\tfile:test\tprehashed
wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==
"""
LEGACY = b"""untrusted comment: signature from minisign secret key
RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=
trusted comment: timestamp:1555779966\tfile:test
QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==
"""
OTHER = parse_public_key(base64.b64encode(b"Ed" + b"8 bytes!" + KEY.key).decode(), "other")


@pytest.mark.parametrize("signature", [PREHASHED, LEGACY, PREHASHED.replace(b"\n", b"\r\n"), PREHASHED[:-1]])
def test_what_minisign_signed_is_accepted(signature: bytes) -> None:
    """Both kinds, whatever the line ends, with the signer's name for the report."""
    assert judge(b"test", signature, (OTHER, KEY), "it") == "signed by example"


@pytest.mark.parametrize("signature", [PREHASHED, LEGACY])
def test_changed_content_is_refused(signature: bytes) -> None:
    """Exit code 4, and the sentence says that it was changed."""
    with pytest.raises(BundleIntegrityError, match="changed after it was signed") as caught:
        judge(b"Test", signature, (KEY,), "it")
    assert caught.value.exit_code == 4


def test_a_changed_trusted_comment_is_refused() -> None:
    """The comment is signed with the rest."""
    with pytest.raises(BundleIntegrityError, match="does not agree"):
        judge(b"test", PREHASHED.replace(b"1633700835", b"1733700835"), (KEY,), "it")


def test_another_algorithm_on_the_same_bytes_is_refused() -> None:
    """A signature of the hash is none of the content."""
    swapped = PREHASHED.replace(b"\nRUQf", b"\nRWQf")
    with pytest.raises(BundleIntegrityError, match="does not agree"):
        judge(b"test", swapped, (KEY,), "it")


def test_an_unknown_key_is_refused_where_keys_are_trusted() -> None:
    """The sentence names the key as minisign shows it, and whom the installation trusts."""
    with pytest.raises(BundleIntegrityError, match=r"E7620F1842B4E81F.*only what other signed"):
        judge(b"test", PREHASHED, (OTHER,), "it")


def test_no_signature_is_refused_where_keys_are_trusted() -> None:
    """Else whoever changes a bundle would only need to remove its signature."""
    with pytest.raises(BundleIntegrityError, match="is not signed"):
        judge(b"test", None, (KEY,), "it")


def test_without_trusted_keys_it_is_said_and_not_judged() -> None:
    """Reports say what is known: not signed, or signed with a key that cannot be checked here."""
    assert judge(b"test", None, (), "it") == NOT_SIGNED
    assert (
        judge(b"test", PREHASHED, (), "it")
        == "signed with the key E7620F1842B4E81F, which this installation cannot check"
    )


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"\n\n\n",
        b"\xff" * 200,
        PREHASHED[:-40],
        PREHASHED * 2,
        PREHASHED.replace(b"RUQf", b"R!Qf"),
        PREHASHED.replace(b"RUQf", b"AAQf"),
        PREHASHED.replace(b"trusted", b"believed"),
        PREHASHED + b"x" * 20000,
    ],
)
def test_a_malformed_signature_is_refused_in_any_case(signature: bytes) -> None:
    """Truncated, doubled, not base64, another algorithm, too long: a `BundleIntegrityError`, with and without keys."""
    for keys in ((), (KEY,)):
        with pytest.raises(BundleIntegrityError, match="damaged signature"):
            judge(b"test", signature, keys, "it")


@settings(max_examples=60, deadline=None)
@given(place=st.integers(54, len(PREHASHED) - 2), bit=st.integers(0, 7))
def test_any_flipped_bit_after_the_untrusted_comment_is_refused(place: int, bit: int) -> None:
    """Whatever it hits; base64 that decodes to the same bytes is the one exception."""
    changed = bytearray(PREHASHED)
    changed[place] ^= 1 << bit
    try:
        same = minisign._parse(bytes(changed)) == minisign._parse(PREHASHED)
    except ValueError:
        same = False
    if not same:
        with pytest.raises(BundleIntegrityError):
            judge(b"test", bytes(changed), (KEY,), "it")


@pytest.mark.parametrize("text", ["", "hello", base64.b64encode(b"XX" + bytes(40)).decode(), "RWQf6LRCGA9i53ml"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    """Empty, not base64, another algorithm, too short."""
    with pytest.raises(ValueError, match=r"base64|algorithm|bytes"):
        parse_public_key(text, "x")


def test_a_public_key_survives_its_text() -> None:
    """With and without the comment line that minisign writes."""
    assert parse_public_key(f"untrusted comment: minisign public key\n{KEY.text}\n", "example") == KEY


def test_the_installation_s_keys_are_readable() -> None:
    """The data file that ships is well-formed."""
    assert isinstance(trusted_keys(), tuple)


@pytest.mark.parametrize("content", ["", "[]", '{"a": "b"}', '{"a": 7}'])
def test_damaged_keys_stop_the_program(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that lost its keys must not go on as if it trusted none."""
    (tmp_path / minisign.TRUSTED_KEYS).write_text(content)
    monkeypatch.setattr(minisign, "__file__", str(tmp_path / "minisign.py"))
    with pytest.raises(BundleError, match="install GliaLite again"):
        trusted_keys()

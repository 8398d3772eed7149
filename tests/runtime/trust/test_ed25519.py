"""Ed25519 against the RFC's own vectors, and against everything that only looks like a signature."""

from __future__ import annotations

import pytest
from glialite_runtime.trust.ed25519 import BASE, ORDER, encode, multiply, verify

# RFC 8032, section 7.1: public key, message, signature of tests 1, 2, 3 and SHA(abc).
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]
KEY, MESSAGE, SIGNATURE = (bytes.fromhex(text) for text in VECTORS[1])
SMALL_ORDER = [
    (1).to_bytes(32, "little"),  # the neutral element
    (2**255 - 20).to_bytes(32, "little"),  # of order 2
    bytes(32),  # of order 4
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),  # of order 8
]


@pytest.mark.parametrize("vector", VECTORS, ids=["empty", "one byte", "two bytes", "SHA(abc)"])
def test_the_vectors_of_the_rfc(vector: tuple[str, str, str]) -> None:
    """What others signed is accepted."""
    assert verify(*(bytes.fromhex(text) for text in vector))


@pytest.mark.parametrize("place", [0, 17, 31, 32, 50, 62])
def test_a_changed_signature_is_refused(place: int) -> None:
    """A bit in either half."""
    changed = bytearray(SIGNATURE)
    changed[place] ^= 4
    assert not verify(KEY, MESSAGE, bytes(changed))


def test_another_message_or_key_is_refused() -> None:
    """The signature belongs to one message and one key."""
    assert not verify(KEY, b"s", SIGNATURE)
    assert not verify(bytes.fromhex(VECTORS[0][0]), MESSAGE, SIGNATURE)


def test_a_second_way_to_write_a_signature_is_refused() -> None:
    """By arithmetic s + order signs the same; only one of the two may pass."""
    s = int.from_bytes(SIGNATURE[32:], "little") + ORDER
    assert not verify(KEY, MESSAGE, SIGNATURE[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("key", SMALL_ORDER, ids=["1", "2", "4", "8"])
def test_keys_under_which_anything_seems_signed_are_refused(key: bytes) -> None:
    """With the neutral element as key, R = s·B is a signature of every message."""
    forged = encode(multiply(5, BASE)) + (5).to_bytes(32, "little")
    assert not verify(key, b"anything", forged)


@pytest.mark.parametrize(
    "key",
    [b"", b"\xff" * 32, KEY[:31], (2**255 - 18).to_bytes(32, "little"), (2).to_bytes(32, "little")],
    ids=["empty", "y too large", "short", "not canonical", "no point"],
)
def test_what_is_no_key_is_refused(key: bytes) -> None:
    """False, never an exception."""
    assert not verify(key, MESSAGE, SIGNATURE)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    """False, never an exception."""
    assert not verify(KEY, MESSAGE, (SIGNATURE * 2)[:length])


def test_the_generator_has_the_order() -> None:
    """ORDER · BASE is the neutral element."""
    assert encode(multiply(ORDER, BASE)) == SMALL_ORDER[0]

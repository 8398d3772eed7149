"""Signing: what we sign, the runtime and minisign itself accept, and the other way round."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from glialite_export.signing import SecretKey, _expanded, _signature, make_keys, read_secret_key, sign, sign_bundle
from glialite_runtime.bundle import MANIFEST, SIGNATURE, read_bundle
from glialite_runtime.errors import BundleIntegrityError, ConfigError, OutputError
from glialite_runtime.trust.minisign import judge, parse_public_key

MakeBundle = Callable[..., Path]

# RFC 8032, section 7.1, tests 1 and 3: private key, message, public key, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "af82",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


def minisign(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("minisign")
    if program is None:
        pytest.skip("minisign is absent: apt-get install minisign")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, input="")


@pytest.mark.parametrize(("seed", "message", "public", "signature"), VECTORS)
def test_the_vectors_of_the_rfc(seed: str, message: str, public: str, signature: str) -> None:
    """Keys and signatures come out to the byte."""
    key = SecretKey(bytes(8), bytes.fromhex(seed))
    assert _expanded(key)[2].hex() == public
    assert _signature(key, bytes.fromhex(message)).hex() == signature


@pytest.mark.parametrize("prehashed", [True, False])
def test_both_kinds_of_signature_are_accepted(prehashed: bool, tmp_path: Path) -> None:
    """Of the content's hash, and of the content."""
    secret, public = make_keys(tmp_path / "release")
    signature = sign(read_secret_key(secret), b"content", "a comment", prehashed=prehashed)
    key = parse_public_key(public.read_text(), "us")
    assert judge(b"content", signature, (key,), "it") == "signed by us"
    with pytest.raises(BundleIntegrityError):
        judge(b"contents", signature, (key,), "it")


def test_the_secret_key_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Nobody else on the computer can read it, and it is never overwritten."""
    secret, _ = make_keys(tmp_path / "release")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_bytes()
    with pytest.raises(OutputError, match="choose another name"):
        make_keys(tmp_path / "release")
    assert secret.read_bytes() == before


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_a_signed_bundle_is_read_where_the_key_is_trusted(make_bundle: MakeBundle, tmp_path: Path, name: str) -> None:
    """Its identity stays; another key refuses it; signing again is allowed."""
    secret, public = make_keys(tmp_path / "release")
    path = make_bundle(name)
    identity = read_bundle(path).identity
    for _ in range(2):
        sign_bundle(path, read_secret_key(secret))
    bundle = read_bundle(path, (parse_public_key(public.read_text(), "the makers"),))
    assert (bundle.signature, bundle.identity) == ("signed by the makers", identity)
    assert SIGNATURE not in bundle.files
    other = parse_public_key(make_keys(tmp_path / "other")[1].read_text(), "others")
    with pytest.raises(BundleIntegrityError, match="only what others signed"):
        read_bundle(path, (other,))


def test_a_damaged_bundle_is_not_signed(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A signature never covers what its maker did not mean."""
    path = make_bundle()
    (path / "MODEL_CARD.md").write_text("other")
    with pytest.raises(BundleIntegrityError):
        sign_bundle(path, read_secret_key(make_keys(tmp_path / "k")[0]))
    assert not (path / SIGNATURE).exists()


@pytest.mark.parametrize("content", ["", "one line", "a\n!!\n", "a\nAAAA\n", "a\nRWRTYwAA\n"])
def test_what_is_no_secret_key_is_refused(content: str, tmp_path: Path) -> None:
    """Exit code 2, and how to make one."""
    (tmp_path / "k").write_text(content)
    with pytest.raises(ConfigError, match=r"keygen|minisign"):
        read_secret_key(tmp_path / "k")


def test_a_damaged_secret_key_is_refused(tmp_path: Path) -> None:
    """Its public half must follow from it."""
    secret, _ = make_keys(tmp_path / "release")
    comment, text = secret.read_text().splitlines()
    secret.write_text(f"{comment}\n{text[:90]}{'A' if text[90] != 'A' else 'B'}{text[91:]}\n")
    with pytest.raises(ConfigError, match="damaged"):
        read_secret_key(secret)


def test_minisign_accepts_what_we_sign(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """The clinic may check a bundle with the well-known tool."""
    secret, public = make_keys(tmp_path / "release")
    path = make_bundle()
    sign_bundle(path, read_secret_key(secret))
    assert minisign("-Vm", path / MANIFEST, "-p", public).returncode == 0
    (path / MANIFEST).write_bytes(b" " + (path / MANIFEST).read_bytes())
    assert minisign("-Vm", path / MANIFEST, "-p", public).returncode != 0


def test_we_accept_what_minisign_signs(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """With a key of its own, and with one of ours."""
    path, public = make_bundle(), tmp_path / "m.pub"
    assert minisign("-GW", "-p", public, "-s", tmp_path / "m.key").returncode == 0
    ours = make_keys(tmp_path / "ours")
    for secret, known in ((tmp_path / "m.key", public), ours):
        assert minisign("-Sm", path / MANIFEST, "-s", secret).returncode == 0
        assert read_bundle(path, (parse_public_key(known.read_text(), "x"),)).signature == "signed by x"
    assert sign_bundle(path, read_secret_key(tmp_path / "m.key")).signature == "signed by this key"

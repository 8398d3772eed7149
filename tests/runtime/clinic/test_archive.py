"""Zips from strangers: nothing lands outside, nothing blows up, the reason is said."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from glialite_runtime.clinic import archive
from glialite_runtime.clinic.archive import unpack
from glialite_runtime.errors import InputError


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def test_files_and_folders_come_out_as_they_went_in(tmp_path: Path) -> None:
    """What a Mac adds is left out."""
    source = zipped(tmp_path / "a.zip", {"P1/t1.nii": b"one", "P1/deep/x": b"two", "__MACOSX/P1/._t1.nii": b"no"})
    unpack(source, tmp_path / "out")
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {"P1/t1.nii": b"one", "P1/deep/x": b"two"}


@pytest.mark.parametrize(
    "name",
    ["../out.txt", "a/../../b", "/etc/x", "C:x", "a\\..\\b", "a/b. ", "a\x07b", "d/" * 30 + "x", "é" * 150, "n?"],
)
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    """And nothing at all is taken from such an archive."""
    zipped(tmp_path / "a.zip", {"good.txt": b"1", name: b"2"})
    with pytest.raises(InputError, match="leave the folder"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    """A link out of the folder, and a file written through it."""
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(link, "/etc")
        made.writestr("link/passwd", "x")
    with pytest.raises(InputError, match="link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_one_name_twice_is_refused_in_any_case(tmp_path: Path) -> None:
    """On Windows the second would overwrite the first."""
    zipped(tmp_path / "a.zip", {"T1.nii": b"1", "t1.nii": b"2"})
    with pytest.raises(InputError, match="twice"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_too_many_files_and_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is inflated."""
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="5 files"):
        unpack(zipped(tmp_path / "a.zip", {str(n): b"1" for n in range(5)}), tmp_path / "out")
    with pytest.raises(InputError, match="more than"):
        unpack(zipped(tmp_path / "b.zip", {"x": bytes(2000)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_size_that_lies_is_found_out(tmp_path: Path) -> None:
    """The directory says 10 bytes; the content has 100 000: reading stops at what was said."""
    content = bytearray(zipped(tmp_path / "a.zip", {"x": bytes(100_000)}).read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 10)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*")) <= 10


def test_encrypted_unusual_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    """Flags in the directory, LZMA, every truncation, a file that is no zip."""
    path = zipped(tmp_path / "a.zip", {"x": b"abc" * 100, "y": b"d" * 100})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        unpack(path, tmp_path / "out")
    with pytest.raises(InputError, match="unusual"):
        unpack(zipped(tmp_path / "b.zip", {"x": b"abc"}, zipfile.ZIP_LZMA), tmp_path / "out")
    whole = zipped(tmp_path / "c.zip", {"x": b"abc" * 100, "y": b"d" * 100}).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "d.zip").write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            unpack(tmp_path / "d.zip", tmp_path / f"out{length}")
    with pytest.raises(InputError, match="empty"):
        unpack(zipped(tmp_path / "e.zip", {}), tmp_path / "out")


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    """Each byte in turn: the archive is refused in words, or what comes out has the right checksum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("P1/x", b"abcdefgh" * 20)
    for at in range(len(buffer.getvalue())):
        content = bytearray(buffer.getvalue())
        content[at] ^= 0x41
        (tmp_path / "a.zip").write_bytes(content)
        try:
            unpack(tmp_path / "a.zip", tmp_path / str(at))
        except InputError:
            continue
        assert {p.read_bytes() for p in (tmp_path / str(at)).rglob("*") if p.is_file()} == {b"abcdefgh" * 20}

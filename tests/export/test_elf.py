"""Which glibc a program needs, read from its files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from glialite_export.elf import glibc_of, needed_glibc

linux = pytest.mark.skipif(sys.platform != "linux", reason="ELF files are Linux's")
EXTENSION = Path(sys.modules["numpy._core._multiarray_umath"].__file__ or "")


@linux
def test_it_says_what_objdump_says() -> None:
    """For Python, and for numpy's largest extension."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is absent: apt-get install binutils")
    for path in (Path(sys.executable).resolve(), EXTENSION):
        told = subprocess.run(["objdump", "-p", str(path)], capture_output=True, text=True, check=True).stdout
        versions = [(int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", told)]
        assert glibc_of(path.read_bytes()) == max(versions)


@linux
def test_the_largest_of_a_folder_counts(tmp_path: Path) -> None:
    """And the file that asks for it is named."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "text").write_text("GLIBC_9.99")
    assert needed_glibc(tmp_path) is None
    shutil.copy(EXTENSION, tmp_path / "sub" / "x.so")
    version = glibc_of(EXTENSION.read_bytes())
    assert version is not None
    assert needed_glibc(tmp_path) == (f"{version[0]}.{version[1]}", tmp_path / "sub" / "x.so")


@linux
@pytest.mark.parametrize("length", [0, 4, 6, 40, 63, 64, 5000])
def test_a_truncated_file_needs_nothing(length: int) -> None:
    """None, never an exception."""
    assert glibc_of(EXTENSION.read_bytes()[:length]) is None


@linux
def test_lying_headers_do_no_harm() -> None:
    """Random bytes over the section table and its entries."""
    rng = np.random.default_rng(0)
    content = bytearray(EXTENSION.read_bytes())
    table = int.from_bytes(content[40:48], "little")
    for _ in range(20):
        lying = content.copy()
        lying[table : table + 2048] = rng.bytes(2048)
        glibc_of(bytes(lying[: len(content)]))

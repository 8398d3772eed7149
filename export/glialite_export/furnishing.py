"""What lies beside the program in its folder: a page for people, licences, the bill of materials, checksums."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Final

from glialite_runtime import __version__
from glialite_runtime.bundle import Bundle
from glialite_runtime.files import sha256_file, write_json

from glialite_export.sbom import Held, bill_of_materials, licence_files, parts_of

__all__ = ["BILL", "describe"]

BILL: Final = "sbom.cdx.json"
"""The bill of materials; its presence tells a folder of ours from somebody else's."""

_SUMS: Final = "SHA256SUMS"

_READ_ME: Final = """\
GliaLite {version} for {system}
Research use: decision support, not a diagnosis. Not a medical device.

Start     ./glialite --help          Try it    ./glialite selftest
Needs     a processor of 2008 or later{library}; no Python, no network, no installation.
Model     {bundle}: {trained_on}
Whole?    sha256sum --check --quiet {sums}

This folder may be read-only and may lie anywhere. Nothing is ever written into it: results go where --out says.
Upgrade: put the new folder beside this one and use that. Go back: use this one again.
What is in it, with versions and licences: {bill} and licenses/. The C library's version: ldd --version
"""


def describe(folder: Path, held: list[Held], bundle: Bundle, glibc: str | None) -> None:
    """Write licences, bill of materials, a page for people and, last, the checksums of everything."""
    parts = parts_of(held)
    for part in parts:
        for name, source in licence_files(part).items():
            target = folder / "licenses" / part.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    write_json(folder / BILL, bill_of_materials(parts, bundle, folder))
    library = f", glibc {glibc} or later and the C++ library (libstdc++)" if glibc else ""
    text = _READ_ME.format(
        version=__version__,
        system=f"{platform.system()} on {platform.machine()}",
        library=library,
        bundle=bundle.manifest.name,
        trained_on=bundle.manifest.trained_on,
        sums=_SUMS,
        bill=BILL,
    )
    (folder / "README.txt").write_text(text, encoding="utf-8")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = [f"{sha256_file(p)}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / _SUMS).write_text("".join(lines), encoding="utf-8")

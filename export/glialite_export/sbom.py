"""The software bill of materials of an executable: every part of it with version, licence and checksums.

Source: CycloneDX 1.6, JSON format (ECMA-424).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

from glialite_runtime import __version__
from glialite_runtime.bundle import Bundle
from glialite_runtime.files import sha256_file

__all__ = ["Held", "Part", "bill_of_materials", "licence_files", "parts_of"]

_LICENCES: Final = {
    "connected-components-3d": "LGPL-3.0-or-later",
    "dcm2niix": "BSD-3-Clause",
    "onnxruntime": "MIT",
    "pydicom": "MIT",
    "pyinstaller": "GPL-2.0-or-later WITH Bootloader-exception",
    "pyinstaller-hooks-contrib": "Apache-2.0 AND GPL-2.0-or-later",
    "pyjpegls": "MIT",
    "shellingham": "ISC",
}
"""SPDX expressions of distributions that state theirs in other words, read from their licence files."""

_SYSTEM: Final = {
    "libbz2": "bzip2-1.0.6",
    "libcrypto": "Apache-2.0",
    "libexpat": "MIT",
    "libffi": "MIT",
    "liblzma": "0BSD",
    "libssl": "Apache-2.0",
    "libuuid": "BSD-3-Clause",
    "libz": "Zlib",
}
"""SPDX expressions of the system's libraries that Python links to."""

_NOT_STATED: Final = "not stated"


@dataclass(frozen=True, slots=True)
class Held:
    """One file or module in the executable: what it is there, and the file that it was made from."""

    name: str
    source: Path


@dataclass(frozen=True, slots=True)
class Part:
    """Software that the executable holds.

    Attributes
    ----------
    name, version : str
        Of the distribution or library.
    licence : str
        SPDX expression.
    url : str
        Package URL (purl).
    files : tuple of str
        Names in the executable.
    distribution : Distribution, optional
        Where it was installed from; None for what pip did not install.
    """

    name: str
    version: str
    licence: str
    url: str
    files: tuple[str, ...]
    distribution: Distribution | None = None


def parts_of(held: Iterable[Held]) -> tuple[Part, ...]:
    """Return what software the files come from, by name: pip's distributions, Python itself, the system's libraries."""
    owners = _owners()
    by_owner: dict[str, list[str]] = {}
    known: dict[str, Part] = {}
    for item in held:
        part = _part(item, owners)
        known.setdefault(part.name, part)
        by_owner.setdefault(part.name, []).append(item.name)
    return tuple(
        Part(p.name, p.version, p.licence, p.url, tuple(sorted(by_owner[p.name])), p.distribution)
        for p in sorted(known.values(), key=lambda part: part.name.lower())
    )


def _owners() -> dict[str, Distribution]:
    return {
        os.path.normpath(str(found.locate_file(file))): found for found in distributions() for file in found.files or ()
    }


def _part(item: Held, owners: Mapping[str, Distribution]) -> Part:
    owner = owners.get(os.path.normpath(item.source))
    if owner is not None:
        name = owner.metadata["Name"]
        return Part(name, owner.version, _licence(owner), f"pkg:pypi/{name.lower()}@{owner.version}", (), owner)
    if Path(__file__).parents[2] in item.source.parents:
        return Part("glialite", __version__, "Apache-2.0", f"pkg:pypi/glialite@{__version__}", ())
    stem = item.source.name.split(".")[0]
    prefixes = {Path(sys.base_prefix).resolve(), Path(sys.base_prefix)}
    if prefixes & set(item.source.parents) or stem == "base_library":
        version = ".".join(str(n) for n in sys.version_info[:3])
        return Part("CPython", version, "Python-2.0", f"pkg:generic/cpython@{version}", ())
    package, version = _system_package(item.source)
    return Part(
        package or stem, version, _SYSTEM.get(stem, _NOT_STATED), f"pkg:generic/{package or stem}@{version}", ()
    )


def _licence(owner: Distribution) -> str:
    def stated(field: str) -> list[str]:
        return owner.metadata.get_all(field) or []

    spdx = stated("License-Expression") or [_LICENCES.get(owner.metadata["Name"].lower(), "")]
    classifiers = [c.rpartition(" :: ")[2] for c in stated("Classifier") if c.startswith("License :: OSI Approved :: ")]
    words = [text.split("\n")[0][:80] for text in stated("License")]
    return next((text for text in (*spdx, *classifiers, *words) if text), _NOT_STATED)


def _system_package(source: Path) -> tuple[str, str]:
    """Return name and version of the Debian package of a file; empty strings where that is unknown."""
    query = shutil.which("dpkg-query")
    if query is None:
        return "", ""
    for path in (source, source.resolve()):
        asked = [query, "--search", str(path)]
        owner = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split(": ")[0]  # noqa: S603
        if owner:
            asked = [query, "--show", "--showformat=${source:Package} ${source:Version}", owner]
            found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603
            return (found[0], found[1]) if len(found) == 2 else ("", "")
    return "", ""


def licence_files(part: Part) -> dict[str, Path]:
    """Return the licence texts and notices that a distribution brings: a plain name -> file."""
    found = {}
    for file in (part.distribution.files or ()) if part.distribution is not None else ():
        words = file.name.lower()
        if any(word in words for word in ("licen", "copying", "notice", "authors")) and file.suffix not in (
            ".py",
            ".pyc",
        ):
            path = Path(str(part.distribution.locate_file(file))) if part.distribution is not None else Path()
            if path.is_file():
                found["-".join(file.parts[-3:]).replace("..", "")] = path
    return found


def bill_of_materials(parts: Iterable[Part], bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Return the bill as a CycloneDX document; `folder` holds the files, whose checksums enter it."""
    components = [_component(part, folder) for part in parts]
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"bundle:{bundle.identity}",
        "name": bundle.manifest.name,
        "version": bundle.manifest.created,
        "description": bundle.manifest.trained_on,
        "hashes": [{"alg": "SHA-256", "content": bundle.identity}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {
                "type": "application",
                "bom-ref": "glialite-executable",
                "name": "glialite",
                "version": __version__,
                "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": [*components, model],
        "dependencies": [
            {"ref": "glialite-executable", "dependsOn": [component["bom-ref"] for component in (*components, model)]}
        ],
    }


def _component(part: Part, folder: Path) -> dict[str, Any]:
    stated = "expression" if " " not in part.licence or {"AND", "OR", "WITH"} & set(part.licence.split()) else "name"
    licences = [{"expression": part.licence} if stated == "expression" else {"license": {"name": part.licence}}]
    found = [name for name in part.files if (folder / name).is_file()]
    files = [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": sha256_file(folder / name)}]}
        for name in found
    ]
    return {
        "type": "library",
        "bom-ref": part.url,
        "name": part.name,
        "version": part.version,
        "licenses": licences,
        "purl": part.url,
        **({"components": files} if files else {}),
    }

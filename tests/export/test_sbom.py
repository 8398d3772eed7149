"""The bill of materials: every file has an owner, every owner a version and a licence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import typer
from glialite_export import sbom
from glialite_export.sbom import Held, bill_of_materials, licence_files, parts_of
from glialite_runtime.bundle import read_bundle
from glialite_runtime.files import sha256_file

EXTENSION = Path(sys.modules["numpy._core._multiarray_umath"].__file__ or "")
HELD = [
    Held("numpy", Path(np.__file__)),
    Held("_internal/numpy.so", EXTENSION),
    Held("nibabel", Path(nibabel.__file__)),
    Held("typer", Path(typer.__file__)),
    Held("glialite_export.sbom", Path(sbom.__file__)),
    Held("json", Path(json.__file__)),
    Held("_internal/libz.so.1", Path("/nowhere/libz.so.1")),
]


def test_files_are_gathered_by_what_they_come_from() -> None:
    """Distributions of pip, Python itself, our own modules, and a library of the system."""
    parts = {part.name: part for part in parts_of(HELD)}
    assert list(parts) == sorted(parts, key=str.lower)
    assert set(parts) == {"CPython", "glialite", "libz", "nibabel", "numpy", "typer"}
    assert parts["numpy"].files == ("_internal/numpy.so", "numpy")
    assert parts["numpy"].version == np.__version__
    assert parts["numpy"].url == f"pkg:pypi/numpy@{np.__version__}"
    assert parts["CPython"].version == sys.version.split()[0]


def test_every_part_states_a_licence() -> None:
    """As SPDX where that is known."""
    licences = {part.name: part.licence for part in parts_of(HELD)}
    assert "BSD-3-Clause" in licences.pop("numpy")
    assert licences == {
        "CPython": "Python-2.0",
        "glialite": "Apache-2.0",
        "libz": "Zlib",
        "nibabel": "MIT",
        "typer": "MIT",
    }


def test_licence_texts_come_along() -> None:
    """Of every distribution that brings one; none is a module that happens to be called so."""
    parts = {part.name: part for part in parts_of(HELD)}
    texts = licence_files(parts["numpy"])
    assert texts
    assert all(path.is_file() and path.suffix != ".py" and "/" not in name for name, path in texts.items())
    assert licence_files(parts["CPython"]) == {}


def test_the_document_is_cyclonedx(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    """Components with unique references, checksums of the files that are there, the model as a model."""
    (tmp_path / "_internal").mkdir()
    shutil.copy(EXTENSION, tmp_path / "_internal" / "numpy.so")
    bundle = read_bundle(make_bundle())
    document = json.loads(json.dumps(bill_of_materials(parts_of(HELD), bundle, tmp_path)))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    references = [component["bom-ref"] for component in document["components"]]
    assert len(set(references)) == len(references) == 7
    assert document["dependencies"][0]["dependsOn"] == references
    by_name = {component["name"]: component for component in document["components"]}
    assert by_name["numpy"]["components"] == [
        {
            "type": "file",
            "name": "_internal/numpy.so",
            "hashes": [{"alg": "SHA-256", "content": sha256_file(EXTENSION)}],
        }
    ]
    assert by_name["threshold"]["type"] == "machine-learning-model"
    assert by_name["threshold"]["hashes"][0]["content"] == bundle.identity
    assert all(by_name[name]["licenses"] for name in by_name if name != "threshold")


@pytest.mark.parametrize("licence", ["MIT", "MIT AND Zlib", "GPL-2.0-or-later WITH Bootloader-exception"])
def test_spdx_expressions_stay_expressions(licence: str, tmp_path: Path) -> None:
    """What is in other words is named, not passed off as SPDX."""
    part = sbom.Part("x", "1", licence, "pkg:generic/x@1", ())
    assert sbom._component(part, tmp_path)["licenses"] == [{"expression": licence}]
    named = sbom._component(sbom.Part("x", "1", "ISC License", "pkg:generic/x@1", ()), tmp_path)
    assert named["licenses"] == [{"license": {"name": "ISC License"}}]
